"""Stage 6a: the driver. Fills a plan's entries block by block, on several threads; knows no framework."""

from __future__ import annotations

import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

from seedbed.errors import InputError
from seedbed.plan import Entry
from seedbed.spec import ITEMSIZE

if TYPE_CHECKING:  # NumPy is imported with the first number, not with the package
    from concurrent.futures import Future

    from seedbed.region import Region
    from seedbed.shard import Shard

    Piece = tuple["Job", Region, Region]

BLOCK = 1 << 20
"""Elements of a large parameter handed to a thread at a time."""
SHARE = 1 << 18
"""Elements of small parameters handed to a thread together: handing over costs as much as filling some 30,000."""
LARGE = 1 << 21
"""Bytes of a large page."""

Task = TypeVar("Task")
Made = TypeVar("Made")
Owner = TypeVar("Owner")

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


class Job(NamedTuple):
    """Values to make, and where they go.

    Attributes:
        entry: What decides them.
        destination: Where they go; its regions are counted in its own memory.
        shard: What that memory holds of the whole; None for all of it.
    """

    entry: Entry
    destination: Destination
    shard: Shard | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the values to make."""
        spec = self.entry.spec
        return spec.nbytes if self.shard is None else self.shard.count * ITEMSIZE[spec.dtype]


def run(
    jobs: Iterable[Job],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Fill every destination with its entry's values.

    The values do not depend on the number of threads. At most two blocks a thread are held at once.
    When it is interrupted, blocks not yet begun are dropped and the exception goes on.

    Args:
        jobs: What to make, and where it goes.
        threads: How many; by default this process's share of the machine's processors.
        progress: Told after each block.
    """
    from seedbed.fill import fill, pieces

    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise InputError(f"threads: must be a whole number, 1 or more, got {threads!r}.")

    def filled(task: tuple[list[Piece], list[Any]]) -> list[Any]:
        share, places = task
        made = [fill(job.entry, there, place) for (job, there, _), place in zip(share, places, strict=True)]
        for (job, _, here), values in zip(share, made, strict=True):
            if hasattr(job.destination, "take"):
                job.destination.take(here, values)
        return made

    def done(task: tuple[list[Piece], list[Any]], made: list[Any]) -> None:
        for (job, _, here), values in zip(task[0], made, strict=True):
            job.destination.done(here, values)
            if progress:
                progress(job.entry.spec.path, values.nbytes)

    blocks = ((job, there, here) for job in jobs for there, here in pieces(job.entry, BLOCK, job.shard))
    tasks = ((share, [job.destination.block(here) for job, _, here in share]) for share in shares(blocks))
    abreast(tasks, filled, done, threads or processors())


def abreast(
    tasks: Iterable[Task], work: Callable[[Task], Made], done: Callable[[Task, Made], None], threads: int
) -> None:
    """Work on several threads, and be done with it in order on this one; at most two tasks a thread are held at once."""
    from concurrent.futures import ThreadPoolExecutor

    waiting: deque[tuple[Task, Future[Made]]] = deque()
    coming = iter(tasks)

    def finish() -> None:
        task, future = waiting.popleft()
        done(task, future.result())

    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                if len(waiting) >= 2 * threads:
                    finish()
                task = next(coming, None)
                if task is None:
                    break
                waiting.append((task, pool.submit(work, task)))
            while waiting:
                finish()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def processors() -> int:
    """The processors this process may use: where a launcher says how many run on this machine, its share."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, mine // int(beside)) if beside.isdecimal() and int(beside) else mine


def shares(blocks: Iterable[tuple[Owner, Region, Region]]) -> Iterator[list[tuple[Owner, Region, Region]]]:
    """Blocks in order, each with whose it is and its two places: a large one alone, small ones together."""
    share: list[tuple[Owner, Region, Region]] = []
    room = SHARE
    for block in blocks:
        count = math.prod(block[2].shape)
        if share and count > room:
            yield share
            share, room = [], SHARE
        share.append(block)
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
