"""One file's bytes, a few blocks in memory at a time; whoever fills a block writes it."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedbed.fill import storage_dtype
from seedbed.materialize import BLOCK, Job, Progress, Taking, run
from seedbed.plan import Entry
from seedbed.region import Region
from seedbed.spec import ITEMSIZE
from seedbed.store.aside import put
from seedbed.store.files import File

Values = Callable[[Entry], NDArray[Any]]
"""Gives the values of an entry that the plan keeps."""
SMALL = 1 << 16
"""Bytes of a block for which the memory of an earlier one is not worth looking for."""
PUSHED = 1 << 23
"""Bytes that the system is asked to carry to the disk together."""


def stream(file: File, descriptor: int, *, kept: Values | None, threads: int | None, progress: Progress | None) -> None:
    """Write a file's header and values, the room for them reserved first.

    Args:
        file: What it is to hold.
        descriptor: Open, and empty.
        kept: Where the values that the plan keeps are read.
        threads: As for `run`.
        progress: As for `run`.
    """
    _reserve(descriptor, file.size)
    put(descriptor, 0, memoryview(file.header))
    blocks = _Blocks(max((ITEMSIZE[e.spec.dtype] for e in file.entries), default=1) * BLOCK)
    jobs = []
    for entry in file.entries:
        where = _InFile(descriptor, entry, file.places[entry.spec.path], blocks)
        if not entry.kept:
            jobs.append(Job(entry, where))
        elif kept is not None and entry.spec.count:
            where.take(Region.whole(entry.spec.sizes), kept(entry))
    run(jobs, threads=threads, progress=progress)


class _Blocks:
    """Memory of blocks that are written, for the next: to touch new memory costs as much as to fill it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free: list[NDArray[np.uint8]] = []

    def block(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        needed = math.prod(shape) * dtype.itemsize
        if not SMALL <= needed <= self.size:
            return np.empty(shape, dtype)
        memory = self.free.pop() if self.free else np.empty(self.size, np.uint8)
        return memory[:needed].view(dtype).reshape(shape)

    def back(self, values: NDArray[Any]) -> None:
        memory = values.base
        if isinstance(memory, np.ndarray) and memory.dtype == np.uint8 and memory.shape == (self.size,):
            self.free.append(memory)


class _InFile(Taking):
    """A parameter's place in a file."""

    def __init__(self, descriptor: int, entry: Entry, place: int, blocks: _Blocks) -> None:
        self.descriptor, self.entry, self.place, self.blocks = descriptor, entry, place, blocks
        self.pushed = self.done_to = place

    def block(self, region: Region) -> NDArray[Any]:
        return self.blocks.block(region.shape, storage_dtype(self.entry.spec.dtype))

    def take(self, region: Region, values: NDArray[Any]) -> None:
        """Write a block; its elements follow one another in the file."""
        first = 0
        for at, size in zip(region.start, self.entry.spec.sizes, strict=True):
            first = first * size + at
        little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
        if little.size:
            put(self.descriptor, self.place + first * little.itemsize, little.reshape(-1).view(np.uint8).data)

    def done(self, region: Region, values: NDArray[Any]) -> None:
        """Have the system begin to carry it to the disk: at the end little is then left to wait for."""
        self.blocks.back(values)
        self.done_to += values.nbytes
        if self.done_to - self.pushed >= PUSHED and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, self.pushed, self.done_to - self.pushed, os.POSIX_FADV_DONTNEED)
            self.pushed = self.done_to


def _reserve(descriptor: int, size: int) -> None:
    """Find a full disk now, not at the end."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # a file system that cannot tell
                raise
