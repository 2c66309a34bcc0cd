"""What one device owns of a parameter: along each axis, runs of the whole's places."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # NumPy is imported with the first number, not with the package
    from seedbed.region import Region

Run = tuple[int, int]
"""First place, and the one after the last."""


@dataclass(frozen=True)
class Shard:
    """What one device owns of a parameter; the runs of each axis lie side by side in its memory.

    Args:
        runs: For each axis, runs of the whole's places, in the order the device holds them.

    Example:
        >>> rows = Shard.whole((9, 5)).cut(0, 4, 2)  # the third of four devices
        >>> rows.runs, rows.shape
        ((((6, 9),), ((0, 5),)), (3, 5))
    """

    runs: tuple[tuple[Run, ...], ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Shard:
        """All of a parameter of this shape."""
        return cls(tuple(((0, n),) for n in shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of what the device holds."""
        return tuple(sum(b - a for a, b in runs) for runs in self.runs)

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def cut(self, axis: int, parts: int, which: int, *, pieces: int = 1) -> Shard:
        """The part of number `which` along one axis, of `parts`.

        All have ceil(size / parts) places but the last that have any, as `torch.chunk` has it, with empty
        ones after them.

        Args:
            axis: The axis that is cut.
            parts: Into how many.
            which: The number of the part, from 0.
            pieces: Cut the axis into so many pieces first, and each of them into parts: a part is what
                the pieces have at its number, side by side.
        """
        taken: list[Run] = []
        for first, last in _chunks(self.shape[axis], pieces):
            a, b = _chunks(last - first, parts)[which]
            taken += _between(self.runs[axis], first + a, first + b)
        return Shard((*self.runs[:axis], tuple(_joined(taken)), *self.runs[axis + 1 :]))

    def boxes(self) -> Iterator[tuple[Region, Region]]:
        """The boxes it is made of: where each lies in the whole, and where in the device's memory."""
        from seedbed.region import Region

        if not self.count:
            return
        placed = []
        for runs in self.runs:
            ends = [0, *itertools.accumulate(b - a for a, b in runs)]
            placed.append(list(zip(runs, itertools.pairwise(ends), strict=True)))
        for box in itertools.product(*placed):
            there, here = zip(*box, strict=True) if box else ((), ())
            first, second = ([(a for a, _ in runs), (b for _, b in runs)] for runs in (there, here))
            yield Region(*map(tuple, first)), Region(*map(tuple, second))

    def blocks(self, most: int) -> Iterator[tuple[Region, Region]]:
        """The same, in blocks of at most `most` elements."""
        from seedbed.region import blocks

        for there, here in self.boxes():
            for block in blocks(there.shape, most):
                yield block.moved(tuple(-n for n in there.start)), block.moved(tuple(-n for n in here.start))


def _chunks(size: int, parts: int) -> list[Run]:
    step = -(-size // parts)
    return [(min(n * step, size), min((n + 1) * step, size)) for n in range(parts)]


def _between(runs: tuple[Run, ...], first: int, last: int) -> list[Run]:
    """The places from the first to the last as the runs count them."""
    found, passed = [], 0
    for a, b in runs:
        low, high = max(first - passed, 0), min(last - passed, b - a)
        if low < high:
            found.append((a + low, a + high))
        passed += b - a
    return found


def _joined(runs: list[Run]) -> list[Run]:
    """Runs, those that go on from one another as one; an empty one where there is none."""
    made: list[Run] = []
    for a, b in runs:
        if made and made[-1][1] == a:
            made[-1] = (made[-1][0], b)
        else:
            made.append((a, b))
    return made or [(0, 0)]
