"""What inputs settle, and what they leave open: sizes that vary are tried at several values and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from seedbed.errors import ModelError
from seedbed.frameworks.keras import shapes, walk
from seedbed.frameworks.keras.dryrun import DryRun, default_dtype, is_array, is_shape, sizes_of, standing_in
from seedbed.frameworks.keras.rollback import undone
from seedbed.frameworks.varying import Axis, Facts, try_sizes, varying
from seedbed.spec import Input, ParamSpec, Settled

Specs = dict[str, ParamSpec]


@dataclass(frozen=True)
class Settlement:
    """What dry runs told.

    Attributes:
        specs: Every variable, by path; sizes that vary are None.
        settled: The inputs to build the model with; empty while anything varies, or when it is built.
    """

    specs: Specs
    settled: tuple[Settled, ...]


def settle(model: Any, inputs: Sequence[Any], keywords: Mapping[str, Any], known: shapes.Natives) -> Settlement:
    """Settle all that the inputs can settle."""

    def attempt(sizes: Mapping[Axis, int]) -> tuple[Specs, Facts]:
        specs = _try(model, inputs, keywords, sizes, known)
        return specs, {path: (spec.shape, spec.start) for path, spec in specs.items()}

    tried = try_sizes(attempt, varying(inputs, keywords, is_shape))
    told = dict(tried.run)
    for path in tried.moved:
        told[path] = replace(told[path], shape=tried.shapes[path], start=None, lazy=True)
    for path, axes in tried.varies.items():
        told[path] = replace(told[path], varies=axes)
    built = shapes.complete(model)
    settled = () if tried.moved or built else (recipe_of_inputs(model, inputs, keywords),)
    return Settlement(told, settled)


def _try(model: Any, inputs: Sequence[Any], keywords: Mapping[str, Any], sizes: Any, known: shapes.Natives) -> Specs:
    with undone(model):
        run = DryRun(model)
        given = [standing_in(v, model, sizes, f"input {i}") for i, v in enumerate(inputs)]
        run.run(given, {k: standing_in(v, model, sizes, f"input {k!r}") for k, v in keywords.items()})
        _require_kept(model, run)
        specs = shapes.tell(model, known)
        for place in walk.held(model):
            specs[place.path] = replace(specs[place.path], reached=reached(place, run))
        return specs


def _require_kept(model: Any, run: DryRun) -> None:
    """Raise `ModelError` where the model's call makes a layer: Keras keeps no weights of it, and nothing can start them."""
    own = {id(layer) for layer in walk.layers(model)}
    for layer in run.called.values():
        if id(layer) not in own and any(v._value is None for v in layer.weights):
            raise ModelError(
                f"{model.name}: its call makes a {type(layer).__name__}, whose weights Keras does not keep.",
                remedy="Make the layer in __init__, and keep it in an attribute.",
            )


def reached(place: walk.Held, run: DryRun) -> bool:
    """Whether a run used a variable: its layer was called, or one above it that answers for its parts."""
    for _, layer in place.owners[::-1]:
        if id(layer) in run.called:
            return layer is place.layer or not any(id(part) in run.called for _, part in walk.children(layer))
    return False


def recipe_of_inputs(model: Any, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Settled:
    """What the model is to be built with, as data that goes to JSON and back."""

    def plain(value: Any) -> tuple[Any, ...]:
        if isinstance(value, Input) or is_shape(value):
            value = value if isinstance(value, Input) else Input(value)
            return "shape", value.shape, value.dtype or default_dtype(model)
        if is_array(value):
            import keras

            return "shape", sizes_of(value), keras.backend.standardize_dtype(value.dtype)
        if isinstance(value, Mapping):
            return "dict", tuple((k, plain(v)) for k, v in value.items())
        if isinstance(value, (tuple, list)):
            return "tuple" if isinstance(value, tuple) else "list", tuple(map(plain, value))
        return "value", value

    attributes = (("inputs", plain(list(inputs))), ("keywords", plain(dict(keywords))))
    return Settled("", type(model).__name__, attributes)


def inputs_of(settled: Settled) -> tuple[list[Any], dict[str, Any]]:
    """The inverse: shapes as `Input`."""

    def read(value: tuple[Any, ...]) -> Any:
        kind, *rest = value
        if kind == "shape":
            return Input(tuple(rest[0]), rest[1])
        if kind == "dict":
            return {k: read(v) for k, v in rest[0]}
        if kind in ("tuple", "list"):
            return (tuple if kind == "tuple" else list)(map(read, rest[0]))
        return rest[0]

    attributes = dict(settled.attributes)
    return read(attributes["inputs"]), read(attributes["keywords"])


def free_batch(value: Any) -> Any:
    """Inputs whose first axis, the batch, is left open, as Keras's own `build((None, 20))` leaves it."""
    if isinstance(value, Input):
        return Input((None, *value.shape[1:]), value.dtype) if value.shape else value
    if isinstance(value, Mapping):
        return {k: free_batch(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map(free_batch, value))
    return value
