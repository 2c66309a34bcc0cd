"""JAX: the numbers, made where the arrays are."""
