"""Keras 3: its models traced, its variables placed, on TensorFlow, JAX and PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras

from seedbed.errors import InputError, ModelError
from seedbed.frameworks import Room
from seedbed.frameworks.keras import place, settle, shapes, starts, walk, wish
from seedbed.frameworks.keras.rollback import BUILDING
from seedbed.frameworks.keras.slot import slot
from seedbed.initializers import Initializer, Native
from seedbed.materialize import Which
from seedbed.plan import Plan
from seedbed.recipe import Recipe
from seedbed.spec import ParamSpec, Settled, Specs

__all__ = [
    "apply", "deferred", "fit", "is_native", "keep", "lazy", "name", "owns", "owns_class", "owns_values", "placing", "recording", "slot",
    "trace", "translate", "values",
]  # fmt: skip

name = "keras"


def owns(model: Any) -> bool:
    """Whether `model` is a Keras layer or model; on the PyTorch backend it is a PyTorch module too."""
    return isinstance(model, keras.layers.Layer)


def owns_values(values: Mapping[str, Any]) -> bool:
    """Whether a mapping holds Keras variables and nothing else."""
    return all(isinstance(v, keras.Variable) for v in values.values())


def trace(model: Any, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Specs:
    """Every weight; their sizes as settled by a dry run when there are inputs."""
    settled: tuple[Settled, ...] = ()
    with BUILDING, wish.stepped_aside(model):
        known = shapes.natives(model)
        if inputs or keywords:
            found = settle.settle(model, inputs, keywords, known)
            specs, settled = found.specs, found.settled
        elif shapes.complete(model):
            specs = shapes.tell(model, known)
        else:
            specs, _ = shapes.before_input(model, known)
    return Specs(tuple(specs.values()), name, settled)


def translate(native: Native, spec: ParamSpec) -> Initializer:
    """One of Keras's own initializers as ours."""
    return starts.translate(native, spec)


def fit(plan: Plan, model: Any) -> None:
    """Raise `PlanError` unless the plan is for this model."""
    with wish.stepped_aside(model):
        place.fit(plan, model)


@contextmanager
def placing(plan: Plan, model: Any, device: Any, sharding: Any, which: Which) -> Iterator[Room]:
    """Where the plan's values go, in the model."""
    _refuse(device, sharding)
    with wish.stepped_aside(model), place.placing(plan, model, which) as room:
        yield room
    if which == "all":
        wish.forget(model)


def keep(
    model: Any, specs: Specs, recipe: Recipe | None, seed: int, streams: Mapping[str, str] | None, device: Any
) -> Any:
    """Keep the wish until the model is built or called; the model."""
    wish.keep(model, recipe, seed, streams)
    return model


def _refuse(device: Any, sharding: Any) -> None:
    if device is not None:
        raise InputError(
            f"device: Keras puts variables where its own scope says, and this model is Keras's; got {device!r}.",
            remedy="Leave `device` out and write\n    with keras.device(...):\n        seedbed.initialize(model, ...)",
        )
    if sharding is not None:
        raise InputError(
            "sharding: Keras lays variables out by its own distribution, and this model is Keras's.",
            remedy="Call keras.distribution.set_distribution(...) first, and leave `sharding` out.",
        )


def ranks(model: Any) -> None:
    """One process holds all of a model."""


def values(model: Any) -> Mapping[str, Any]:
    """The arrays of a model or of a mapping, by every path."""
    if isinstance(model, Mapping):
        return place.values(model)
    with wish.stepped_aside(model):
        return place.values(model)


def apply(model: Any, function: Any) -> None:
    """The chapters' way: call `function` on every layer, the innermost first."""
    for layer in walk.layers(model)[::-1]:
        function(layer)


def is_native(function: Any) -> bool:
    """Whether this is one of Keras's initializers, or a class of them."""
    return starts.is_native(function)


def owns_class(cls: type) -> bool:
    """Whether a class is one of Keras's layers."""
    return issubclass(cls, keras.layers.Layer)


def lazy(cls: type, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Keras's layers leave sizes open by themselves."""
    raise ModelError(
        f"lazy: {cls.__name__} is Keras's, whose layers take sizes from their input by themselves.",
        remedy=f"Use it as it is: {cls.__name__}(...).",
    )


def deferred() -> AbstractContextManager[None]:
    """Keras's models have no memory until they are built, so there is nothing to defer."""
    return nullcontext()


def recording() -> bool:
    """Whether what PyTorch is told, where it is the backend, is recorded."""
    if keras.backend.backend() != "torch":
        return False
    from seedbed.frameworks import torch

    return torch.recording()
