"""Flax: linen's modules traced and their variables made, nnx's filled in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as flax_linen
from flax import nnx as flax_nnx
from flax.core import meta

from seedbed.errors import InputError, ModelError, PlanError, shown
from seedbed.frameworks import Ranks, Room
from seedbed.frameworks.flax import graph, layers, nnx, wish
from seedbed.frameworks.flax.held import Held, held, ranks_of
from seedbed.frameworks.flax.laws import Matrix, Program
from seedbed.frameworks.flax.linen import trace as trace_linen
from seedbed.frameworks.flax.place import Filling, device_of
from seedbed.frameworks.flax.shardings import by_path
from seedbed.frameworks.flax.slots import slot
from seedbed.initializers import Initializer, Native, Orthogonal
from seedbed.materialize import Which
from seedbed.plan import Plan
from seedbed.recipe import Recipe
from seedbed.spec import ParamSpec, Specs

__all__ = [
    "apply", "deferred", "fit", "is_native", "keep", "lazy", "owns", "owns_class", "owns_values", "placing", "recording",
    "slot", "trace", "translate", "values",
]  # fmt: skip

name = "flax"


def owns(model: Any) -> bool:
    """Whether `model` is a module of linen or nnx."""
    return isinstance(model, (flax_linen.Module, flax_nnx.Module))


def owns_class(cls: type) -> bool:
    """Whether a class is of one of Flax's layers."""
    return issubclass(cls, (flax_linen.Module, flax_nnx.Module))


def owns_values(values: Mapping[str, Any]) -> bool:
    """Whether a mapping, nested or not, holds JAX's arrays and nothing else."""
    leaves = jax.tree_util.tree_leaves(_plain(values))
    return bool(leaves) and all(isinstance(leaf, jax.Array) for leaf in leaves)


def trace(model: Any, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Specs:
    """Every parameter and buffer; their sizes as settled by a dry run when there are inputs."""
    if isinstance(model, flax_linen.Module):
        return trace_linen(model, inputs, keywords)
    return nnx.trace(model, inputs, keywords)


def translate(native: Native, spec: ParamSpec) -> Initializer:
    """One of JAX's own initializers, or one of the same form, as ours.

    It is shown the matrix that Flax's layers show theirs, where a kernel has several axes in or out.

    Raises:
        ModelError: It is not a function of a key, a shape and a dtype.
    """
    shape = layers.flat(spec.axes, spec.sizes)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def made(key: Any) -> Any:
        return jnp.reshape(meta.unbox(native.function(key, shape, jnp.dtype(spec.dtype))), spec.sizes)

    try:
        closed = jax.make_jaxpr(made)(key)
    except Exception as error:  # whatever the function raised
        raise ModelError(
            f"{spec.path}: {native.name} does not start it.",
            facts=[f"said  {type(error).__name__}: {str(error).splitlines()[0]}"],
            remedy="Give a function of (key, shape, dtype), as those of jax.nn.initializers give.",
            path=spec.path,
        ) from error
    program = Program(closed, (0,))
    out = closed.jaxpr.outvars[0]
    law = program.law(out)
    if isinstance(law, Matrix):
        into_last = spec.axes[-1:] == ("out",) and "out" not in spec.axes[:-1] and law.columns == shape[-1]
        law = Orthogonal(gain=law.gain) if len(shape) == 2 or into_last else None
    found = law if law is not None else program.recorded(out)
    assert found is not None, "its only argument is a key"
    return found


def fit(plan: Plan, model: Any) -> None:
    """Raise `PlanError` unless the plan is for this model."""
    if isinstance(model, flax_linen.Module):
        kept = [e.spec.path for e in plan if e.kept]
        if kept:
            raise PlanError(
                f"{kept[0]}: the plan keeps its values, and a linen module has none.",
                remedy="Give it a rule.",
                paths=tuple(kept),
            )
        return
    nnx.fit(plan, model)


@contextmanager
def placing(plan: Plan, model: Any, device: Any, sharding: Any, which: Which) -> Iterator[Room]:
    """Where the plan's values go: new variables for linen, the model's own for nnx."""
    fit(plan, model)
    if which == "known" and sharding is not None:
        raise InputError(
            f"sharding: {plan.unknown[0]} has no size yet, and a wish that is kept knows of no layout.",
            facts=shown(plan.unknown) if len(plan.unknown) > 1 else (),
            remedy="Give the inputs, so that all of it starts now:\n    seedbed.initialize(model, ..., sharding=...)",
            paths=plan.unknown,
        )
    traced = isinstance(jnp.zeros(()), jax.core.Tracer)
    filling = Filling(device_of(device), by_path(sharding, plan, model))
    if not isinstance(model, flax_linen.Module):
        with nnx.placing(plan, model, filling, which, traced=traced) as room:
            yield room
        return
    if which == "known":
        yield Room((), lambda: model)
        return
    filling.add(tuple(plan), traced=traced)
    yield Room(filling.jobs, lambda: _variables(plan, filling))


def _variables(plan: Plan, filling: Filling) -> dict[str, Any]:
    """What linen's `init` returns: collections, as nested dictionaries, in the order of the plan."""
    variables: dict[str, Any] = {}
    for entry in plan:
        *outer, leaf = entry.spec.path.split(".")
        inside = variables
        for part in ["params", *outer] if entry.spec.kind == "parameter" else outer:
            inside = inside.setdefault(part, {})
        inside[leaf] = filling.arrays[entry.spec.path]()
    return variables


def keep(
    model: Any, specs: Specs, recipe: Recipe | None, seed: int, streams: Mapping[str, str] | None, device: Any
) -> Any:
    """Keep the wish: linen's `init` carries it out, or nnx's first call."""
    kept = wish.Wish(recipe, seed, streams, device)
    return wish.keep(model, kept) if isinstance(model, flax_linen.Module) else nnx.keep(model, kept)


def ranks(model: Any) -> Ranks | None:
    """The processes that hold a model's arrays together; before there are arrays each starts its own."""
    if isinstance(model, flax_linen.Module):
        return None
    arrays = [h.variable.get_value() for h in graph.walk(model)] if isinstance(model, flax_nnx.Module) else None
    return ranks_of(_of_variables(model).values() if arrays is None else arrays)


def values(model: Any) -> dict[str, Held]:
    """The arrays of an nnx module or of variables, by path."""
    if isinstance(model, flax_linen.Module):
        raise ModelError(
            f"{type(model).__name__}: a linen module holds no values.",
            remedy="Give the variables that initialize returned.",
        )
    found = nnx.arrays(model) if isinstance(model, flax_nnx.Module) else _of_variables(model)
    return {path: held(path, array) for path, array in found.items()}


def _plain(values: Mapping[str, Any]) -> Any:
    unboxed = meta.unbox(values)
    return unboxed.to_pure_dict() if hasattr(unboxed, "to_pure_dict") else unboxed


def _of_variables(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by path: linen's variables, their `params` alone, or a mapping of paths."""
    found: dict[str, Any] = {}

    def walk(tree: Any, path: str) -> None:
        if isinstance(tree, Mapping):
            for k, v in tree.items():
                walk(v, f"{path}.{k}" if path else str(k))
        else:
            found[path] = tree

    for collection, tree in _plain(values).items():
        walk(tree, "" if collection == "params" and isinstance(tree, Mapping) else str(collection))
    return found


def apply(model: Any, function: Any) -> None:
    """The chapters' way: call `function` on every module."""
    if isinstance(model, flax_linen.Module):
        raise InputError(
            f"{type(model).__name__}: a linen module's layers hold no values that a function of a layer could set.",
            remedy="Give a recipe, an initializer, or a function of (key, shape, dtype) such as jax.nn.initializers.he_normal().",
        )
    for _, module in nnx.modules(model):
        function(module)


def is_native(function: Any) -> bool:
    """Whether a callable is an initializer of JAX's own, or of the same form: of a key, a shape and a dtype."""
    if getattr(function, "__module__", "").startswith("jax."):
        return True
    import inspect

    try:
        return len(inspect.signature(function).parameters) >= 2
    except (TypeError, ValueError):
        return False


def deferred() -> AbstractContextManager[None]:
    """Building a linen module costs nothing already."""
    return nullcontext()


def recording() -> bool:
    """Never: there is nothing to record."""
    return False


def lazy(cls: type, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """An nnx layer whose sizes, where they are a `Dim`, come from its first input."""
    if not issubclass(cls, flax_nnx.Module):
        raise ModelError(
            f"lazy: {cls.__name__} is lazy already: linen's layers take sizes from their input.",
            remedy=f"Use it as it is: {cls.__name__}(...).",
        )
    return nnx.lazy(cls, arguments, keywords)
