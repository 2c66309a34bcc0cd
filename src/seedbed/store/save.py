"""A plan becomes files: each written aside, synced, and renamed when it is whole; the index last."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from seedbed.errors import OutputError, PlanError, count, shown
from seedbed.materialize import Progress
from seedbed.plan import Entry, Plan
from seedbed.store.aside import Aside, aside, held, sweep
from seedbed.store.exchange import exchange
from seedbed.store.files import GATE, PARTIAL, File, Files, files_of
from seedbed.store.names import ABOUT, NAMES
from seedbed.store.standing import refused
from seedbed.store.stream import Values, stream

Reporting = Callable[[int], AbstractContextManager["Progress | None"]]
"""Called with the bytes to be made; gives what is told after each block."""


def save(
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    shard_size: int,
    process: tuple[int, int] = (0, 1),
    replace: bool = False,
    kept: Values | None = None,
    threads: int | None = None,
    reporting: Reporting = lambda _: contextlib.nullcontext(),
) -> list[Path]:
    """Write every persistent parameter and buffer of a plan, or the part of one process.

    Args:
        plan: Its sizes settled.
        path: A file that ends in `.safetensors`, or a folder.
        shard_size: The largest number of bytes in one file, unless one parameter alone is larger.
        process: Which of how many; file n, from 0, is that of process n modulo how many.
        replace: Whether another model there may be replaced.
        kept: Where the values that the plan keeps are read.
        threads: How many.
        reporting: Gives what is told after each block.

    Returns:
        The files of this process; the index last, when all files are there.

    Raises:
        OutputError: The place cannot be written, or holds another model. What stood there before still does.
    """
    plan.require_known()
    target = Path(path)
    entries = [e for e in plan if e.spec.persistent]
    _storable(entries, kept)
    with _readable(target):
        folder, stem = _place(target)
        made = files_of(plan, entries, folder, stem, shard_size)
        others = made.others()
    rank, of = process
    if others and (not replace or of > 1):
        raise refused(target, made, others, replace=replace, several=of > 1)
    folders = [path for path in others if path.is_dir()]
    if folders:
        raise OutputError(
            f"{folders[0]}: is a folder, where a file is to be written.",
            remedy="Move it away, or give another place.",
            path=str(folders[0]),
        )
    own = made.files[rank::of]
    missing = [file for file in own if others or file.missing]
    with reporting(sum(file.made for file in missing)) as progress:

        def write(file: File, descriptor: int) -> None:
            stream(file, descriptor, kept=kept, threads=threads, progress=progress)

        if others:
            with _readable(target):
                exchange(made, write)
        else:
            with _readable(target, made), _folder(folder, alone=of == 1):
                _add(made, missing, write)
    with _readable(target, made):
        return _finish(made, own)


@contextlib.contextmanager
def _folder(folder: Path, *, alone: bool) -> Iterator[None]:
    """A folder that is there; one made for nothing goes again."""
    new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if new and alone:
            with contextlib.suppress(OSError):  # files that are whole stay in it
                folder.rmdir()
        raise


def _add(made: Files, missing: Sequence[File], write: Callable[[File, int], None]) -> None:
    """Write each file aside and give it its name as soon as it is whole."""
    for file in missing:
        with Aside(file.path, PARTIAL) as there:
            if file.missing:  # no other process with the same number was faster
                write(file, there.descriptor)
                if os.path.lexists(file.path) and not file.whole():
                    raise _changed(file.path, made)
                there.place()


def _finish(made: Files, own: Sequence[File]) -> list[Path]:
    """The index, once every file is there; any process may find that, and several at a time."""
    lost = [file for file in own if not file.whole()]
    if lost:
        raise _changed(lost[0].path, made)
    if not all(file.whole() for file in made.files):
        return [file.path for file in own]
    if made.indexed is not None and not made.index_whole():
        with Aside(made.index, PARTIAL, wait=True) as there:
            if not made.index_whole():
                there.write(made.indexed)
                there.place()
    left = made.asides()
    replacing = held(aside(made.index, GATE))
    sweep(p for p in left if not replacing or p.suffix == f".{PARTIAL}")
    return [*(file.path for file in own), *([made.index] if made.indexed is not None else [])]


def _changed(path: Path, made: Files) -> OutputError:
    return OutputError(
        f"{path}: something else was written there while this plan was.",
        facts=[f"expected  fingerprint {made.fingerprint}"],
        remedy="Let every process that writes there have the same plan and the same shard_size, and call again.",
        path=str(path),
    )


def _storable(entries: Sequence[Entry], kept: Values | None) -> None:
    for entry in entries:
        spec = entry.spec
        if spec.dtype not in NAMES or spec.path == ABOUT:
            what = f"the format has no {spec.dtype}" if spec.path != ABOUT else "the format keeps the name for itself"
            raise PlanError(
                f"{spec.path}: cannot be written to a safetensors file: {what}.",
                facts=[f"shape  {spec.shown_shape}", f"dtype  {spec.dtype}", f"layer  {spec.layer or '?'}"],
                remedy="Let the model have it as a buffer with persistent=False, or in another dtype.",
                path=spec.path,
            )
    without = [e.spec.path for e in entries if e.kept and kept is None]
    if without:
        raise PlanError(
            f"{without[0]}: the plan keeps the values it has, and no model was given to read them from.",
            facts=shown(without),
            remedy="Give the model, seedbed.write(plan, path, model=model), or a rule that starts it.",
            paths=tuple(without),
        )


def _place(target: Path) -> tuple[Path, str]:
    """The folder to write in and what the files' names begin with."""
    if "\0" in str(target):
        raise OutputError(f"{str(target)!r}: a path holds no NUL character.", path=str(target))
    single = target.suffix == ".safetensors"
    parent = target.parent
    if not parent.is_dir():
        raise OutputError(
            f"{target}: the folder {str(parent)!r} does not exist.",
            remedy=f"Make it first:\n    mkdir -p {parent}",
            path=str(target),
        )
    if target.is_dir() if single else target.is_file():
        raise OutputError(
            f"{target}: is a {'folder' if single else 'file'}.",
            remedy="Give a file that ends in .safetensors, or a folder.",
            path=str(target),
        )
    return (parent, target.stem) if single else (target, "model")


@contextlib.contextmanager
def _readable(target: Path, made: Files | None = None) -> Iterator[None]:
    """System errors of writing, as sentences."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        whole = sum(file.whole() for file in made.files) if made else 0
        left = (
            f"{count(whole, 'file is', 'files are')} whole and stay: make room there, and the same call goes on from them."
            if whole
            else "Nothing was left behind; what stood there before still does. Make room there, or give another place."
        )
        raise OutputError(
            f"{target}: cannot be written: {os.strerror(error.errno) if error.errno else error}.",
            remedy=left,
        ) from None
