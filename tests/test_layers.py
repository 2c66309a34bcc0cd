"""The layout is a promise: who may import what. Read `ORDER` to learn the pipeline."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "seedbed"
ORDER = [
    "errors", "table", "initializers", "spec", "recipe", "plan", "threefry", "engine", "region", "shard", "fill", "materialize", "store", "check", "digest", "mesh",
]  # fmt: skip
EDGE = {"frameworks", "recipes", "reports", "verbs", "cli", "__main__"}
OUTSIDE = {
    "torch",
    "jax",
    "flax",
    "keras",
    "tensorflow",
    "mxnet",
    "paddle",
    "rich",
    "typer",
    "safetensors",
    "transformers",
}
MAY_IMPORT = {
    "frameworks/torch": {"torch"},
    "frameworks/flax": {"jax", "flax"},
    "frameworks/keras": {"keras", "jax", "tensorflow", "torch"},
    "frameworks/gluon": {"mxnet"},
    "reports": {"rich"},
    "cli": {"typer"},
}
# Imports inside functions that go against the order, each for a reason.
BACKWARD = {
    ("plan/entries.py", "seedbed"): "Plan.materialize calls the public verb",
    ("materialize.py", "seedbed.fill"): "ORDER has it earlier; NumPy is imported with the first number",
}
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [f.relative_to(PACKAGE).as_posix() for f in FILES]
LINES, FUNCTION = 400, 60


def imports(path):
    """Modules that a file imports, whole names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: write the whole name of the module"
            names = {f"{node.module}.{a.name}" for a in node.names}
            yield from (n for n in names if n.split(".")[1:2] and is_module(n))
            if not all(is_module(n) for n in names):
                yield node.module


def is_module(name):
    path = PACKAGE.parent / name.replace(".", "/")
    return path.is_dir() or any(path.with_suffix(s).is_file() for s in (".py", ".c"))


def stage(name):
    """Where a module of the package stands; None outside it."""
    parts = name.split(".")
    return parts[1].lstrip("_") if parts[0] == "seedbed" and len(parts) > 1 else None


def test_every_file_has_its_place_in_the_order():
    stages = {n.split("/")[0].removesuffix(".py") for n in NAMES}
    assert stages == {*ORDER, *EDGE, "__init__"}


@pytest.mark.parametrize("name", NAMES)
def test_only_the_edge_imports_a_framework(name):
    allowed = next((a for place, a in MAY_IMPORT.items() if name.startswith(place)), set())
    assert {m.split(".")[0] for m in imports(PACKAGE / name)} & OUTSIDE <= allowed


@pytest.mark.parametrize("name", [n for n in NAMES if n.split("/")[0].removesuffix(".py") in ORDER])
def test_a_stage_imports_only_earlier_stages(name):
    own = name.split("/")[0].removesuffix(".py")
    earlier = set(ORDER[: ORDER.index(own) + 1])
    found = {m for m in imports(PACKAGE / name) if m.split(".")[0] == "seedbed"}
    later = {m for m in found if (stage(m) or "seedbed") not in earlier and (name, m) not in BACKWARD}
    assert later == set()


def test_importing_the_package_imports_no_framework_and_no_numpy():
    code = f"import sys, seedbed; print(sorted({OUTSIDE | {'numpy'}!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_importing_the_package_takes_under_a_tenth_of_a_second(tmp_path):
    """Processor time, the best of ten, its bytecode compiled as an installer does it."""
    code = "import time; t = time.process_time(); import seedbed; print(time.process_time() - t)"
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPYCACHEPREFIX": str(tmp_path)
    }
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept)
        for _ in range(10)
    ]
    assert min(float(r.stdout) for r in runs) < 0.1


def test_that_the_proof_of_what_is_not_imported_can_fail():
    code = f"import sys, seedbed, rich; print(sorted({OUTSIDE!r} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "['rich']\n"
    )


@pytest.mark.parametrize("name", NAMES)
def test_files_and_functions_stay_short(name):
    text = (PACKAGE / name).read_text()
    assert text.count("\n") <= LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("name", NAMES)
def test_every_module_says_why_it_exists_and_leaves_nothing_to_do(name):
    text = (PACKAGE / name).read_text()
    assert ast.get_docstring(ast.parse(text))
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError\(\)", text)
    assert not re.search(r"(^|/)(utils?|helpers?|common|misc|base|manager)\.py$", name)
