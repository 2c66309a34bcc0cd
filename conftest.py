"""For all tests and executed examples: tables as wide as they are, whatever runs them."""

import importlib.util
import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")  # of a process, whichever test or page imports Keras first
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Modules of a framework, and their examples, need that framework; so do pages.
SEVERAL = ["README.md", "docs/frameworks.md"]
PLACES = {
    "flax": ["src/seedbed/frameworks/flax/*", "docs/tutorial/flax-*.md", *SEVERAL],
    "keras": ["docs/tutorial/keras.md", *SEVERAL],
    "torch": [
        "src/seedbed/frameworks/torch/*",
        "docs/tutorial/*-*tion.md",
        "docs/tutorial/any-model.md",
        "docs/distributed.md",
        *SEVERAL,
    ],
    "mxnet": [
        "src/seedbed/frameworks/gluon/*",
        "tests/frameworks/houses/gluon.py",
        "tests/gluon",
        "docs/tutorial/gluon.md",
    ],
}
collect_ignore_glob = [
    place for package, places in PLACES.items() if not importlib.util.find_spec(package) for place in places
]

# Programs that tests run as processes of their own.
collect_ignore = ["tests/frameworks/eight_devices.py", "tests/frameworks/two_processes.py"]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
