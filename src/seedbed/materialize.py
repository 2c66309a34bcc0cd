"""Stage 6a: the driver. Fills a plan's entries block by block, on several threads; knows no framework."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from seedbed.errors import InputError
from seedbed.plan import Entry

if TYPE_CHECKING:  # NumPy is imported with the first number, not with the package
    from concurrent.futures import Future

    from seedbed.fill import Region

BLOCK = 1 << 20
"""Elements handed to a thread at a time."""

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

    from seedbed.fill import fill, pieces

    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise InputError(f"threads: must be a whole number, 1 or more, got {threads!r}.")
    threads = threads or os.cpu_count() or 1
    waiting: deque[tuple[Entry, Destination, Region, Future[Any]]] = deque()

    def finish() -> None:
        entry, destination, region, future = waiting.popleft()
        values = future.result()
        destination.done(region, values)
        if progress:
            progress(entry.spec.path, values.nbytes)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for entry, destination in jobs:
                for region in pieces(entry, BLOCK):
                    if len(waiting) >= 2 * threads:
                        finish()
                    future = pool.submit(fill, entry, region, destination.block(region))
                    waiting.append((entry, destination, region, future))
            while waiting:
                finish()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
