"""Write docs/evidence/frameworks.md: what the tests of the frameworks said, scenario by scenario and network by network.

pytest --junitxml=PyTorch.xml tests/frameworks/test_torch_*.py        # one file for each column
python scripts/evidence/frameworks.py PyTorch.xml linen.xml nnx.xml ...
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.equality import EXACT, NETS, RECIPES  # noqa: E402 -- the folder of tests is not installed
from tests.frameworks.scenarios import SCENARIOS  # noqa: E402

PAGE = ROOT / "docs" / "evidence" / "frameworks.md"
HEAD = """# What the tests of the frameworks said

Made by `python scripts/evidence/frameworks.py` from the reports of the tests.

## Scenarios

Each number is that of the tests that passed; what failed or was left out would stand beside it.

"""
MIDDLE = """
## One start

The same network with the same recipe and seed, `streams="position"`: equal element by element to PyTorch's, to the bit
(`=`), or for orthogonal matrices to 1e-6 (`~`); *answers* agree to 1e-5.

"""


def results(path: str) -> Iterator[tuple[str, str]]:
    """Of each test, by its name: passed, failed or skipped."""
    for case in ET.parse(path).iter("testcase"):  # noqa: S314 -- written by pytest a moment ago
        kinds = {child.tag for child in case}
        yield (
            case.get("name"),
            "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed",
        )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def counted(said: Sequence[str]) -> str:
    """How many tests passed, and what else there was."""
    others = [f"{said.count(kind)} {kind}" for kind in ("failed", "skipped") if kind in said]
    return ", ".join([str(said.count("passed")), *others]) if said else "none"


def equal(said: Sequence[str], good: str) -> str:
    """One cell of the table of starts."""
    return "?" if not said else "failed" if set(said) != {"passed"} else good


def main(files: Sequence[str]) -> None:
    """Write the page."""
    columns: list[str] = []
    scenarios: dict[str, defaultdict[str, list[str]]] = {}
    starts: dict[str, defaultdict[tuple[str, str], list[str]]] = {}
    answers: dict[str, defaultdict[str, list[str]]] = {}
    for file in files:
        name = Path(file).stem
        columns.append(name)
        scenarios[name], starts[name], answers[name] = defaultdict(list), defaultdict(list), defaultdict(list)
        for test, verdict in results(file):
            if match := re.match(r"test_([ab]\d+)_", test):
                scenarios[name][match[1]].append(verdict)
            elif match := re.match(r"test_the_same_start_in_every_framework\[(\w+)-(\w+)\]", test):
                starts[name][match[1], match[2]].append(verdict)
            elif match := re.match(r"test_and_the_same_answers\[(\w+)\]", test):
                answers[name][match[1]].append(verdict)
    rows = [
        [f"{key.upper()} {text}", *(counted(scenarios[c][key]) for c in columns)] for key, text in SCENARIOS.items()
    ]
    page = HEAD + table(["scenario", *columns], rows) + MIDDLE
    rows = []
    for net in NETS:
        rows += [
            [net, recipe, *(equal(starts[c][net, recipe], "=" if recipe in EXACT else "~") for c in columns)]
            for recipe in RECIPES
        ]
        rows += [[net, "answers", *(equal(answers[c][net], "yes") for c in columns)]]
    PAGE.write_text(page + table(["network", "recipe", *columns], rows), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(SCENARIOS)} scenarios, {len(NETS)} networks, {len(columns)} columns")


if __name__ == "__main__":
    main(sys.argv[1:])
