"""What is there before any input, and by which initializer each variable was made."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.utils.python_utils import is_default

from seedbed.errors import InputError
from seedbed.frameworks.keras import layers, starts, walk
from seedbed.frameworks.keras.dryrun import valueless
from seedbed.frameworks.keras.rollback import Undo, undone
from seedbed.initializers import Zeros
from seedbed.spec import Layout, ParamSpec

PROBES = (64, 128, 320)
"""Sizes that stand in for what only an input can tell; layers that cut channels into groups take all of them."""
RANKS = (3, 4, 2, 5)

Natives = Mapping[int, Any]
"""The initializer of each variable that has its values, by the variable's id."""


def natives(model: Any) -> Natives:
    """By which initializer each variable was made: Keras forgets it, so its layer is built once more, without values."""
    found: dict[int, Any] = {}
    for layer in walk.layers(model):
        mine = list(walk.own(layer))
        if not mine or all(v._value is None for _, v, _ in mine) or not layer._build_shapes_dict:
            continue
        made = _made_again(layer, [layer]) or _made_again(layer, walk.layers(layer))  # a build may build the parts too
        for name, variable, _ in mine:
            again = made.get(name)
            if again is not None and again is not variable and again._shape == variable._shape:
                found[id(variable)] = again._initializer
    return found


def _made_again(layer: Any, fresh: list[Any]) -> dict[str, Any]:
    """A layer's variables by name, made once more; nothing where its build cannot be run with these layers unbuilt."""
    with undone(layer, alone=True), valueless(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in fresh:
            one._tracker.unlock()
            for store in ("trainable_variables", "non_trainable_variables"):
                one._tracker.config[store][1].clear()
                one._tracker.stored_ids[store].clear()
            (vars(one).get("_modules") or {}).pop("_torch_params", None)
            one.built = False
            if getattr(one, "lora_enabled", False):
                one.lora_enabled = False  # its build makes them again, and refuses to where they are there
        try:
            layer.build(**layer._build_shapes_dict)
        except Exception:  # a user's build that cannot be run twice: how its variables start stays unknown
            return {}
        return {name: variable for name, variable, _ in walk.own(layer)}


def tell(model: Any, known: Natives) -> dict[str, ParamSpec]:
    """The spec of every variable that a model has now, by its path."""
    return {place.path: _spec(place, known) for place in walk.held(model)}


def _spec(place: walk.Held, known: Natives) -> ParamSpec:
    variable, layer = place.variable, place.layer
    shape = tuple(int(n) for n in variable._shape)
    native = known.get(id(variable)) if variable._initializer is None else variable._initializer
    origin = f"{_origin(layer, place.name)} (keras {keras.__version__})" if native is not None else ""
    if variable._value is not None and (computed := _computed_by(place)):
        native, origin = None, f"{type(layer).__name__}.{computed}"  # made of other values: no start to be made again
    use = layers.use(place, shape)
    kind, bases = type(layer), [c.__name__ for c in type(layer).__mro__[1:] if _named(c)]
    shown = kind.__name__
    if use.within:
        shown, bases = (
            (use.within, [shown, *bases]) if isinstance(layer, tuple(layers.CELLS)) else (shown, [*bases, use.within])
        )
    unit, *_ = place.owners[-1 - use.up] if use.up < len(place.owners) else ("", None)
    unit = f"{unit}.{use.below}".strip(".") if use.below else unit
    layout = Layout(order=use.order, blocks=use.blocks, of=use.of) if use.order or use.blocks else None
    dtype = keras.backend.standardize_dtype(variable._dtype)
    start = starts.start_of(native, shape, layer, place.name, layout)
    if not math.prod(shape):
        start = Zeros()
    return ParamSpec(
        path=place.path,
        shape=shape,
        dtype=dtype,
        role=use.role,
        axes=use.axes,
        packed=use.packed,
        groups=use.groups,
        layer=shown,
        bases=tuple(dict.fromkeys(bases)),
        kind="parameter" if place.trained else "buffer",
        start=start,
        origin=origin,
        aliases=tuple(place.aliases),
        layout=layout,
        unit=unit,
        leaf=use.leaf,
    )


def _computed_by(place: walk.Held) -> str:
    """The method of a layer that gave a variable its value from data or from other variables; empty for none."""
    if isinstance(place.layer, keras.layers.Normalization):
        return "adapt"
    quantized = getattr(place.layer, "quantization_mode", None) is not None
    return "quantize" if quantized and not place.trained else ""


def _named(cls: type) -> bool:
    return issubclass(cls, keras.layers.Layer) and cls is not keras.layers.Layer


def _origin(layer: Any, name: str) -> str:
    kinds = (f"{name}_initializer", f"{name.removesuffix('_kernel')}_initializer", "depthwise_initializer")
    argument = next((k for k in kinds if hasattr(layer, k)), "build")
    return f"{type(layer).__name__}.{argument}"


def complete(model: Any) -> bool:
    """Whether every layer of a model has been built."""
    return all(layer.built for layer in walk.layers(model))


def before_input(model: Any, known: Natives) -> tuple[dict[str, ParamSpec], list[Any]]:
    """Specs without any input, with None for what only an input can tell; and the layers that need none.

    Every layer that is not built is built alone, on sizes made up, three times; what moves is not known.
    """
    there = {id(place.variable) for place in walk.held(model)}
    told = []
    for size in PROBES:
        with undone(model), valueless(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tried = _probe_all(model, size)
            waits = {p.path for p in walk.held(model) if id(p.variable) not in there}
            members = [
                (layer, {p.path for p in walk.held(model) if any(o is layer for _, o in p.owners)}) for layer in tried
            ]
            told.append((tell(model, known), waits, members))
    (first, waits, members), *others = told
    for specs_there, _, _ in others:
        uneven = [p for p in first.keys() & specs_there.keys() if len(first[p].shape) != len(specs_there[p].shape)]
        for path in [*(first.keys() ^ specs_there.keys()), *uneven]:
            spec = first.get(path) or specs_there[path]
            raise cannot_be_told(path.rpartition(".")[0], spec.layer)
    specs = {p: _open(s, [there[p] for there, _, _ in others]) if p in waits else s for p, s in first.items()}
    free = [o for o, inside in members if _needs_no_input(o) and inside and all(specs[p].known for p in inside)]
    return specs, free


def _open(spec: ParamSpec, others: list[ParamSpec]) -> ParamSpec:
    shape = tuple(a if all(o.shape[i] == a for o in others) else None for i, a in enumerate(spec.shape))
    moved = None in shape
    packed = tuple(n if all(o.packed[i] == n for o in others) else 1 for i, n in enumerate(spec.packed))
    start = None if moved or any(o.start != spec.start for o in others) else spec.start
    return replace(spec, shape=shape, packed=packed, start=start, lazy=True)


def _probe_all(model: Any, size: int) -> list[Any]:
    """Build every layer that is not built, each alone; those that were."""
    tried, failed = [], list[tuple[str, Any]]()
    stack = [model]
    while stack:
        layer = stack.pop()
        if layer.built:
            stack += [child for _, child in walk.children(layer)][::-1]
            continue
        if not made_of_parts(layer) and _probe(layer, size):
            tried.append(layer)
            continue
        parts = [child for _, child in walk.children(layer)]
        if not parts and not made_of_parts(layer) and not _without_variables(layer):
            failed.append((walk.path_of(model, layer), layer))
        stack += parts[::-1]
    if failed:
        raise cannot_be_told(failed[0][0], type(failed[0][1]).__name__)
    return tried


def made_of_parts(layer: Any) -> bool:
    """Whether all that a layer has to build is its parts."""
    return isinstance(layer, (keras.Sequential, Functional)) or is_default(layer.build)


def _needs_no_input(layer: Any) -> bool:
    """Whether a layer builds without a shape: what another's `build` notes of one would be made up."""
    return all(p.default is not p.empty for p in inspect.signature(layer.build).parameters.values())


def _without_variables(layer: Any) -> bool:
    """Whether a layer will have no variables, though only an input of its own size builds it."""
    return isinstance(layer, keras.layers.Normalization) and layer.input_mean is not None


def _probe(layer: Any, size: int) -> bool:
    groups = getattr(layer, "groups", 1)
    if isinstance(groups, int) and groups > 1 and size % groups:
        size *= groups
    spec = layer.input_spec if not isinstance(layer.input_spec, (list, tuple)) else None
    ranks = [n for n in (getattr(spec, "ndim", None), getattr(spec, "min_ndim", None)) if n and n > 2]
    if isinstance(layer, keras.layers.PReLU) and layer.shared_axes:
        ranks.append(max(layer.shared_axes) + 2)  # the last axis, which is not shared, is one more
    wanted = [p for p in inspect.signature(layer.build).parameters.values() if p.default is p.empty]
    for inputs in (1, 2, 3):  # one shape, or a list of several
        for rank in dict.fromkeys([*ranks, *RANKS]):
            shape = (2, *(size,) * (rank - 1))
            undo = Undo(layer)
            try:
                given = [shape] * inputs if inputs > 1 else shape
                layer.build(*(given for p in wanted if p.kind is not p.VAR_POSITIONAL))
            except Exception:  # not what it takes
                undo()
                continue
            return True
    return False


def cannot_be_told(path: str, layer: str) -> InputError:
    """The error of a layer that only an input builds."""
    return InputError(
        f"{path or 'the model'}: what parameters {layer} will have cannot be told before an input.",
        remedy="Give the shape of an input, such as\n    seedbed.plan(model, (batch, features), ...)",
        path=path,
    )
