"""Stage 6b: to disk. A plan becomes safetensors files, one block in memory at a time.

Files are written aside, synced, and renamed; the index comes last, so that a folder with an index
is whole. The format is that of https://github.com/huggingface/safetensors; several files follow the
naming of its ecosystem, `model-00001-of-00002.safetensors` and `model.safetensors.index.json`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from seedbed.errors import CheckpointError, OutputError, PlanError, shown
from seedbed.fill import Region, storage_dtype
from seedbed.materialize import Destination, Progress, run
from seedbed.plan import Entry, Plan
from seedbed.spec import ITEMSIZE

NAMES: Mapping[str, str] = {
    "float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL",
    "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
DTYPES: Mapping[str, str] = {v: k for k, v in NAMES.items()}
FORMAT = {"torch": "pt", "flax": "flax"}
LARGEST_HEADER = 100_000_000

Values = Callable[[Entry], NDArray[Any]]
"""Gives the values of an entry that the plan keeps."""


@dataclass(frozen=True)
class Tensor:
    """One array of a checkpoint, read from its file as it is indexed."""

    dtype: str
    shape: tuple[int, ...]
    array: NDArray[Any]


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
    without = [e.spec.path for e in entries if e.kept and kept is None]
    if without:
        raise PlanError(
            f"{without[0]}: the plan keeps the values it has, and no model was given to read them from.",
            facts=shown(without),
            remedy="Give the model, seedbed.write(plan, path, model=model), or a rule that starts it.",
            paths=tuple(without),
        )
    single = target.suffix == ".safetensors"
    folder, stem = (target.parent, target.stem) if single else (target, "model")
    if not (folder if single else folder.absolute().parent).is_dir():
        missing = folder if single else folder.absolute().parent
        raise OutputError(f"{target}: the folder {str(missing)!r} does not exist.", remedy=f"    mkdir -p {missing}")
    if (target.is_dir() if single else target.is_file()) or (single and target.is_symlink() and target.is_dir()):
        raise OutputError(
            f"{target}: is a {'folder' if single else 'file'}; give a file that ends in .safetensors, or a folder."
        )
    shards = _shards(entries, shard_size)
    names = [f"{stem}-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    names = [f"{stem}.safetensors"] if len(shards) == 1 else names
    made = not folder.exists()
    aside: list[tuple[Path, Path]] = []
    try:
        with _readable(target):
            folder.mkdir(exist_ok=True)
            for name, shard in zip(names, shards, strict=True):
                aside.append((folder / f".{name}.{os.getpid()}.partial", folder / name))
                _write(aside[-1][0], shard, plan, kept, threads, progress)
            index = folder / f"{stem}.safetensors.index.json"
            if len(shards) > 1:
                aside.append((folder / f".{index.name}.{os.getpid()}.partial", index))
                _index(aside[-1][0], names, shards)
            for partial, final in aside:
                os.replace(partial, final)
            _sync(folder)
    except BaseException:
        for partial, _ in aside:
            partial.unlink(missing_ok=True)
        if made:
            with contextlib.suppress(OSError):  # not empty: a rename had begun, and what is there is whole
                folder.rmdir()
        raise
    if len(shards) == 1 and index.exists():
        index.unlink()  # of an earlier checkpoint of the same name, which this one replaces
    return [final for _, final in aside]


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
            remedy="Nothing was left behind; what stood there before still does.",
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
        "format": FORMAT.get(plan.framework, "np"),
        **ties,
        "seedbed.fingerprint": plan.fingerprint(),
        "seedbed.seed": str(plan.seed),
    }
    header: dict[str, Any] = {"__metadata__": about}
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
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is found now, not at the end
        file.write(header)
        jobs = []
        for entry in entries:
            where = _InFile(file, entry, places[entry.spec.path])
            if not entry.kept:
                jobs.append((entry, where))
            elif kept is not None and entry.spec.count:
                where.done(Region.whole(entry.spec.sizes), kept(entry))
        run(jobs, threads=threads, progress=progress)
        file.flush()
        os.fsync(file.fileno())


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


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The arrays of a checkpoint, mapped from its file or files; nothing is read until it is used.

    Args:
        path: A `.safetensors` file, an index, or a folder that holds one or the other.

    Raises:
        CheckpointError: The file is not sound: cut short, or its header lies about it.
    """
    source = Path(path)
    if source.is_dir():
        indexes, files = sorted(source.glob("*.safetensors.index.json")), sorted(source.glob("*.safetensors"))
        found = indexes or files
        if len(found) != 1:
            what = "no .safetensors file" if not found else f"{len(found)} checkpoints"
            raise CheckpointError(f"{source}: holds {what}.", facts=shown([f.name for f in found]))
        source = found[0]
    if not source.exists():
        beside = source.parent / f"{source.name}.index.json"
        if not beside.exists():
            raise CheckpointError(f"{source}: there is no such file.")
        source = beside
    return _load_index(source) if source.name.endswith(".json") else _load_file(source)


def _load_index(source: Path) -> dict[str, Tensor]:
    try:
        where = json.loads(source.read_text("utf-8"))["weight_map"]
        names = sorted(set(where.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source}: is not an index of a checkpoint: {type(error).__name__}: {error}.") from None
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\\0]+\.safetensors", name):
            raise CheckpointError(f"{source}: names a file outside its folder: {name!r}.")
        if not (source.parent / name).is_file():
            raise CheckpointError(f"{source}: the file {name!r} that it names is missing.")
        held = _load_file(source.parent / name)
        for path in (p for p, n in where.items() if n == name):
            if path not in held:
                raise CheckpointError(f"{source}: {path} is not in {name!r}, where the index says it is.")
            tensors[path] = held[path]
    return tensors


def _load_file(source: Path) -> dict[str, Tensor]:
    def unsound(what: str) -> CheckpointError:
        return CheckpointError(f"{source}: is not a sound safetensors file: {what}.")

    size = source.stat().st_size
    with source.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise unsound(f"it has {size} bytes, and the header's length alone takes 8")
        (length,) = struct.unpack("<Q", start)
        if length > LARGEST_HEADER or 8 + length > size:
            raise unsound(f"its header is said to take {length} bytes, and the file has {size}")
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_repeats)
    except ValueError as error:
        raise unsound(f"its header is not JSON: {error}") from None
    except RecursionError:
        raise unsound("its header is nested too deep") from None
    if not isinstance(header, dict):
        raise unsound("its header is not a table")
    header.pop("__metadata__", None)
    tensors, end = {}, 0
    spans = {}
    for path, entry in header.items():
        dtype, shape, span = _tensor_entry(path, entry, unsound)
        spans[path] = (dtype, shape, span)
    data = np.memmap(source, np.uint8, "r", offset=0) if size else np.empty(0, np.uint8)
    for path, (dtype, shape, (a, b)) in sorted(spans.items(), key=lambda item: item[1][2]):
        if a != end:
            raise unsound(f"{path} begins at byte {a} of the data, and what is before it ends at {end}")
        end = b
        if 8 + length + b > size:
            raise unsound(f"{path} ends at byte {b} of the data, and the file holds {size - 8 - length}")
        raw_bytes = data[8 + length + a : 8 + length + b]
        native = storage_dtype(dtype).newbyteorder("<")
        values = (
            raw_bytes.view(native)
            if (8 + length + a) % native.itemsize == 0
            else np.frombuffer(raw_bytes.tobytes(), native)
        )
        tensors[path] = Tensor(dtype, shape, values.reshape(shape))
    if 8 + length + end != size:
        raise unsound(f"{size - 8 - length - end} bytes at its end belong to nothing")
    return {path: tensors[path] for path in header}


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table


def _tensor_entry(
    path: str, entry: Any, unsound: Callable[[str], CheckpointError]
) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    def whole(values: Any) -> bool:
        return isinstance(values, list) and all(
            isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in values
        )

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise unsound(f"{path} is not described by dtype, shape and data_offsets")
    if entry["dtype"] not in DTYPES:
        raise unsound(f"{path} has the dtype {entry['dtype']!r}")
    if not whole(entry["shape"]) or not whole(entry["data_offsets"]) or len(entry["data_offsets"]) != 2:
        raise unsound(f"{path} has a shape or offsets that are not whole numbers")
    dtype, shape, (a, b) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if b - a != math.prod(shape) * ITEMSIZE[dtype]:
        raise unsound(
            f"{path} takes {b - a} bytes, and its shape {shape} in {dtype} {math.prod(shape) * ITEMSIZE[dtype]}"
        )
    return dtype, shape, (a, b)
