"""Columns of text that fit the terminal; knows nothing of what they say."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

SMALLEST = 8
MANY = 40
ENDLESS = 10_000


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """Rows under a heading, no line longer than `width`: the terminal's by default, endless when there is none.

    Columns that say nothing are left out. The widest give way first; what is cut shows an ellipsis, paths
    in their middle.

    Example:
        >>> print(table(["path", "shape"], [["fc.weight", "(2, 3)"]], width=80))
        path       shape
        ─────────  ──────
        fc.weight  (2, 3)
    """
    width = width or _terminal()
    said = [not rows or any(row[i] for row in rows) for i in range(len(head))]
    cells = [[_line(cell) for cell, keep in zip(row, said, strict=True) if keep] for row in (head, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > SMALLEST:
        widths[widths.index(max(widths))] -= 1
    lines = [
        "  ".join(_cut(c, w, not i) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip() for row in cells
    ]
    rule = "  ".join("─" * w for w in widths)
    return "\n".join(_cut(line, width, False).rstrip() for line in (lines[0], rule, *lines[1:]))


def _terminal() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else ENDLESS


def _line(cell: str) -> str:
    """The cell, without line breaks or other control characters that a name may hold."""
    return cell if cell.isprintable() else ascii(cell)[1:-1]


def _cut(cell: str, width: int, path: bool) -> str:
    if len(cell) <= width:
        return cell.ljust(width)
    end = (width - 1) * 2 // 3 if path else 0
    return cell[: width - 1 - end] + "…" + cell[len(cell) - end :]


def fold(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows that differ only in one number of their path, written as one.

    The first cell is the path. Order is that of the first row of each group.

    Example:
        >>> fold([["h.0.w", "(2,)"], ["h.1.w", "(2,)"], ["h.2.w", "(2,)"], ["end.w", "(2,)"]])
        [['h.{0-2}.w', '(2,)'], ['end.w', '(2,)']]
    """
    result = [list(row) for row in rows]
    depth = max((row[0].count(".") + 1 for row in result), default=0)
    for position in range(depth):
        groups: dict[tuple[str, ...], list[list[str]]] = {}
        for row in result:
            groups.setdefault((_without(row[0], position), *row[1:]), []).append(row)
        result = []
        for group in groups.values():
            first = group[0]
            if len(group) > 1:
                parts = first[0].split(".")
                parts[position] = "{" + _ranges([int(r[0].split(".")[position]) for r in group]) + "}"
                first = [".".join(parts), *first[1:]]
            result.append(first)
    return result


def _without(path: str, position: int) -> str:
    """The path with the number at a position left out; the path itself where there is none."""
    parts = path.split(".")
    if position < len(parts) and parts[position].isdecimal() and parts[position] == str(int(parts[position])):
        parts[position] = "#"
    return ".".join(parts)


def _ranges(numbers: Sequence[int]) -> str:
    ranges: list[list[int]] = []
    for n in sorted(numbers):
        if ranges and ranges[-1][1] == n - 1:
            ranges[-1][1] = n
        else:
            ranges.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def size(count: int) -> str:
    """A count of bytes as people read it.

    Example:
        >>> size(497759232), size(80)
        ('497.8 MB', '80 B')
    """
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def numbers(who: Sequence[int]) -> str:
    """Whole numbers in order, runs of them short.

    Example:
        >>> numbers([0, 1, 2, 5])
        '0-2, 5'
    """
    runs: list[list[int]] = []
    for n in who:
        if runs and runs[-1][-1] == n - 1:
            runs[-1][1:] = [n]
        else:
            runs.append([n])
    return ", ".join("-".join(map(str, run)) for run in runs)
