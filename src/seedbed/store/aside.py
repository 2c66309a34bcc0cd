"""Files written beside their own names: one writer at a time, and nothing for good of one that was killed."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from seedbed.errors import OutputError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where a file that a process has open cannot be opened or replaced by another anyway
    fcntl = None

HELD = (errno.EAGAIN, errno.EACCES)
WITHOUT = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""What a file system says that has no locks."""
SEEKS = threading.Lock()
"""Held where a file has one position for all threads."""


def aside(final: Path, kind: str) -> Path:
    """The name beside a file's own; the same in every process, so that a restart finds what was left."""
    return final.with_name(f".{final.name}.{kind}")


class Aside:
    """A file open beside its own name, and locked.

    Args:
        final: Its own name.
        kind: One of the kinds that `Files.asides` knows.
        wait: Until another process is done with it.

    Raises:
        OutputError: Another process is writing it.
    """

    def __init__(self, final: Path, kind: str = "partial", *, wait: bool = False) -> None:
        self.final, self.path = final, aside(final, kind)
        descriptor = _locked(self.path, wait=wait)
        if descriptor is None:
            raise OutputError(
                f"{final}: another process is writing this file.",
                remedy="Wait until it is done; or, to write with several, tell each its number: process=(rank, of), "
                "on the command line\n    --process RANK/OF",
                path=str(final),
            )
        self.descriptor = descriptor
        os.ftruncate(descriptor, 0)

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, *_: object) -> None:
        """It goes, unless it was put into its place."""
        if self.descriptor < 0:
            return
        own = _same(self.descriptor, self.path)
        if fcntl is None:
            self._close()
        if own:
            self.path.unlink(missing_ok=True)
        if fcntl is not None:  # only now: another may lock it as soon as it is closed
            self._close()

    def write(self, data: bytes) -> None:
        """Write at the beginning."""
        put(self.descriptor, 0, memoryview(data))

    def leave(self) -> None:
        """Let it stand where it is, for good, and let go of it."""
        os.fsync(self.descriptor)
        self._close()

    def place(self) -> None:
        """Give it its own name, for good."""
        os.fsync(self.descriptor)
        if fcntl is None:
            self._close()
        os.replace(self.path, self.final)
        sync(self.final.parent)

    def _close(self) -> None:
        os.close(self.descriptor)
        self.descriptor = -1


def put(descriptor: int, place: int, data: memoryview) -> None:
    """Write bytes at a place of a file; several threads may."""
    while data:
        if hasattr(os, "pwrite"):
            count = os.pwrite(descriptor, data, place)
        else:
            with SEEKS:
                os.lseek(descriptor, place, os.SEEK_SET)
                count = os.write(descriptor, data)
        data, place = data[count:], place + count


def held(path: Path) -> bool:
    """Whether a process is writing this file."""
    try:
        with _unlocked(path):
            return False
    except BlockingIOError:
        return True
    except OSError:  # it is gone
        return False


def sweep(paths: Iterable[Path]) -> None:
    """Remove what nobody is writing."""
    for path in paths:
        with contextlib.suppress(OSError), _unlocked(path):  # another's, or gone: it is in nobody's way
            path.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Make the names in a folder last."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _unlocked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that nobody else holds."""
    descriptor = None if fcntl is None else _locked(path, make=False)
    if fcntl is not None and descriptor is None:
        raise BlockingIOError
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _locked(path: Path, *, wait: bool = False, make: bool = True) -> int | None:
    """Open a file, of which the lock is then held; None where another has it.

    Between the two steps the name may have gone, or been given to another file: then again.
    """
    flags = os.O_RDWR | (os.O_CREAT if make else 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            if _lock(descriptor, wait=wait) and _same(descriptor, path):
                descriptor, found = -1, descriptor
                return found
            if _same(descriptor, path):
                return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (*HELD, *WITHOUT):
            raise
        return error.errno in WITHOUT
    return True


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
