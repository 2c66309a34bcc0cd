"""Where a plan's values go: a model's own variables, which stay the same objects once they are there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope
from numpy.typing import NDArray

from seedbed.errors import ModelError, SeedbedError, UninitializedError
from seedbed.fill import fill, storage_dtype
from seedbed.frameworks import Room
from seedbed.frameworks.keras import settle, shapes, walk
from seedbed.frameworks.keras.arrays import aligned, array_of, hand_over, tensor_of, torch_memory, torch_view
from seedbed.frameworks.keras.dryrun import DryRun, standing_in
from seedbed.frameworks.keras.rollback import BUILDING, Undo, undone
from seedbed.materialize import Job, Which
from seedbed.plan import Entry, Plan, require_fit
from seedbed.region import Region


class Memory:
    """The memory of one variable: its own where NumPy can reach it, handed over when it is full otherwise."""

    def __init__(self, variable: Any, dtype: str) -> None:
        self.variable, self.dtype = variable, dtype
        self.left = math.prod(variable._shape)
        self.array: NDArray[Any] | None = None
        self.own = False

    def block(self, region: Region) -> NDArray[Any]:
        """The region of the variable's memory, or of memory that becomes its own."""
        if self.array is None:
            self.array, self.own = _memory(self.variable, self.dtype)
        return self.array[region.slices] if region.start else self.array

    def done(self, region: Region, values: NDArray[Any]) -> None:
        """Hand the memory over once all of it is filled."""
        self.left -= values.size
        if self.left <= 0 and not self.own:
            assert self.array is not None
            hand_over(self.variable, self.array, self.dtype)
        if self.left <= 0:
            self.array = None


def _memory(variable: Any, dtype: str) -> tuple[NDArray[Any], bool]:
    """Memory for all of a variable, and whether it is the variable's own."""
    if keras.backend.backend() == "torch":
        held = torch_view(torch_memory(variable), dtype)
        if held is not None:
            return held, True
    return aligned(tuple(variable._shape), storage_dtype(dtype)), False


class Later:
    """An initializer that gives a plan's values, for variables that Keras itself fills when its trace ends."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """The values; zeros where only shapes are traced."""
        if in_stateless_scope():
            return keras.ops.zeros(shape, dtype=dtype)
        spec = self.entry.spec
        array = aligned(spec.sizes, storage_dtype(spec.dtype))
        return tensor_of(fill(self.entry, out=array), spec.dtype)


@contextmanager
def placing(plan: Plan, model: Any, which: Which) -> Iterator[Room]:
    """Build what is not built, without values, and say where they go; inside, they are filled.

    `known` fills the variables that are there; `waiting` builds the model and fills what was not there.
    Whatever fails, a model that was not built is so again.

    Raises:
        PlanError: The plan is for another model; every difference is listed.
        ModelError: This happens inside `jax.jit`.
    """
    with BUILDING, _eagerly():
        refuse_traces(model)
        undo = Undo(model)
        try:
            _build(plan, model, which)
            there = {p.path: p for p in walk.held(model)}
            if which == "all" and not plan.settled:
                for spec in (e.spec for e in plan if e.spec.lazy and e.spec.known and e.spec.path not in there):
                    raise shapes.cannot_be_told(spec.path.rpartition(".")[0], spec.layer)
            fit_to(plan, there, partly=which == "known")
            fresh = {path for path, p in there.items() if p.variable._value is None}
            todo = [e for e in plan if e.spec.path in there and (which != "waiting" or e.spec.path in fresh)]
            for entry in todo:
                if not entry.settled and entry.spec.path in fresh:
                    plan.require_known()
            todo = [e for e in todo if e.settled and not e.kept]
            if in_stateless_scope():
                for entry in todo:
                    there[entry.spec.path].variable._initializer = Later(entry)
                todo = []
            yield Room([Job(e, Memory(there[e.spec.path].variable, e.spec.dtype)) for e in todo], lambda: model)
            _finish(model, [there[path].variable for path in fresh], undo)
        except BaseException:
            if any(p.variable._value is None for p in walk.held(model)) or not in_stateless_scope():
                undo()
            raise
        undo.recall_random()


def _eagerly() -> Any:
    """In a function that TensorFlow compiles, variables are made outside of its graph."""
    if keras.backend.backend() != "tensorflow" or in_stateless_scope():
        return nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def refuse_traces(model: Any) -> None:
    """Raise inside a function that JAX traces: values made there would be its tracers, and stay in the model."""
    if keras.backend.backend() != "jax" or in_stateless_scope():
        return
    import jax

    if isinstance(jax.numpy.zeros(()), jax.core.Tracer):
        raise ModelError(
            f"{model.name}: cannot be started inside a function that JAX traces: its weights would be traced values.",
            remedy="Start it before jax.jit, jax.grad or jax.vmap:\n    seedbed.initialize(model, (batch, features), ...)",
        )


def _build(plan: Plan, model: Any, which: Which) -> None:
    """Build the model, or its layers that need no input, without values."""
    if shapes.complete(model):
        return
    if which == "known" or not plan.settled:
        _build_free(model)
        return
    inputs, keywords = settle.inputs_of(plan.settled[0])
    undo = Undo(model)
    try:
        _run(model, settle.free_batch(inputs), settle.free_batch(keywords))
    except SeedbedError:  # a model that takes no batch of unknown size
        undo()
        _run(model, inputs, keywords)


def _run(model: Any, inputs: Any, keywords: Any) -> None:
    given = [standing_in(v, model, {}, "input") for v in inputs]
    DryRun(model).run(given, {k: standing_in(v, model, {}, "input") for k, v in keywords.items()})


def _build_free(model: Any) -> None:
    from seedbed.frameworks.keras.dryrun import valueless

    _, free = shapes.before_input(model, {})
    with valueless():
        for layer in free:
            if not layer.built:
                layer.build((None, None))


def _finish(model: Any, fresh: list[Any], undo: Undo) -> None:
    """What Keras does once variables have values."""
    if in_stateless_scope():
        return
    waiting = global_state.get_global_attribute("uninitialized_variables") or []
    before, mine = {id(v) for v in undo.waiting}, {id(v) for v in fresh}
    for variable in [v for v in waiting if id(v) not in before]:
        if id(variable) not in mine:  # states of random generators, which are no part of a plan
            variable._deferred_initialize()
    waiting[:] = undo.waiting
    if keras.backend.backend() == "torch":
        for layer in walk.layers(model):
            if layer.built and not hasattr(layer, "_torch_params"):
                layer._track_variables()


def fit(plan: Plan, model: Any) -> None:
    """Raise `PlanError` unless the plan is for this model."""
    with undone(model):
        if plan.settled and not shapes.complete(model):
            _build(plan, model, "all")
        fit_to(plan, {p.path: p for p in walk.held(model)}, partly=not shapes.complete(model))


def fit_to(plan: Plan, there: Mapping[str, walk.Held], *, partly: bool) -> None:
    """Raise `PlanError` unless the plan is for a model of these variables, and all it keeps is there."""
    known = {a: p for p in there.values() for a in (p.path, *p.aliases)}
    planned = {path: e.spec for e in plan for path in e.spec.paths}
    rows = [(p, "only in the plan") for p in planned if p not in known and not (partly and planned[p].lazy)]
    rows += [(p, "only in the model") for p in known if p not in planned]
    homeless = []
    for entry in plan:
        spec, place = entry.spec, there.get(entry.spec.path)
        if place is None:
            continue
        variable = place.variable
        shape, dtype = tuple(variable._shape), keras.backend.standardize_dtype(variable._dtype)
        if spec.known and shape != spec.sizes:
            rows.append((spec.path, f"planned {spec.shown_shape}, has {shape}"))
        if dtype != spec.dtype:
            rows.append((spec.path, f"planned {spec.dtype}, has {dtype}"))
        if set(spec.aliases) - set(place.aliases):
            rows.append((spec.path, f"tied to {', '.join(spec.aliases)} in the plan only"))
        if entry.kept and variable._value is None:
            homeless.append(entry)
    require_fit(
        rows,
        homeless,
        because=": its layer is not built",
        remedy="Give it a rule, such as Keep(), or build the model first.",
    )


class Value:
    """A variable's values, fetched when they are asked for."""

    def __init__(self, variable: Any) -> None:
        self.variable = variable
        self.dtype = keras.backend.standardize_dtype(variable._dtype)
        self.shape = tuple(variable._shape)

    @property
    def array(self) -> NDArray[Any]:
        """On the CPU, bfloat16 and float8 as their bits."""
        return array_of(self.variable._value, self.dtype)


def values(model: Any) -> dict[str, Value]:
    """The arrays of a model or of a mapping, by every path.

    Raises:
        UninitializedError: Some have no values yet.
    """
    if isinstance(model, Mapping):
        return {path: Value(variable) for path, variable in model.items()}
    if not shapes.complete(model):
        specs, _ = shapes.before_input(model, {})
        path = next((p for p, s in specs.items() if s.lazy), "")
        if path:
            raise unbuilt(path)
    return {path: Value(p.variable) for p in walk.held(model) for path in (p.path, *p.aliases)}


def unbuilt(path: str) -> UninitializedError:
    """The error of reading what has no value yet."""
    return UninitializedError(
        f"{path}: has no value yet, because its layer is not built.",
        remedy="Give the model inputs, and the values exist:\n"
        "    seedbed.initialize(model, (batch, features), ...)\n"
        "or call the model once, which carries out the wish that was kept.",
        path=path,
    )
