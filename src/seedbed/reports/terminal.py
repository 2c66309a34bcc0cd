"""Progress on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from seedbed.materialize import Progress as Report


@contextmanager
def bar(total: int, what: str) -> Iterator[Report]:
    """A bar on standard error, from 0 to `total` bytes."""
    console = Console(stderr=True)
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[path]}", style="dim"),
        console=console,
    )
    with shown:
        task = shown.add_task(what, total=total, path="")

        def report(path: str, done: int) -> None:
            shown.update(task, advance=done, path=path)

        yield report
        shown.update(task, completed=total, path="")
