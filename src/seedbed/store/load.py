"""Files that nobody vouches for become arrays, or an error that says what is wrong with them."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedbed.errors import CheckpointError, printable, shown
from seedbed.fill import storage_dtype
from seedbed.spec import ITEMSIZE
from seedbed.store.names import ABOUT, DTYPES, LARGEST_HEADER, MOST_AXES

AGAIN = "Write it anew, or fetch it again from where it was written."


@dataclass(frozen=True)
class Tensor:
    """One array of a checkpoint, read from its file as it is indexed."""

    dtype: str
    shape: tuple[int, ...]
    array: NDArray[Any]


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
        parts = [re.fullmatch(r".*-\d{5}-of-(\d{5})\.safetensors", f.name) for f in files]
        if files and not indexes and all(parts):
            raise CheckpointError(
                f"{source}: the checkpoint is not finished: there is no index, and "
                f"{len(files)} of {int(parts[0][1])} files are whole.",  # type: ignore[index]
                facts=shown([printable(f.name) for f in files]),
                remedy="Make the same call again, for every process: it goes on from the files that are there.",
            )
        if len(found) != 1:
            what = "no .safetensors file" if not found else f"{len(found)} checkpoints"
            raise CheckpointError(
                f"{source}: the folder holds {what}.",
                facts=shown([printable(f.name) for f in found]),
                remedy="Give the file, or the index, that is meant." if found else "",
            )
        source = found[0]
    if not source.exists():
        beside = source.parent / f"{source.name}.index.json"
        if not beside.exists():
            raise CheckpointError(f"{source}: there is no such file.")
        source = beside
    if not source.is_file():
        raise CheckpointError(f"{source}: is neither a file nor a folder.")
    try:
        return _load_index(source) if source.name.endswith(".json") else _load_file(source)
    except OSError as error:
        raise CheckpointError(f"{source}: cannot be read: {os.strerror(error.errno or 0)}.") from None


def _load_index(source: Path) -> dict[str, Tensor]:
    def unsound(what: str) -> CheckpointError:
        return CheckpointError(f"{source}: is not a sound index of a checkpoint.", facts=[what], remedy=AGAIN)

    where = _json(source.read_bytes(), "the index", unsound).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise unsound("it has no `weight_map` of names of arrays to names of files")
    paths: dict[str, list[str]] = {}
    for path, name in where.items():
        paths.setdefault(name, []).append(path)
    for name in paths:
        if not re.fullmatch(r"[^/\\\0]+\.safetensors", name):
            raise unsound(f"it names a file outside its folder: {printable(name)}")
        if not (source.parent / name).is_file():
            raise unsound(f"the file {printable(name)} that it names is missing")
    tensors: dict[str, Tensor] = {}
    for name in sorted(paths):
        held = _load_file(source.parent / name)
        for path in paths[name]:
            if path not in held:
                raise unsound(f"{printable(path)} is not in {name}, where it says that it is")
            tensors[path] = held[path]
        for path in held:  # what the index leaves out is there all the same
            if path not in where:
                tensors[path] = held[path]
    return tensors


def _json(raw: bytes, what: str, unsound: Callable[[str], CheckpointError]) -> dict[str, Any]:
    """A table, its names all different and all of them text that can be written."""
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_repeats, parse_int=_number)
    except json.JSONDecodeError as error:
        raise unsound(f"{what} is not JSON: {error.msg}, at character {error.pos:,}") from None
    except UnicodeDecodeError as error:
        raise unsound(f"{what} is not UTF-8, at byte {error.start:,}") from None
    except UnicodeEncodeError:
        raise unsound(f"{what} has a name that is not text") from None
    except ValueError as error:
        raise unsound(f"{what} {error}") from None
    except RecursionError:
        raise unsound(f"{what} is nested too deep") from None
    if not isinstance(data, dict):
        raise unsound(f"{what} is not a table")
    return data


def _load_file(source: Path) -> dict[str, Tensor]:
    def unsound(what: str) -> CheckpointError:
        return CheckpointError(f"{source}: is not a sound safetensors file.", facts=[what], remedy=AGAIN)

    size = source.stat().st_size
    with source.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise unsound(f"it has {size} bytes, and the header's length alone takes 8")
        (length,) = struct.unpack("<Q", start)
        if length > LARGEST_HEADER or 8 + length > size:
            raise unsound(f"its header is said to take {length:,} bytes, and the file has {size:,}")
        header = _json(file.read(length), "its header", unsound)
    about = header.pop(ABOUT, {})
    if not isinstance(about, dict) or not all(isinstance(v, str) for v in about.values()):
        raise unsound(f"its {ABOUT} is not a table of texts")
    spans = {path: _tensor_entry(printable(path), entry, unsound) for path, entry in header.items()}
    data = np.memmap(source, np.uint8, "r")
    tensors, end = {}, 0
    for path, (dtype, shape, (a, b)) in sorted(spans.items(), key=lambda item: item[1][2]):
        if a != end:
            raise unsound(f"{printable(path)} begins at byte {a:,} of the data, and what is before it ends at {end:,}")
        end = b
        if 8 + length + b > size:
            raise unsound(f"{printable(path)} ends at byte {b:,} of the data, and the file holds {size - 8 - length:,}")
        raw_bytes = data[8 + length + a : 8 + length + b]
        native = storage_dtype(dtype).newbyteorder("<")
        values = (
            raw_bytes.view(native)
            if (8 + length + a) % native.itemsize == 0
            else np.frombuffer(raw_bytes.tobytes(), native)
        )
        tensors[path] = Tensor(dtype, shape, values.reshape(shape))
    if 8 + length + end != size:
        raise unsound(f"{size - 8 - length - end:,} bytes at its end belong to nothing")
    return {path: tensors[path] for path in header}


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("has a name twice")
    for name in table:
        name.encode()  # half a surrogate pair cannot be written anywhere
    return table


def _number(digits: str) -> int:
    if len(digits) > 20:  # 2**64 takes 20
        raise ValueError(f"has a number of {len(digits):,} digits")
    return int(digits)


def _tensor_entry(
    path: str, entry: Any, unsound: Callable[[str], CheckpointError]
) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    def whole(values: Any) -> bool:
        return isinstance(values, list) and all(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63 for n in values
        )

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise unsound(f"{path} is not described by dtype, shape and data_offsets")
    name = entry["dtype"]
    if not isinstance(name, str) or name not in DTYPES:
        raise unsound(f"{path} has an unknown dtype: {printable(str(name))}")
    if not whole(entry["shape"]) or not whole(entry["data_offsets"]) or len(entry["data_offsets"]) != 2:
        raise unsound(f"{path} has a shape or offsets that are not whole numbers below 2**63")
    dtype, shape, (a, b) = DTYPES[name], tuple(entry["shape"]), entry["data_offsets"]
    if len(shape) > MOST_AXES:
        raise unsound(f"{path} has {len(shape):,} axes, and {MOST_AXES} are the most")
    if b - a != math.prod(shape) * ITEMSIZE[dtype] or math.prod(n for n in shape if n) * ITEMSIZE[dtype] >= 2**63:
        raise unsound(f"{path} takes {b - a:,} bytes, and not those of its shape {shape} in {dtype}")
    return dtype, shape, (a, b)
