"""For all tests and executed examples: tables as wide as they are, whatever runs them."""

import importlib.util

import pytest

# Examples in the modules of a framework need that framework.
collect_ignore_glob = [] if importlib.util.find_spec("flax") else ["src/seedbed/frameworks/flax/*"]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
