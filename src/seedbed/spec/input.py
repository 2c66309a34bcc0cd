"""What a model is given, and the names of dtypes."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seedbed.errors import InputError, nearest, quoted

ITEMSIZE: Mapping[str, int] = {
    "float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
FLOATS = ("float64", "float32", "bfloat16", "float16")

Shape = tuple["int | None", ...]


@dataclass(frozen=True)
class Input:
    """What a model is given, without values.

    Args:
        shape: One size per axis; `None` where it varies.
        dtype: `"float32"`, `"int64"`, ..., or the framework's own; the model's floating-point dtype when
            left out.

    Raises:
        InputError: A size or the dtype cannot be understood.

    Example:
        >>> import torch
        >>> Input((2, 20), "int64") == Input((2, 20), torch.int64)
        True
    """

    shape: Shape
    dtype: str | None = None

    def __post_init__(self) -> None:
        try:
            shape = tuple(None if n is None else size_of(n) for n in self.shape)
        except (TypeError, ValueError):
            raise InputError(
                f"Input: the shape must be a tuple of whole numbers, 0 or more, or None, got {quoted(self.shape)}.",
                remedy="Write one size for each axis, None where it varies: Input((None, channels), dtype).",
            ) from None
        object.__setattr__(self, "shape", shape)
        if math.prod(n or 1 for n in shape) > 2**58:
            raise InputError(f"Input: {quoted(shape)} is too large: no memory holds more than 2**58 elements.")
        if self.dtype is not None:
            dtype = _dtype_name(self.dtype)
            object.__setattr__(self, "dtype", dtype)
            if dtype not in ITEMSIZE:
                raise InputError(f"Input: unknown dtype {dtype!r}.", remedy=nearest(dtype, ITEMSIZE))

    def __repr__(self) -> str:
        return f"Input({self.shape}{f', {self.dtype!r}' if self.dtype else ''})"


@dataclass(frozen=True)
class Dim:
    """A size that an input tells: of one axis of one of a layer's inputs.

    Args:
        axis: Counted from 0, or back from -1.
        input: Which of the layer's inputs, counted from 0.
    """

    axis: int
    input: int = 0


def size_of(value: Any) -> int:
    """One size of a shape, as a plain number; what is none is a `TypeError` or a `ValueError`."""
    size = operator.index(value)
    if isinstance(value, bool) or size < 0:
        raise ValueError(value)
    return size


def _dtype_name(dtype: Any) -> str:
    """`float32` for "float32", torch.float32, numpy.float32 and numpy.dtype("float32")."""
    named = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", None)
    return str(named or dtype).removeprefix("torch.")
