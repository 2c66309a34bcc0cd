"""Stage 1: the vocabulary. How one parameter may start.

An initializer is configuration and nothing else: frozen, keyword-only, equal when its arguments
are, written to JSON and read back. `resolve(spec)` turns one that depends on fans into one that
does not; the numbers themselves are made by `seedbed.fill`.

`std` is that of the normal before any cut, as every framework has it; `cut` is in standard
deviations; `VarianceScaling` alone promises the spread of the values produced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from seedbed.errors import RecipeError, nearest, quoted
from seedbed.initializers.choices import Box, Chain, Keep, Loaded, Native, Overlay, Recorded
from seedbed.initializers.elementwise import (
    Constant,
    Custom,
    Mixture,
    Normal,
    Ones,
    TruncatedNormal,
    Uniform,
    Zeros,
)
from seedbed.initializers.initializer import Fan, Initializer
from seedbed.initializers.matrices import Dirac, Identity, Orthogonal, Sparse
from seedbed.initializers.scaled import (
    HeNormal,
    HeUniform,
    LecunNormal,
    LecunUniform,
    VarianceScaling,
    XavierNormal,
    XavierUniform,
    gain,
)

__all__ = [
    "Box",
    "Chain",
    "Constant",
    "Custom",
    "Dirac",
    "Fan",
    "HeNormal",
    "HeUniform",
    "Identity",
    "Initializer",
    "Keep",
    "LecunNormal",
    "LecunUniform",
    "Loaded",
    "Mixture",
    "Native",
    "Normal",
    "Ones",
    "Orthogonal",
    "Overlay",
    "Recorded",
    "Sparse",
    "TruncatedNormal",
    "Uniform",
    "VarianceScaling",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
    "from_dict",
    "gain",
]

ALL = (
    Zeros, Ones, Constant, Uniform, Normal, TruncatedNormal, VarianceScaling, XavierUniform, XavierNormal,
    HeUniform, HeNormal, LecunUniform, LecunNormal, Orthogonal, Identity, Dirac, Sparse, Mixture, Keep, Overlay, Recorded, Chain, Loaded,
)  # fmt: skip
BY_NAME: Mapping[str, type[Initializer]] = {cls.__name__: cls for cls in ALL}


def from_dict(data: object) -> Initializer:
    """An initializer from plain data; a bare name stands for one without arguments.

    Raises:
        RecipeError: The name or an argument's name is unknown; the nearest are offered.
        InitializerError: An argument is out of range.

    Example:
        >>> from_dict({"name": "Normal", "std": 0.02}), from_dict("HeNormal")
        (Normal(std=0.02), HeNormal())
    """
    data = {"name": data} if isinstance(data, str) else data
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise RecipeError(f"An initializer must be a name, or a table with a name, got {quoted(data)}.")
    name, arguments = data["name"], {str(k): v for k, v in data.items() if k != "name"}
    if name == "Custom":
        raise RecipeError(
            f"Custom({arguments.get('function', '')}): a function cannot be read from a file.",
            remedy="Give the recipe in Python, where the function is.",
        )
    if name not in BY_NAME:
        raise RecipeError(f"Unknown initializer {name!r}.", remedy=nearest(name, BY_NAME), name=name)
    cls = BY_NAME[name]
    known = [f.name for f in dataclasses.fields(cls)]
    for argument in arguments:
        if argument not in known:
            raise RecipeError(f"{name} has no argument {argument!r}.", remedy=nearest(argument, known))
    fields = dataclasses.fields(cls)
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in arguments]
    if missing:
        given = ", ".join([f"name = '{name}'", *(f"{m} = ..." for m in missing)])
        raise RecipeError(f"{name} needs {' and '.join(f'`{m}`' for m in missing)}.", remedy=f"Write {{ {given} }}.")
    if cls is Mixture:
        arguments["parts"] = _pairs(arguments, "Mixture", "parts", "probability")
    if cls is Overlay:
        boxes = _pairs(arguments, "Overlay", "boxes", "box") if "boxes" in arguments else ()
        arguments = {"base": from_dict(arguments["base"]), "boxes": tuple((_tuples(box), part) for box, part in boxes)}
    return cls(**arguments)


def _pairs(arguments: Mapping[str, Any], owner: str, argument: str, key: str) -> list[tuple[Any, Initializer]]:
    tables = arguments[argument]
    if not isinstance(tables, Sequence) or isinstance(tables, str):
        raise RecipeError(f"{owner}: `{argument}` must be a list of tables, got {quoted(tables)}.")
    for table in tables:
        if not isinstance(table, Mapping) or set(table) != {key, "initializer"}:
            raise RecipeError(
                f"{owner}: each of `{argument}` must be a table of `{key}` and `initializer`, got {quoted(table)}.",
                remedy=f"Write each as {{ {key} = ..., initializer = ... }}.",
            )
    return [(table[key], from_dict(table["initializer"])) for table in tables]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
