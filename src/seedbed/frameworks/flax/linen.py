"""flax.linen: what a module's `init` would make, read without running it.

Streams of random numbers that a call asks for and is not given come from `params`, as in Flax's own `init`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.core import meta

from seedbed.errors import InputError, SeedbedError
from seedbed.frameworks.flax import layers
from seedbed.frameworks.flax.describe import Leaf, read_start, settle, spec_of
from seedbed.frameworks.flax.inputs import Given, bind, required
from seedbed.frameworks.flax.laws import Program
from seedbed.frameworks.flax.layers import Place
from seedbed.frameworks.flax.watch import Watch, explain
from seedbed.spec import Input, Specs

RANKS = (2, 4, 3, 5, 1)
"""Axes of the input tried, in this order, while there is none."""
CALLS = ("method", "mutable", "capture_intermediates")
"""Keywords of `init` itself."""


def trace(model: nn.Module, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Specs:
    """Every variable that `init` would make; without inputs, as far as that can be told."""
    keywords = dict(keywords)
    streams = _streams(keywords.pop("rngs", None))
    if model.scope is not None:
        raise InputError(
            f"{type(model).__name__}: is bound to variables.",
            remedy="Give the module itself: model.unbind()[0], or the one that bind was called on.",
        )
    if not inputs and not keywords:
        leaves = _without_inputs(model, streams)
        return Specs(tuple(spec_of(leaf) for leaf in leaves), "flax")
    bind(f"{type(model).__name__}.__call__", _call(model, keywords), inputs, _own(keywords))
    leaves = settle(lambda given: _dry_run(model, given, streams), inputs, keywords, "float32")
    return Specs(tuple(spec_of(leaf, reached=True) for leaf in leaves), "flax")


def _call(model: nn.Module, keywords: Mapping[str, Any]) -> Any:
    method = keywords.get("method") or "__call__"
    if isinstance(method, str):
        return getattr(model, method)
    return method.__get__(model) if not hasattr(method, "__self__") else method


def _own(keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in keywords.items() if k not in CALLS}


def _streams(rngs: Any) -> tuple[str, ...]:
    """Names of the streams of random numbers that a call is given; values are not drawn."""
    if rngs is None or not isinstance(rngs, (Mapping, Iterable)) or hasattr(rngs, "dtype"):
        return ("params",)
    return tuple(dict.fromkeys(("params", *map(str, rngs))))


def _without_inputs(model: nn.Module, streams: tuple[str, ...]) -> Sequence[Leaf]:
    """What is known before any input: sizes of inputs are symbols, and their number is tried."""
    number = required(model.__call__)
    first: Exception | None = None
    for rank in RANKS if number else (0,):
        for dtype in ("float32", "int32"):
            inputs = [Input((None,) * rank, dtype)] * number
            try:
                leaves = settle(lambda given: _dry_run(model, given, streams), inputs, {}, dtype)
            except Exception as error:  # this number of axes does not do
                first = first or error
                continue
            for leaf in leaves:
                leaf.depends.clear()
                leaf.waits = leaf.start is None
            return leaves
    raise InputError(
        f"{type(model).__name__}: what parameters it has cannot be told without inputs.",
        facts=[str(first).split("\n")[0]] if first else [],
        remedy="Give a shape for each input of its call, None for what varies:\n    seedbed.trace(model, (None, None))",
    ) from first


def _dry_run(model: nn.Module, given: Given, streams: tuple[str, ...]) -> Sequence[Leaf]:
    """Trace `init`, and read each variable's start in the program.

    Raises:
        ShapeError: Sizes do not fit; the layer that found out is named, and the one it got them from.
        ModelError: The module reads values, which a dry run does not have.
    """
    watch, leaves = Watch(), list[Leaf]()

    def started(*arguments: Any) -> list[Any]:
        keys = dict(zip(streams, arguments, strict=False))
        inputs, named = given.rebuild(arguments[len(streams) :])
        with nn.intercept_methods(_watching(watch)):
            variables = model.init(keys, *inputs, **named)
        found = list(_flat(variables))
        leaves.extend(leaf for leaf, _ in found)
        return [value for _, value in found]

    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        closed = jax.make_jaxpr(started)(*[key] * len(streams), *given.leaves)
    except SeedbedError:
        raise
    except Exception as error:  # whatever the model's own code raised, told as a sentence with its place
        raise explain(error, watch) from error
    program = Program(closed, tuple(range(len(streams))))
    for number, leaf in enumerate(leaves):
        path = leaf.place.part
        owner, _, part = path.rpartition(".")
        leaf.place = leaf.place._replace(
            layer=watch.layers.get(path), owner=watch.layers.get(owner) if path else None, part=part
        )
        one = watch.shapes.get((path, leaf.place.name))
        if one is not None:
            leaf.place = leaf.place._replace(stacked=layers.stacked(one, leaf.place.shape))
        leaf.result = number
        read_start(leaf, program)
    return sorted(leaves, key=_made_when(watch))


def _made_when(watch: Watch) -> Any:
    """By the first call of their layers: what passes through `scan` and its like comes back sorted by name."""
    order = {id(layer): n for n, layer in enumerate(watch.layers.values())}

    def key(leaf: Leaf) -> tuple[Any, ...]:
        kernel_last = leaf.place.name == "bias"
        return leaf.kind != "parameter", order.get(id(leaf.place.layer), -1), kernel_last

    return key


def _watching(watch: Watch) -> Any:
    def intercept(function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        path = ".".join(map(str, module.path))
        if context.method_name == "setup":
            watch.layers.setdefault(path, module)
            return function(*args, **kwargs)
        watch.enter(path, module, (*args, *kwargs.values()))
        output = function(*args, **kwargs)
        held = module.variables.get("params") or {}
        watch.shapes.update(
            {(path, name): meta.unbox(a).shape for name, a in held.items() if hasattr(meta.unbox(a), "shape")}
        )
        watch.leave(output, sized=bool(held))
        return output

    return intercept


def _flat(variables: Mapping[str, Any]) -> Iterable[tuple[Leaf, Any]]:
    """Every variable, in the order in which the module made them; boxes of metadata are opened."""

    def walk(tree: Any, path: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], Any]]:
        if isinstance(tree, Mapping):
            for name, inner in tree.items():
                yield from walk(inner, (*path, str(name)))
            return
        value = meta.unbox(tree)
        for keys, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
            yield (*path, *(str(getattr(k, "idx", getattr(k, "key", getattr(k, "name", k)))) for k in keys)), leaf

    for collection, tree in variables.items():
        for path, value in walk(tree, ()):
            array = value if hasattr(value, "dtype") else jax.numpy.asarray(value)
            inside = collection == "params"
            name = ".".join(path if inside else (collection, *path))
            place = Place(None, path[-1], array.shape, None, ".".join(path[:-1]))
            yield Leaf(name, ".".join(path[:-1]), place, str(array.dtype), "parameter" if inside else "buffer"), array
