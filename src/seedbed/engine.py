"""Which engine makes the numbers: C where it was built, NumPy anywhere; the same bits from both.

`SEEDBED_ENGINE=numpy` or `c` chooses; `seedbed --version` says which is in use, and with which of
the processor's instruction sets.
"""

from __future__ import annotations

import functools
import importlib
import os
import struct
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedbed import threefry
from seedbed.errors import EngineError
from seedbed.initializers import Constant, Initializer, Mixture, Normal, Ones, TruncatedNormal, Uniform, Zeros

try:
    _engine: Any = importlib.import_module("seedbed._engine")
except ImportError:  # no compiler when it was installed: NumPy gives the same bits, slower
    _engine = None

_MAKING = threading.Lock()
TYPES = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}
CONSTANT, UNIFORM, NORMAL, TRUNCATED, WORDS = range(5)
ALWAYS = 2**63
"""Above every choosing word."""
MOST = 16
"""Parts of a mixture that the C file takes."""
AXES = 32
"""Axes, after those that lie together are taken for one."""
LONG = 16
"""Elements that are worth a run; sums do not ask in which order, and run along the densest such axis."""


def names() -> list[str]:
    """Instruction sets the C engine can use here, the fastest first; empty where it was not built."""
    return list(_engine.names()) if _engine is not None else []


def chosen() -> str:
    """The instruction set in use, or `numpy`.

    Raises:
        EngineError: `SEEDBED_ENGINE` asks for what is not there.
    """
    asked, known = os.environ.get("SEEDBED_ENGINE", ""), names()
    if asked == "numpy" or (not asked and not known):
        return "numpy"
    if asked in ("", "c") and known:
        return known[0]
    if asked in known:
        return asked
    raise EngineError(
        f"SEEDBED_ENGINE={asked}: this engine is not here.",
        facts=[f"here  {', '.join(['numpy', *(['c'] if known else []), *known])}"],
        remedy="Unset SEEDBED_ENGINE, or install seedbed where there is a C compiler.",
    )


def fill(
    start: Initializer,
    dtype: str,
    key: threefry.Key,
    shape: tuple[int, ...],
    corner: tuple[int, ...],
    out: NDArray[Any],
) -> bool:
    """Fill a region in C, where C can: elementwise initializers, in `TYPES`.

    Args:
        start: What fills it.
        dtype: The parameter's.
        key: Of the parameter.
        shape: Of the whole parameter.
        corner: Where the region begins in it.
        out: The region's memory; any strides.

    Returns:
        False when nothing was done, and NumPy is to do it.
    """
    isa = chosen()
    if isa == "numpy" or dtype not in TYPES or not _suits(out, dtype):
        return False
    parts = _parts(start) if isinstance(start, (Uniform, Normal, TruncatedNormal, Mixture)) else None
    if parts is None:
        return False
    return _carry_out(isa, key, parts, isinstance(start, Mixture), TYPES[dtype], shape, corner, out)


def words(
    key: threefry.Key, draw: int, shape: tuple[int, ...], corner: tuple[int, ...], out: NDArray[np.uint32]
) -> bool:
    """Fill a region with its words, in C; False when nothing was done, and NumPy is to do it."""
    isa = chosen()
    if isa == "numpy" or not out.size:
        return False
    part = _pack(WORDS, draw, 0, 0, 0, 0, ALWAYS)
    return _carry_out(isa, key, part, False, TYPES["float32"], shape, corner, out)


def total(key: int, shape: tuple[int, ...], corner: tuple[int, ...], values: NDArray[Any]) -> int | None:
    """The sum of a region's elements as `digest` defines it, in C; None where it is left to NumPy.

    Args:
        key: Of the path.
        shape: Of the whole parameter.
        corner: Where the region begins in it.
        values: The region's; any strides, aligned or not.
    """
    isa = chosen()
    if isa == "numpy" or values.dtype.hasobject or values.itemsize not in (1, 2, 4, 8) or not values.size:
        return None
    first, axes = _axes(shape, corner, values)
    axes = axes or [[1, 1, values.itemsize]]
    if len(axes) > AXES:
        return None
    axes.sort(key=lambda axis: (axis[0] >= LONG, -abs(axis[2])))
    found: int = _engine.sum(isa, values.itemsize, (key + first) % 2**64, _packed(axes), _address(values))
    return found


def _carry_out(
    isa: str,
    key: threefry.Key,
    parts: bytes,
    mixture: bool,
    kind: int,
    shape: tuple[int, ...],
    corner: tuple[int, ...],
    out: NDArray[Any],
) -> bool:
    first, axes = _axes(shape, corner, out)
    if not axes or axes[-1][1] != 1:  # the C file runs along the last axis
        axes.append([1, 1, out.itemsize])
    if len(axes) > AXES:
        return False
    _engine.fill(
        isa,
        struct.pack("=4I", *key),
        parts,
        mixture,
        kind,
        first,
        _packed(axes),
        _table_address(),
        _address(out),
    )
    return True


@functools.cache
def _table_address() -> int:
    return _address(_table())


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _suits(out: NDArray[Any], dtype: str) -> bool:
    """Whether C can write it: it is given an address, and asks nothing."""
    held = "uint16" if dtype == "bfloat16" else dtype
    return bool(out.flags.aligned and out.flags.writeable and out.dtype == held and out.size)


def _table() -> NDArray[np.float32]:
    """A and an eighth of B of each row side by side, as the C file reads them; the eighths are exact.

    It is one array for good: C keeps its address, so threads that begin together must not each make one.
    """
    with _MAKING:
        return _made_table()


@functools.cache
def _made_table() -> NDArray[np.float32]:
    a, b = threefry.table()
    return np.ascontiguousarray(np.stack([a, b / np.float32(8)], axis=1))


def _parts(start: Initializer) -> bytes | None:
    if not isinstance(start, Mixture):
        return _part(start, ALWAYS)
    belows = (*start.thresholds(), ALWAYS)
    parts = [_part(part, below) for (_, part), below in zip(start.parts, belows, strict=True)]
    made = [p for p in parts if p]
    return b"".join(made) if len(made) == len(parts) <= MOST else None


def _part(start: Initializer, below: int) -> bytes | None:
    """One `part` of the C file; every number is rounded to float32 as `threefry` does it."""
    if isinstance(start, (Zeros, Ones, Constant)):
        value = start.value if isinstance(start, Constant) else isinstance(start, Ones)
        return _pack(CONSTANT, 0, value, 0, 0, 0, below)
    if isinstance(start, Uniform):
        low, high = float(np.float32(start.low)), float(np.float32(start.high))
        if low >= high:
            return _pack(CONSTANT, 0, low, 0, 0, 0, below)
        last = float(np.nextafter(np.float32(high), np.float32(low)))
        return _pack(UNIFORM, 0, (start.high - start.low) / 2, (start.high + start.low) / 2, low, last, below)
    if isinstance(start, Normal):
        return _pack(NORMAL, 0, start.std, start.mean, 0, 0, below)
    if isinstance(start, TruncatedNormal):
        lowest = threefry.lowest_within(start.cut)
        return _pack(TRUNCATED if lowest else NORMAL, lowest, start.std, start.mean, 0, 0, below)
    return None


def _pack(kind: int, lowest: int, factor: float, shift: float, low: float, last: float, below: int) -> bytes:
    return struct.pack("=iI4fQ", kind, lowest, factor, shift, low, last, below)


def _axes(shape: tuple[int, ...], corner: tuple[int, ...], out: NDArray[Any]) -> tuple[int, list[list[int]]]:
    """The corner's element, and the fewest axes: [size, stride in the whole, stride in bytes of `out`]."""
    first, stride = 0, 1
    axes: list[list[int]] = []
    for whole, at, size, step in zip(shape[::-1], corner[::-1], out.shape[::-1], out.strides[::-1], strict=True):
        first += at * stride
        if size > 1:
            if axes and axes[0][1] * axes[0][0] == stride and axes[0][2] * axes[0][0] == step:
                axes[0][0] *= size
            else:
                axes.insert(0, [size, stride, step])
        stride *= whole
    return first, axes


def _packed(axes: list[list[int]]) -> bytes:
    return struct.pack(f"={3 * len(axes)}q", *(n for axis in axes for n in axis))
