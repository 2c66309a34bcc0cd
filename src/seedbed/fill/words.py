"""Random words of a region, by the C engine or by NumPy."""

from __future__ import annotations

import numpy as np

from seedbed import engine, threefry
from seedbed.plan import Key
from seedbed.region import Region


def words(
    key: Key, draw: int, shape: tuple[int, ...], region: Region, out: threefry.Words | None = None
) -> threefry.Words:
    """The words of a region: runs along the axes that it holds whole, and the one before them."""
    made = np.empty(region.shape, np.uint32) if out is None else out
    if engine.words(key, draw, shape, region.start, made):
        return made
    sizes, axis = region.shape, len(shape)
    length = 1
    while axis and (axis == len(shape) or sizes[axis] == shape[axis]):
        axis -= 1
        length *= sizes[axis]
    strides = np.cumprod([1, *shape[:0:-1]], dtype=np.int64)[::-1] if shape else np.ones(0, np.int64)
    first = sum(int(a * s) for a, s in zip(region.start, strides, strict=True))
    starts = np.array([first], np.int64)
    for size, stride in zip(sizes[:axis], strides[:axis], strict=True):
        starts = (starts[:, None] + np.arange(size, dtype=np.int64) * stride).reshape(-1)
    made[...] = threefry.runs(key, draw, starts, length).reshape(sizes)
    return made
