"""Stage 6a: the driver. Fills a plan's entries block by block, on several threads; knows no framework."""

from __future__ import annotations

import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

from seedbed.errors import InputError
from seedbed.plan import Entry

if TYPE_CHECKING:  # NumPy is imported with the first number, not with the package
    from concurrent.futures import Future

    from seedbed.region import Region

    Piece = tuple[Entry, "Destination", Region]

BLOCK = 1 << 20
"""Elements of a large parameter handed to a thread at a time."""
SHARE = 1 << 18
"""Elements of small parameters handed to a thread together: handing over costs as much as filling some 30,000."""
LARGE = 1 << 21
"""Bytes of a large page."""

Progress = Callable[[str, int], None]
"""Called with a path and the bytes just done."""


Which = Literal["all", "known", "waiting"]
"""Everything; what is settled while other layers still wait; or those that waited, and nothing else."""


class Destination(Protocol):
    """Where one parameter's values go."""

    def block(self, region: Region) -> Any:
        """An array of the region's shape to fill; it may be the parameter's own memory."""

    def done(self, region: Region, values: Any) -> None:
        """Called once for each block, filled, in order, on the calling thread."""


class Taking(Destination, Protocol):
    """A destination that also has a method `take`; others need none."""

    def take(self, region: Region, values: Any) -> None:
        """Called before `done`, on the thread that filled the block, in no order."""


def run(
    jobs: Iterable[tuple[Entry, Destination]],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Fill every destination with its entry's values.

    The values do not depend on the number of threads. At most two blocks a thread are held at once.
    When it is interrupted, blocks not yet begun are dropped and the exception goes on.

    Args:
        jobs: Entries, and where they go.
        threads: How many; the machine's processors by default.
        progress: Told after each block.
    """
    from concurrent.futures import ThreadPoolExecutor

    from seedbed.fill import fill

    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise InputError(f"threads: must be a whole number, 1 or more, got {threads!r}.")
    threads = threads or os.cpu_count() or 1
    waiting: deque[tuple[list[Piece], Future[list[Any]]]] = deque()

    def filled(share: list[Piece], places: list[Any]) -> list[Any]:
        made = [fill(entry, region, place) for (entry, _, region), place in zip(share, places, strict=True)]
        for (_, destination, region), values in zip(share, made, strict=True):
            if hasattr(destination, "take"):
                destination.take(region, values)
        return made

    def finish() -> None:
        share, future = waiting.popleft()
        for (entry, destination, region), values in zip(share, future.result(), strict=True):
            destination.done(region, values)
            if progress:
                progress(entry.spec.path, values.nbytes)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for share in _shares(jobs):
                if len(waiting) >= 2 * threads:
                    finish()
                places = [destination.block(region) for _, destination, region in share]
                waiting.append((share, pool.submit(filled, share, places)))
            while waiting:
                finish()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _shares(jobs: Iterable[tuple[Entry, Destination]]) -> Iterator[list[Piece]]:
    """Blocks in order: a large one alone, small ones together."""
    from seedbed.fill import pieces

    share: list[Piece] = []
    room = SHARE
    for entry, destination in jobs:
        for region in pieces(entry, BLOCK):
            count = math.prod(region.shape)
            if share and count > room:
                yield share
                share, room = [], SHARE
            share.append((entry, destination, region))
            room -= count
    if share:
        yield share


def advise(address: int, size: int) -> None:
    """Ask for large pages for memory not touched yet: to touch it first then takes about a third as long.

    A hint, and one of Linux alone. The system puts large pages only where they fit inside the memory
    asked for, so that no more is held than without.

    Args:
        address: Where the memory begins.
        size: In bytes; nothing is done below `LARGE`.
    """
    if size < LARGE or sys.platform != "linux":
        return
    import ctypes
    import mmap

    try:
        madvise, hint = ctypes.CDLL(None).madvise, mmap.MADV_HUGEPAGE
    except (OSError, AttributeError):  # a C library or a kernel without it
        return
    first = address - address % mmap.PAGESIZE
    madvise(ctypes.c_void_p(first), ctypes.c_size_t(address + size - first), hint)
