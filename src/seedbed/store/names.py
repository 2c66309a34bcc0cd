"""What the format calls things."""

from __future__ import annotations

from collections.abc import Mapping

NAMES: Mapping[str, str] = {
    "float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL",
    "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
DTYPES: Mapping[str, str] = {v: k for k, v in NAMES.items()}
FORMAT = {"torch": "pt", "flax": "flax"}
LARGEST_HEADER = 100_000_000
ABOUT = "__metadata__"
MOST_AXES = 32
"""As many as every NumPy has."""
