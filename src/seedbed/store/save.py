"""A plan becomes files: written aside, synced, and renamed when all are whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from seedbed.errors import OutputError, PlanError, shown
from seedbed.fill import storage_dtype
from seedbed.materialize import Destination, Job, Progress, run
from seedbed.plan import Entry, Plan
from seedbed.region import Region
from seedbed.spec import ITEMSIZE
from seedbed.store.names import ABOUT, FORMAT, NAMES

Values = Callable[[Entry], NDArray[Any]]
"""Gives the values of an entry that the plan keeps."""


def save(
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    shard_size: int,
    kept: Values | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write every persistent parameter and buffer of a plan.

    Args:
        plan: Its sizes settled.
        path: A file that ends in `.safetensors`, or a folder.
        shard_size: The largest number of bytes in one file, unless one parameter alone is larger.
        kept: Where the values that the plan keeps are read.
        threads: How many.
        progress: Told after each block.

    Returns:
        The files, the index last.

    Raises:
        OutputError: The place cannot be written. What stood there before still does.
    """
    plan.require_known()
    target = Path(path)
    entries = [e for e in plan if e.spec.persistent]
    _storable(entries, kept)
    with _readable(target):
        folder, stem = _place(target)
    shards = _shards(entries, shard_size)
    names = [f"{stem}-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    names = [f"{stem}.safetensors"] if len(shards) == 1 else names
    index = folder / f"{stem}.safetensors.index.json"
    made = not folder.exists()
    aside: list[tuple[Path, Path]] = []
    try:
        with _readable(target):
            folder.mkdir(exist_ok=True)
            for name, shard in zip(names, shards, strict=True):
                aside.append((_aside(folder / name, "partial"), folder / name))
                _write(aside[-1][0], shard, plan, kept, threads, progress)
            if len(shards) > 1:
                aside.append((_aside(index, "partial"), index))
                _index(aside[-1][0], names, shards)
            _replace(aside, [index, folder / f"{stem}.safetensors", *_shards_of(index)])
            _sync(folder)
    except BaseException:
        for partial, _ in aside:
            partial.unlink(missing_ok=True)
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    return [final for _, final in aside]


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


def _aside(final: Path, kind: str) -> Path:
    return final.with_name(f".{final.name}.{os.getpid()}.{kind}")


def _shards_of(index: Path) -> list[Path]:
    """The files of an earlier checkpoint, as its index names them."""
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        own = re.compile(re.escape(index.name.removesuffix(".safetensors.index.json")) + r"-\d+-of-\d+\.safetensors")
        return [index.parent / name for name in sorted(names) if own.fullmatch(name)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _replace(made: Sequence[tuple[Path, Path]], earlier: Sequence[Path]) -> None:
    """Put new files in the place of an earlier checkpoint of the same name: all of them, or none.

    The earlier index goes first and the new one comes last, so that a folder with an index is whole at
    any moment.
    """
    held: list[tuple[Path, Path]] = []
    placed: list[Path] = []
    try:
        if len(made) > 1 or any(p.name.endswith(".json") and p.exists() for p in earlier):
            for old in dict.fromkeys((*earlier, *(final for _, final in made))):
                if old.is_file():
                    held.append((_aside(old, "earlier"), old))
                    os.replace(old, held[-1][0])
        for partial, final in made:
            placed.append(final)
            os.replace(partial, final)
    except BaseException:
        for final in placed if held or len(made) > 1 else []:
            if not final.is_dir():
                final.unlink(missing_ok=True)
        for aside, old in reversed(held):
            if aside.exists():
                os.replace(aside, old)
        raise
    for aside, _ in held:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def _readable(target: Path) -> Iterator[None]:
    """System errors of writing, as sentences."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{target}: cannot be written: {os.strerror(error.errno) if error.errno else error}.",
            remedy="Nothing was left behind; what stood there before still does. Make room there, or give another place.",
        ) from None


def _shards(entries: Sequence[Entry], most: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.spec.nbytes > most:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.spec.nbytes
    return shards


def _header(entries: Sequence[Entry], plan: Plan) -> tuple[bytes, dict[str, int]]:
    """The file's header and where each parameter begins in the file; widest dtype first keeps all aligned."""
    order = sorted(entries, key=lambda e: (-ITEMSIZE[e.spec.dtype], e.spec.path))
    ties = {alias: e.spec.path for e in entries for alias in e.spec.aliases}
    about = {
        **ties,
        "format": FORMAT.get(plan.framework, "np"),
        "seedbed.fingerprint": plan.fingerprint(),
        "seedbed.seed": str(plan.seed),
    }
    header: dict[str, Any] = {ABOUT: about}
    places, offset = {}, 0
    for entry in order:
        spec = entry.spec
        places[spec.path] = offset
        header[spec.path] = {
            "dtype": NAMES[spec.dtype],
            "shape": list(spec.sizes),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    base = 8 + len(raw)
    return struct.pack("<Q", len(raw)) + raw, {path: base + place for path, place in places.items()}


class _InFile(Destination):
    """A parameter's place in a file."""

    def __init__(self, file: BinaryIO, entry: Entry, place: int) -> None:
        self.file, self.entry, self.place = file, entry, place

    def block(self, region: Region) -> NDArray[Any]:
        return np.empty(region.shape, storage_dtype(self.entry.spec.dtype))

    def done(self, region: Region, values: NDArray[Any]) -> None:
        """Blocks are contiguous and come in order, so each follows the one before."""
        self.file.seek(self.place)
        self.file.write(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).data)
        self.place += values.nbytes


def _write(
    path: Path,
    entries: Sequence[Entry],
    plan: Plan,
    kept: Values | None,
    threads: int | None,
    progress: Progress | None,
) -> None:
    header, places = _header(entries, plan)
    with path.open("wb") as file:
        size = len(header) + sum(e.spec.nbytes for e in entries)
        _reserve(file, size)
        file.write(header)
        jobs = []
        for entry in entries:
            where = _InFile(file, entry, places[entry.spec.path])
            if not entry.kept:
                jobs.append(Job(entry, where))
            elif kept is not None and entry.spec.count:
                where.done(Region.whole(entry.spec.sizes), kept(entry))
        run(jobs, threads=threads, progress=progress)
        file.flush()
        os.fsync(file.fileno())


def _reserve(file: BinaryIO, size: int) -> None:
    """Find a full disk now, not at the end."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # a file system that cannot tell
                raise


def _index(path: Path, names: Sequence[str], shards: Sequence[Sequence[Entry]]) -> None:
    where = {e.spec.path: name for name, shard in zip(names, shards, strict=True) for e in shard}
    total = sum(e.spec.nbytes for shard in shards for e in shard)
    with path.open("w", encoding="utf-8") as file:
        json.dump({"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
