"""What an nnx module holds: its variables, in the order of their definition, under every path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from seedbed.errors import UninitializedError


class Held(NamedTuple):
    """One variable, where it stands."""

    path: str
    variable: Any
    layer: Any
    name: str
    owner: Any
    part: str


def walk(model: Any) -> Iterator[Held]:
    """Every variable that is no state of random numbers, once for each of its paths."""
    for path, module, owner, part in modules_with_owners(model):
        for name, value in _attributes(module):
            yield from _variables(value, _joined(path, name), module, name, owner, part)


def _variables(value: Any, path: str, module: Any, name: str, owner: Any, part: str) -> Iterator[Held]:
    if isinstance(value, nnx.Variable):
        if not isinstance(value, nnx.RngState):
            yield Held(path, value, module, name, owner, part)
    elif not isinstance(value, nnx.Pytree):
        for key, inner in _inside(value):
            yield from _variables(inner, _joined(path, key), module, key, owner, part)


def modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Every module, once, with its first path."""
    seen: set[int] = set()
    for path, module, _, _ in modules_with_owners(model):
        if id(module) not in seen and isinstance(module, nnx.Module):
            seen.add(id(module))
            yield path, module


def modules_with_owners(
    node: Any, path: str = "", owner: Any = None, part: str = "", above: tuple[int, ...] = ()
) -> Iterator[tuple[str, Any, Any, str]]:
    """Every node under each of its paths, with the module above it; a module inside itself is left out."""
    if id(node) in above:
        return
    if isinstance(node, nnx.Pytree) and not isinstance(node, (nnx.Rngs, nnx.RngStream)):
        yield path, node, owner, part
        mine = owner if isinstance(node, (nnx.List, nnx.Dict)) else node
        for name, value in _attributes(node):
            yield from modules_with_owners(value, _joined(path, name), mine, name, (*above, id(node)))
    elif not isinstance(node, (nnx.Variable, nnx.Pytree)):
        for name, value in _inside(node):
            yield from modules_with_owners(value, _joined(path, name), owner, name, (*above, id(node)))


def _attributes(node: Any) -> list[tuple[str, Any]]:
    """A node's attributes; `bias` after the others, as flax's constructors make it."""
    found = [(str(k), v) for k, v in vars(node).items() if not k.startswith("_pytree__")]
    return sorted(found, key=lambda pair: pair[0] == "bias")


def _inside(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(k), v) for k, v in value.items()]
    return [(str(n), v) for n, v in enumerate(value)] if isinstance(value, (list, tuple)) else []


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def firsts(model: Any) -> dict[str, tuple[Held, tuple[str, ...]]]:
    """Each variable under its first path, with its other ones."""
    found: dict[int, tuple[Held, list[str]]] = {}
    for held in walk(model):
        first = found.setdefault(id(held.variable), (held, []))
        if held.path != first[0].path:
            first[1].append(held.path)
    return {held.path: (held, tuple(others)) for held, others in found.values()}


def is_abstract(variable: Any) -> bool:
    """Whether a variable has a shape and no value."""
    return isinstance(variable.get_value(), jax.ShapeDtypeStruct)


def loose(model: Any) -> Iterator[tuple[str, Any]]:
    """What has a shape and no value and is in no variable, by its path."""
    stack = [(_joined(path, n), v) for path, node, _, _ in modules_with_owners(model) for n, v in _attributes(node)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, jax.ShapeDtypeStruct):
            yield path, value
        elif not isinstance(value, (nnx.Variable, nnx.Pytree)):
            stack += [(_joined(path, key), inner) for key, inner in _inside(value)]


def arrays(model: Any) -> dict[str, Any]:
    """The arrays of a module, by every path.

    Raises:
        UninitializedError: Some have no values yet.
    """
    found = {}
    for held in walk(model):
        if is_abstract(held.variable):
            raise UninitializedError(
                f"{held.path}: has no value yet; it is abstract.",
                remedy="Start the model first:\n    seedbed.initialize(model, ...)",
                path=held.path,
            )
        found[held.path] = held.variable.get_value()
    return found
