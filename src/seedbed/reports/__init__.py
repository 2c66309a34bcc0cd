"""Plans, findings and progress as people see them. Reports decide nothing."""
