"""The acceptance scenarios, and the systems that each is told in: a missing one is a failing test."""

import ast
from pathlib import Path

HERE = Path(__file__).parents[1]

SCENARIOS = {
    "a1": "an MLP with output sizes only",
    "a2": "a look at the first weight before any data",
    "a3": "a value read too early",
    "a4": "a wish before shapes are known",
    "a5": "the sizes after data has passed",
    "a6": "sizes settled without data",
    "a7": "apply_init",
    "a8": "parameters returned, the model unchanged",
    "a9": "the resolution of images decides later layers",
    "a10": "sizes given for the first layer only",
    "a11": "sizes that do not fit",
    "a12": "inputs of varying sizes, tied parameters",
    "b1": "every layer's weight normal, bias 0",
    "b2": "every parameter the constant 1",
    "b3": "rules by block",
    "b4": "a distribution of one's own",
    "b5": "values set directly",
    "b6": "the framework's own initializers",
}
SYSTEMS = {
    "PyTorch": "frameworks/test_torch_scenarios.py",
    "linen": "frameworks/test_linen_scenarios.py",
    "nnx": "frameworks/test_nnx_scenarios.py",
    "Keras": "keras/test_keras_scenarios.py",
    "Gluon": "gluon/test_gluon_scenarios.py",
}
PAGES = {
    "PyTorch": ("lazy-initialization.md", "parameter-initialization.md"),
    "linen": ("flax-linen.md",),
    "nnx": ("flax-nnx.md",),
    "Keras": ("keras.md",),
    "Gluon": ("gluon.md",),
}


def told(system):
    """The tests of each scenario in a system."""
    tree = ast.parse((HERE / SYSTEMS[system]).read_text(encoding="utf-8"))
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {key: [n for n in names if n.startswith(f"test_{key}_")] for key in SCENARIOS}


def headings(system):
    """The headings of the scenarios on a system's pages of the tutorial, in order; those beyond them left out."""
    folder = HERE.parent / "docs" / "tutorial"
    lines = [line for page in PAGES[system] for line in (folder / page).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.startswith("## ") and line[3:].partition(".")[0].lower() in SCENARIOS]
