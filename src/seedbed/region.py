"""Boxes inside a parameter, and how a whole is cut into them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedbed.errors import RegionError, quoted
from seedbed.spec import Layout


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


def laid(
    layout: Layout, sizes: tuple[int, ...], region: Region, out: NDArray[Any]
) -> Iterator[tuple[Region, NDArray[Any]]]:
    """Where a region of a framework's array lies in the canonical whole: boxes, with the places of their values.

    Each place is to be filled before the next is asked for.

    Args:
        layout: How the array lies in the canonical one.
        sizes: The array's shape.
        region: A box inside it.
        out: An array of the region's shape.
    """
    groups = layout.groups(len(sizes))
    flat = [axis for group in groups for axis in group]
    turned = out.transpose(flat)
    walked: list[
        int
    ] = []  # what lies before the last axis that is cut; the axes after it are whole, and one run with it
    for group in groups:
        cut = [place for place, axis in enumerate(group) if region.shape[axis] != sizes[axis]]
        walked += group[: cut[-1]] if cut else ()
    for step in np.ndindex(*(region.shape[axis] for axis in walked)):
        at = dict(zip(walked, step, strict=True))
        view = turned[tuple(slice(at[a], at[a] + 1) if a in at else slice(None) for a in flat)]
        start = tuple(_place(group, region, sizes, at) for group in groups)
        shape = tuple(math.prod(1 if a in at else region.shape[a] for a in group) for group in groups)
        made = view.reshape(shape)
        for box, rows in _in_blocks(layout, sizes, start, shape):
            yield box, made[rows] if shape else made
        if made.size and not np.may_share_memory(made, view):  # strides that no single axis has
            view[...] = made.reshape(view.shape)


def _place(group: tuple[int, ...], region: Region, sizes: tuple[int, ...], at: Mapping[int, int]) -> int:
    """Where the box begins along a canonical axis."""
    place = 0
    for axis in group:
        place = place * sizes[axis] + region.start[axis] + at.get(axis, 0)
    return place


def _in_blocks(
    layout: Layout, sizes: tuple[int, ...], start: tuple[int, ...], shape: tuple[int, ...]
) -> Iterator[tuple[Region, slice]]:
    """A box of the canonical array as boxes of the whole, with the rows of the box that each holds."""
    stop = tuple(a + n for a, n in zip(start, shape, strict=True))
    if not layout.blocks:
        yield Region(start, stop), slice(None)
        return
    height = math.prod(sizes[axis] for axis in layout.groups(len(sizes))[0]) // len(layout.blocks)
    row = start[0]
    while row < stop[0]:
        number = row // height
        end = min((number + 1) * height, stop[0])
        moved = (layout.blocks[number] - number) * height
        yield Region((row + moved, *start[1:]), (end + moved, *stop[1:])), slice(row - start[0], end - start[0])
        row = end
