"""What inputs settle, and what they leave open: sizes that vary are tried at several values and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from seedbed.errors import ShapeError
from seedbed.frameworks.keras import shapes, walk
from seedbed.frameworks.keras.dryrun import DryRun, default_dtype, is_array, is_shape, sizes_of, standing_in
from seedbed.frameworks.keras.rollback import undone
from seedbed.spec import Input, ParamSpec, Settled

STAND_INS = (64, 32, 128, 224, 256, 16, 512, 8, 4, 2, 1)
"""Sizes tried, in this order, where an input's size varies."""

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
    axes = varying(inputs, keywords)
    base, first = _first_that_fits(model, inputs, keywords, axes, known)
    told, notes, waits = dict(first), {path: dict[str, None]() for path in first}, set[str]()
    for name, axis in axes:
        note = f"{name} axis {axis}"
        for other in (base * 2, base + 1):
            sizes = {**dict.fromkeys(axes, base), (name, axis): other}
            try:
                found = _try(model, inputs, keywords, sizes, known)
            except ShapeError as error:  # a layer whose sizes are fixed does not take this one
                for path in first:
                    if path.rpartition(".")[0] == error.path:
                        notes[path][note] = None
                continue
            for path, spec in first.items():
                again = found.get(path, spec)
                if (again.shape, again.start) != (spec.shape, spec.start):
                    notes[path][note] = None
                    waits.add(path)
                    pairs = zip(told[path].shape, again.shape, strict=True)
                    shape = tuple(a if a == b else None for a, b in pairs)
                    told[path] = replace(told[path], shape=shape, start=None, lazy=True)
    for path, found_notes in notes.items():
        if found_notes:
            told[path] = replace(told[path], varies=", ".join(found_notes))
    built = shapes.complete(model)
    settled = () if waits or built else (recipe_of_inputs(model, inputs, keywords),)
    return Settlement(told, settled)


def _try(model: Any, inputs: Sequence[Any], keywords: Mapping[str, Any], sizes: Any, known: shapes.Natives) -> Specs:
    with undone(model):
        run = DryRun(model)
        given = [standing_in(v, model, sizes, f"input {i}") for i, v in enumerate(inputs)]
        run.run(given, {k: standing_in(v, model, sizes, f"input {k!r}") for k, v in keywords.items()})
        specs = shapes.tell(model, known)
        for place in walk.held(model):
            specs[place.path] = replace(specs[place.path], reached=reached(place, run))
        return specs


def reached(place: walk.Held, run: DryRun) -> bool:
    """Whether a run used a variable: its layer was called, or one above it that answers for its parts."""
    for _, layer in place.owners[::-1]:
        if id(layer) in run.called:
            return layer is place.layer or not any(id(part) in run.called for _, part in walk.children(layer))
    return False


def _first_that_fits(
    model: Any, inputs: Sequence[Any], keywords: Mapping[str, Any], axes: Sequence[tuple[str, int]], known: Any
) -> tuple[int, Specs]:
    errors: list[ShapeError] = []
    for size in STAND_INS if axes else (0,):
        try:
            return size, _try(model, inputs, keywords, dict.fromkeys(axes, size), known)
        except ShapeError as error:
            errors.append(error)
    raise _without_stand_ins(errors) if axes else errors[0]


def _without_stand_ins(errors: Sequence[ShapeError]) -> ShapeError:
    """The first error, with a ? where the sizes it names are those that stood in for others."""
    first = errors[0]
    got = first.got
    same = [e.got for e in errors if e.path == first.path and e.got and len(e.got) == len(got or ())]
    if got is None or len(same) < 2:
        facts, sentence = [*first.facts, f"with  {STAND_INS[0]} in place of each size that varies"], first.sentence
    else:
        shape = tuple(n if all(s[axis] == n for s in same) else None for axis, n in enumerate(got))
        shown = ParamSpec(path=first.path, shape=shape).shown_shape
        facts, sentence = [f.replace(str(got), shown) for f in first.facts], first.sentence.replace(str(got), shown)
        got = shape
    error = ShapeError(sentence, facts=facts, remedy=first.remedy, path=first.path)
    error.__dict__.update({**vars(first), **vars(error), "got": got})
    error.__cause__ = first.__cause__
    return error


def varying(inputs: Sequence[Any], keywords: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Every axis of every input whose size is None."""
    found: list[tuple[str, int]] = []

    def walk_in(value: Any, name: str) -> None:
        if isinstance(value, Input) or is_shape(value):
            shape = value.shape if isinstance(value, Input) else value
            found.extend((name, axis) for axis, n in enumerate(shape) if n is None)
        elif isinstance(value, Mapping):
            for k, v in value.items():
                walk_in(v, f"{name}[{k!r}]")
        elif isinstance(value, (tuple, list)):
            for i, v in enumerate(value):
                walk_in(v, f"{name}[{i}]")

    for i, value in enumerate(inputs):
        walk_in(value, f"input {i}")
    for k, value in keywords.items():
        walk_in(value, f"input {k!r}")
    return found


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
