"""What a Gluon model is made of: its blocks and its parameters, under paths that do not change.

Paths are those of the attributes: `0.weight`, `body.0.gamma`, `0.l0_i2h_weight`. Gluon's own names
(`dense3_weight`) count how many layers a process has built, and change when it builds another first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from mxnet.gluon import Block, Parameter

from seedbed.errors import ModelError
from seedbed.spec import Shape


class Held(NamedTuple):
    """One path of one parameter, and the block that uses it."""

    path: str
    block: Block
    leaf: str
    parameter: Parameter


def blocks(model: Block, prefix: str = "", inside: tuple[int, ...] = ()) -> Iterator[tuple[str, Block]]:
    """Every path of every block, the model itself first."""
    yield prefix, model
    for name, child in model._children.items():
        if id(child) not in inside:
            yield from blocks(child, f"{prefix}.{name}" if prefix else str(name), (*inside, id(model)))


def parameters(model: Block) -> Iterator[Held]:
    """Every path of every parameter, in the order of the model's definition.

    A parameter that no attribute holds stands under its name, without the block's prefix.
    """
    found = list(blocks(model))
    attributes = {id(parameter) for _, block in found for parameter in block._reg_params.values()}
    for path, block in found:
        own = dict(block._reg_params)
        for name, parameter in block.params.items():
            if id(parameter) not in attributes:
                own[name.removeprefix(block.params.prefix) or name] = parameter
        for leaf, parameter in own.items():
            yield Held(f"{path}.{leaf}" if path else leaf, block, leaf, parameter)


def owners(model: Block) -> dict[str, tuple[Held, tuple[str, ...]]]:
    """The first path of each parameter, with its other paths.

    Raises:
        ModelError: A parameter is stored sparse.
    """
    first: dict[int, Held] = {}
    others: dict[int, list[str]] = {}
    for held in parameters(model):
        if held.parameter._stype != "default":
            raise ModelError(
                f"{held.path}: is a sparse parameter, and seedbed starts dense ones.",
                facts=[f"stype  {held.parameter._stype}"],
                remedy="Store it dense: stype='default'. Its gradient may stay sparse.",
                path=held.path,
            )
        if id(held.parameter) in first:
            others[id(held.parameter)].append(held.path)
        else:
            first[id(held.parameter)], others[id(held.parameter)] = held, []
    return {held.path: (held, tuple(others[i])) for i, held in first.items()}


def shape_of(parameter: Parameter) -> Shape:
    """A parameter's shape, with None for what only an input can tell."""
    if parameter._shape is None:  # not even the number of axes is known
        return (None,)
    return tuple(int(n) if n > 0 else None for n in parameter._shape)


def known(parameter: Parameter) -> bool:
    """Whether every size of a parameter is settled."""
    return None not in shape_of(parameter)


BFLOAT16 = np.dtype([("bfloat16", np.uint16)])
"""What MXNet has for it: NumPy has no such type."""


def plain(dtype: Any) -> str:
    """`float32` for what MXNet takes as a dtype."""
    found = native_dtype(dtype)
    return "bfloat16" if found == BFLOAT16 else found.name


def native_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype that MXNet is to be given."""
    return BFLOAT16 if isinstance(dtype, str) and dtype == "bfloat16" else np.dtype(dtype)
