"""Arrays that hold several logical parameters: each is filled in its own place, as the parameter that it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedbed.plan import Entry
from seedbed.region import Region


def within(entry: Entry, region: Region, out: NDArray[Any]) -> Iterator[tuple[Entry, Region, NDArray[Any]]]:
    """The logical parameters that a region has elements of: each one's region, and the place of its values.

    Each place is to be filled before the next is asked for.

    Args:
        entry: Of the array.
        region: A box inside the array that is not empty.
        out: An array of the region's shape.
    """
    for cut, part in entry.parts:
        ahead, rank = cut.axis, len(region.start)
        origin, end = region.start[ahead], region.stop[ahead]
        first, last = cut.before(origin), cut.before(end)
        if first == last:
            continue
        starts = (*region.start[:ahead], first, *region.start[ahead + 1 :])
        stops = (*region.stop[:ahead], last, *region.stop[ahead + 1 :])
        if cut.every:
            along = np.arange(origin, end) % cut.every
            there: Any = np.flatnonzero((along >= cut.start) & (along < cut.stop))
        else:
            there = slice(first + cut.start - origin, last + cut.start - origin)
        there = (*(slice(None) for _ in range(ahead)), there)
        place = out[there]  # a copy where there are several runs
        axes = cut.axes(rank)
        left = tuple(axis - (cut.dropped and axis > ahead) for axis in axes)
        seen = (place.squeeze(ahead) if cut.dropped else place).transpose(left)
        yield part, Region(tuple(starts[axis] for axis in axes), tuple(stops[axis] for axis in axes)), seen
        if cut.every:
            out[there] = place


def runs(entry: Entry) -> Iterator[tuple[Region, bool]]:
    """Boxes that follow each other in memory and make up an entry, and whether each must be filled in one.

    A part that is computed as a whole is a run of its own where it lies in one piece, and is so computed
    once; where such parts lie between each other, the whole array is the only run.
    """
    shape = entry.spec.sizes
    first = entry.parts[0][0] if entry.parts else None
    if first is None or not entry.whole or first.every or math.prod(shape[: first.axis]) != 1:
        yield Region.whole(shape), entry.whole
        return
    axis = first.axis
    for cut, part in entry.parts:
        starts = (*(0 for _ in shape[:axis]), cut.start, *(0 for _ in shape[axis + 1 :]))
        yield Region(starts, (*shape[:axis], cut.stop, *shape[axis + 1 :])), part.whole
