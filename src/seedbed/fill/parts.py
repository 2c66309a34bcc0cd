"""Arrays that hold several logical parameters: each is filled in its own place, as the parameter that it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from seedbed.plan import Entry
from seedbed.region import Region


def within(entry: Entry, region: Region, out: NDArray[Any]) -> Iterator[tuple[Entry, Region, NDArray[Any]]]:
    """The logical parameters that a region has elements of: each one's region, and the place of its values.

    Args:
        entry: Of the array.
        region: A box inside the array that is not empty.
        out: An array of the region's shape.
    """
    for cut, part in entry.parts:
        first, last = max(region.start[cut.axis], cut.start), min(region.stop[cut.axis], cut.stop)
        if first >= last:
            continue
        before, rank = cut.axis, len(region.start)
        starts = (*region.start[:before], first - cut.start, *region.start[before + 1 :])
        stops = (*region.stop[:before], last - cut.start, *region.stop[before + 1 :])
        origin = region.start[before]
        place = out[(slice(None),) * before + (slice(first - origin, last - origin),)]
        axes = cut.axes(rank)
        left = tuple(axis - (cut.dropped and axis > before) for axis in axes)
        place = (place.squeeze(before) if cut.dropped else place).transpose(left)
        yield part, Region(tuple(starts[axis] for axis in axes), tuple(stops[axis] for axis in axes)), place


def runs(entry: Entry) -> Iterator[tuple[Region, bool]]:
    """Boxes that follow each other in memory and make up an entry, and whether each must be filled in one.

    A part that is computed as a whole is a run of its own where it lies in one piece, and is so computed
    once; where such parts lie between each other, the whole array is the only run.
    """
    shape = entry.spec.sizes
    axis = entry.parts[0][0].axis if entry.parts else 0
    if not entry.parts or not entry.whole or math.prod(shape[:axis]) != 1:
        yield Region.whole(shape), entry.whole
        return
    for cut, part in entry.parts:
        starts = (*(0 for _ in shape[:axis]), cut.start, *(0 for _ in shape[axis + 1 :]))
        yield Region(starts, (*shape[:axis], cut.stop, *shape[axis + 1 :])), part.whole
