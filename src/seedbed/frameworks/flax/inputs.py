"""What a model is given in a dry run: shapes without values, sizes that vary as symbols."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.export
import numpy as np

from seedbed.errors import InputError, nearest
from seedbed.frameworks.varying import Axis, varying
from seedbed.spec import Input


@dataclass(eq=False)
class Given:
    """A model's inputs as JAX's shapes.

    Attributes:
        leaves: Shapes and dtypes, in order.
        symbols: Which axis of which input each symbol stands for.
    """

    rebuild: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]
    leaves: list[Any]
    symbols: dict[str, Axis] = field(default_factory=dict)

    def depends(self, size: Any) -> list[str]:
        """The axes that a symbolic size follows from, in words."""
        names = dict.fromkeys(re.findall(r"\bs\d+\b", str(size)))
        return [f"{name} axis {axis}" for name, axis in (self.symbols[n] for n in names if n in self.symbols)]


def is_shape(value: Any) -> bool:
    """Whether a tuple is a shape: sizes and None only."""
    return type(value) is tuple and all(n is None or type(n) is int for n in value)


def given(
    inputs: Sequence[Any], keywords: Mapping[str, Any], dtype: Any, sizes: Mapping[Axis, int] | None = None
) -> Given:
    """Inputs without values.

    Args:
        inputs: As `trace` takes them.
        keywords: The same, by name.
        dtype: Of shapes that name none.
        sizes: Numbers in place of the sizes that vary; symbols when left out.
    """
    axes = varying(inputs, keywords, is_shape)
    symbols: dict[Axis, Any] = dict(sizes or {})
    if axes and sizes is None:
        names = [f"s{n}" for n in range(len(axes))]
        symbols = dict(zip(axes, jax.export.symbolic_shape(",".join(names)), strict=True))
    leaves: list[Any] = []

    def convert(value: Any, name: str) -> Callable[[Sequence[Any]], Any]:
        if isinstance(value, Input) or is_shape(value):
            value = value if isinstance(value, Input) else Input(value)
            shape = tuple(symbols[name, axis] if n is None else n for axis, n in enumerate(value.shape))
            value = jax.ShapeDtypeStruct(shape, _dtype(value.dtype or dtype))
        if isinstance(value, (np.ndarray, np.generic)):
            value = jax.ShapeDtypeStruct(value.shape, _dtype(value.dtype))
        if isinstance(value, (jax.Array, jax.ShapeDtypeStruct)):
            leaves.append(jax.ShapeDtypeStruct(value.shape, value.dtype))
            place = len(leaves) - 1
            return lambda values: values[place]
        if isinstance(value, list) and value and all(n is None or type(n) is int for n in value):
            raise InputError(f"{name}: a shape is a tuple, such as (2, 20), got {value!r}.")
        if isinstance(value, Mapping):
            parts = {k: convert(v, f"{name}[{k!r}]") for k, v in value.items()}
            return lambda values: {k: part(values) for k, part in parts.items()}
        if isinstance(value, (tuple, list)):
            kind, many = type(value), [convert(v, f"{name}[{i}]") for i, v in enumerate(value)]
            if kind in (tuple, list):
                return lambda values: kind(part(values) for part in many)
            return lambda values: kind(*(part(values) for part in many))
        return lambda _: value

    first = [convert(v, f"input {i}") for i, v in enumerate(inputs)]
    named = {k: convert(v, f"input {k!r}") for k, v in keywords.items()}

    def rebuild(values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(part(values) for part in first), {k: part(values) for k, part in named.items()}

    return Given(rebuild, leaves, {f"s{n}": axis for n, axis in enumerate(axes)} if sizes is None else {})


def _dtype(dtype: Any) -> Any:
    """As JAX holds it: without x64, 32 bits in place of 64."""
    return jax.dtypes.canonicalize_dtype(np.dtype(jax.numpy.dtype(dtype)))


def bind(name: str, function: Any, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """Raise `InputError` unless a model's call takes so many inputs, of these names."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a callable without a signature: let the call itself find out
        return
    try:
        signature.bind(*inputs, **keywords)
    except TypeError as error:
        known = list(signature.parameters)
        stray = next((k for k in keywords if k not in known), None)
        raise InputError(
            f"{name}: {error}.",
            facts=[
                f"takes  {', '.join(str(p) for p in signature.parameters.values())}",
                f"given  {len(inputs)} by position",
            ]
            + ([f"       {', '.join(keywords)} by name"] if keywords else []),
            remedy=nearest(stray, known)
            if stray
            else "Give one shape, Input or array for each argument, in order or by name.",
        ) from None


def required(function: Any) -> int:
    """How many inputs a call must be given by position."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(p.kind in kinds and p.default is p.empty for p in parameters)
    return needed or int(any(p.kind is p.VAR_POSITIONAL for p in parameters))
