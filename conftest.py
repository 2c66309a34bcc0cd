"""For all tests and executed examples: tables as wide as they are, whatever runs them."""

import importlib.util

import pytest

# Modules of a framework, and their examples, need that framework.
PLACES = {
    "flax": ["src/seedbed/frameworks/flax/*"],
    "torch": ["src/seedbed/frameworks/torch/*"],
    "mxnet": ["src/seedbed/frameworks/gluon/*", "tests/frameworks/houses/gluon.py", "tests/gluon"],
}
collect_ignore_glob = [
    place for package, places in PLACES.items() if not importlib.util.find_spec(package) for place in places
]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
