"""Every variable of a model, under paths that do not depend on how many layers the process made before.

Keras names a layer that got no name after its class and a count that runs through the process: the
second `Dense` of a session is `dense_1`, in whatever model it stands. Streams are keyed by paths, so
such counts start anew here in each model: children of `Sequential` and functional models are `dense`,
`dense_1`, ... in order, other layers' children go by the attribute that holds them. Names that were
given stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.utils.naming import to_snake_case

DERIVED = (keras.layers.Bidirectional,)
"""Layers that name their parts after a name that Keras counted."""


@dataclass(eq=False)
class Held:
    """One variable of a model.

    Attributes:
        path: Where it stands first.
        name: Its own name, the last part of the path.
        variable: Keras's.
        layer: The layer that holds it, there.
        owners: The layers above, the model first, each with its path.
        trained: Whether it was made to be trained; of a frozen layer's kernel, too.
        aliases: Its other paths.
    """

    path: str
    name: str
    variable: Any
    layer: Any
    owners: tuple[tuple[str, Any], ...]
    trained: bool
    aliases: list[str]


def held(model: Any) -> list[Held]:
    """Every weight of a model, in the order in which its layers were made.

    States of random generators, metrics and optimizers are no weights.
    """
    found: dict[int, Held] = {}
    _walk(model, "", (), found)
    return list(found.values())


def layers(model: Any) -> list[Any]:
    """The model and every layer in it, once each."""
    found: dict[int, Any] = {}
    stack = [model]
    while stack:
        layer = stack.pop()
        if id(layer) not in found:
            found[id(layer)] = layer
            stack += list(_children(layer))[::-1]
    return list(found.values())


def named_layers(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every layer under its first path, the model's own being empty."""
    seen: set[int] = set()

    def walk(layer: Any, path: str) -> Iterator[tuple[str, Any]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield path, layer
        for names, child in children(layer):
            yield from walk(child, _below(path, names[0]))

    yield from walk(model, path)


def path_of(model: Any, layer: Any) -> str:
    """Where a layer stands in a model."""
    return next((path for path, found in named_layers(model) if found is layer), "")


def _walk(layer: Any, path: str, above: tuple[tuple[str, Any], ...], found: dict[int, Held]) -> None:
    if any(layer is other for _, other in above):
        return
    owners = (*above, (path, layer))
    for name, variable, trained in own(layer):
        at = _below(path, name)
        known = found.get(id(variable))
        if known is None:
            found[id(variable)] = Held(at, name, variable, layer, owners, trained, [])
        elif any(known.layer is other for _, other in above):  # a wrapper that holds its layer's variable too
            aliases = [a for a in (known.path, *known.aliases) if a != at]
            found[id(variable)] = Held(at, name, variable, layer, owners, trained, aliases)
        elif at != known.path and at not in known.aliases:
            known.aliases.append(at)
    for names, child in children(layer):
        for name in names:
            _walk(child, _below(path, name), owners, found)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def own(layer: Any) -> Iterator[tuple[str, Any, bool]]:
    """A layer's own variables: name, variable, and whether it was made to be trained."""
    stores = [(layer._trainable_variables, True), (layer._non_trainable_variables, False)]
    used: set[str] = set()
    labels: dict[int, list[str]] | None = None
    for store, trained in stores:
        for variable in store:
            name = variable.name
            if re.fullmatch(r"(\w+_)?variable(_\d+)?", name):
                labels = _labels(layer) if labels is None else labels
                name = labels.get(id(variable), ["variable"])[0]
            yield _unused(name, used), variable, trained


def children(layer: Any) -> Iterator[tuple[list[str], Any]]:
    """A layer's parts, each with the names it goes by there."""
    made_of_layers = isinstance(layer, (keras.Sequential, Functional))
    labels: dict[int, list[str]] = {} if made_of_layers else _labels(layer)
    used: set[str] = set()
    seen: set[int] = set()
    for child in _children(layer):
        if id(child) in seen:
            continue
        seen.add(id(child))
        names = labels.get(id(child), [])
        if not counted(child) and not isinstance(layer, DERIVED):
            names = [child.name, *(names[1:])]
        elif not names:
            names = [to_snake_case(type(child).__name__)]
        yield [_unused(name, used) for name in names], child


def _children(layer: Any) -> list[Any]:
    if isinstance(layer, keras.Sequential):
        return list(layer.layers)
    return list(layer._flatten_layers(include_self=False, recursive=False))


def counted(layer: Any) -> bool:
    """Whether Keras named a layer by counting, because it was given no name."""
    pattern = rf"{re.escape(to_snake_case(type(layer).__name__))}(_\d+)?"
    if not re.fullmatch(pattern, layer.name):
        return False
    given = getattr(layer, "_auto_config", None)
    return given is None or given.config.get("name") is None


def _unused(name: str, used: set[str]) -> str:
    number, made = 0, name
    while made in used:
        number += 1
        made = f"{name}_{number}"
    used.add(made)
    return made


def _labels(layer: Any) -> dict[int, list[str]]:
    """The attributes that hold each layer or variable, those in lists and dicts included."""
    found: dict[int, list[str]] = {}

    def note(value: Any, label: str) -> None:
        if isinstance(value, (keras.layers.Layer, keras.Variable)):
            names = found.setdefault(id(value), [])
            if label not in names:
                names.append(label)
        elif isinstance(value, (list, tuple)):
            for number, part in enumerate(value):
                note(part, f"{label}.{number}")
        elif isinstance(value, dict):
            for key, part in value.items():
                note(part, f"{label}.{key}")

    held_by = vars(layer)
    inner = ("_layers", "_tracker", "_metrics", "_trainable_variables", "_non_trainable_variables", "_functional")
    for name, value in {**held_by, **(held_by.get("_modules") or {})}.items():
        if name not in (*inner, "_modules", "_parameters", "_buffers", "_torch_params") and not name.startswith(
            "_self_"
        ):
            note(value, name)
    return {i: sorted(names, key=lambda n: n.startswith("_")) for i, names in found.items()}
