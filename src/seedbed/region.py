"""Boxes inside a parameter, and how a whole is cut into them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from seedbed.errors import RegionError, quoted


@dataclass(frozen=True)
class Region:
    """A box inside a parameter: one start and one stop per axis.

    Raises:
        RegionError: A start or a stop is not a whole number.

    Example:
        >>> Region((2, 0), (4, 6)).shape
        (2, 6)
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("start", "stop"):
            ends = getattr(self, name)
            if type(ends) is tuple and all(type(n) is int for n in ends):
                continue
            try:
                plain = tuple(operator.index(n) for n in ends)  # NumPy's own overflow without a word
            except TypeError:
                raise RegionError(
                    f"Region: `{name}` must be a tuple of whole numbers, one per axis, got {quoted(ends)}."
                ) from None
            object.__setattr__(self, name, plain)

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Region:
        """The region that is all of a parameter of this shape."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """To index the whole with."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def within(self, shape: tuple[int, ...]) -> bool:
        """Whether it lies inside a parameter of this shape."""
        return len(self.start) == len(self.stop) == len(shape) and all(
            0 <= a <= b <= n for a, b, n in zip(self.start, self.stop, shape, strict=True)
        )

    def shared(self, other: Region) -> Region | None:
        """What two regions have in common, if anything."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return Region(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None

    def moved(self, origin: tuple[int, ...]) -> Region:
        """The same box, counted from `origin`."""
        start, stop = (tuple(a - o for a, o in zip(ends, origin, strict=True)) for ends in (self.start, self.stop))
        return Region(start, stop)


def blocks(shape: tuple[int, ...], most: int) -> Iterator[Region]:
    """Regions of at most `most` elements, contiguous, that together make up the whole, in order.

    Example:
        >>> [r.shape for r in blocks((5, 3), 6)]
        [(2, 3), (2, 3), (1, 3)]
    """
    if math.prod(shape) == 0:
        return
    axis, inner = 0, math.prod(shape)
    for axis, size in enumerate(shape):  # noqa: B007 -- the axis to cut is used below
        inner //= size
        if inner <= most:
            break
    else:
        yield Region.whole(shape)
        return
    step = max(1, most // inner)
    for outer in np.ndindex(*shape[:axis]):
        for first in range(0, shape[axis], step):
            start = (*outer, first, *(0 for _ in shape[axis + 1 :]))
            stop = (*(i + 1 for i in outer), min(first + step, shape[axis]), *shape[axis + 1 :])
            yield Region(start, stop)
