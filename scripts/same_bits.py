"""Compare the C engine with NumPy, bit for bit, on random parameters, regions and layouts.

    python scripts/same_bits.py [cases] [seed] [--build NAME | --build all]

Every instruction set that the processor has is compared, each case on all. A build is the C file compiled
anew: with `--build sanitized`, for one, the process ends at the first access outside what it owns. The exit
code is 1 at the first difference, and a sentence names the case.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.cases import BUILDS, build, difference, draw_case, preloaded

from seedbed import engine

EVERY = 1000
"""Cases between two lines of progress."""


class Counted:
    """The C engine, and how often each instruction set was called."""

    def __init__(self, module: Any) -> None:
        self.names, self._module, self.calls = module.names, module, Counter[str]()

    def fill(self, name: str, *arguments: Any) -> None:
        """Fill, and count."""
        self.calls[name] += 1
        self._module.fill(name, *arguments)

    def sum(self, name: str, *arguments: Any) -> int:
        """Sum up, and count."""
        self.calls[name] += 1
        found: int = self._module.sum(name, *arguments)
        return found


def load(file: str) -> Any:
    """An extension from its file."""
    spec = importlib.util.spec_from_file_location("_engine", file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{file} is not an extension.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(cases: int, seed: int, name: str) -> str:
    """Compare so many cases; a sentence on the first difference, or nothing."""
    rng = np.random.default_rng(seed)
    counted = engine._engine = Counted(engine._engine)
    for done in range(cases):
        found = difference(draw_case(rng))
        if found:
            return f"{name}, case {done} of seed {seed}: {found}"
        if (done + 1) % EVERY == 0:
            print(f"{name}: {done + 1:,} of {cases:,} cases", flush=True)
    calls = ", ".join(f"{isa} {counted.calls[isa]:,}" for isa in engine.names())
    print(f"{name}: {cases:,} cases of seed {seed} give NumPy's bits on every instruction set; calls: {calls}.")
    return ""


def compare_build(name: str, cases: int, seed: int) -> int:
    """Compare in a process of its own, with the C file compiled anew."""
    with tempfile.TemporaryDirectory() as folder:
        made = build(BUILDS[name], folder)
        command = [sys.executable, __file__, str(cases), str(seed), "--file", str(made), "--name", name]
        kept = os.environ | preloaded(BUILDS[name])
        return subprocess.run(command, env=kept, check=False).returncode


def main() -> None:
    """Read the command line, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", type=int, nargs="?", default=10_000)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--build", choices=[*BUILDS, "all"], help="compile the C file anew; all: one after another")
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="as installed", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.build and asked.build != "all":
        raise SystemExit(compare_build(asked.build, asked.cases, asked.seed))
    if asked.file:
        engine._engine = load(asked.file)
    if not engine.names():
        raise SystemExit("The C engine was not built here: there is nothing to compare.")
    found = compare(asked.cases, asked.seed, asked.name)
    if found:
        raise SystemExit(found)
    if asked.build == "all":
        raise SystemExit(max(compare_build(name, asked.cases, asked.seed) for name in BUILDS))


if __name__ == "__main__":
    main()
