"""Sizes that vary: dry runs at several sizes, and what differs between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from seedbed.errors import ShapeError
from seedbed.spec import Input, ParamSpec, Shape

STAND_INS = (64, 32, 128, 224, 256, 16, 512, 8, 4, 2, 1)
"""Sizes tried, in this order, where an input's size varies."""

Axis = tuple[str, int]
"""The name of an input, and one of its axes."""
Facts = Mapping[str, tuple[Shape, Any]]
"""What a dry run tells of each path: its shape, and whatever else may depend on sizes."""
Run = TypeVar("Run")
Attempt = Callable[[Mapping[Axis, int]], tuple[Run, Facts]]
"""A dry run with these sizes in place of those that vary; a `ShapeError` where they do not fit."""


@dataclass(frozen=True)
class Tried(Generic[Run]):
    """What dry runs at several sizes told.

    Args:
        run: The first that fitted.
        facts: What it told.
        shapes: Sizes that vary are None.
        axes: The axes that each path depends on.
        moved: Paths whose facts were not always the same.
    """

    run: Run
    facts: Facts
    shapes: Mapping[str, Shape]
    axes: Mapping[str, tuple[Axis, ...]]
    moved: frozenset[str]

    @property
    def varies(self) -> dict[str, str]:
        """The axes that paths depend on, in words."""
        return {path: ", ".join(f"{name} axis {axis}" for name, axis in axes) for path, axes in self.axes.items()}


def try_sizes(attempt: Attempt[Run], axes: Sequence[Axis]) -> Tried[Run]:
    """Run dry with several sizes in place of those that vary, and compare.

    Args:
        attempt: One dry run.
        axes: Those whose sizes vary.

    Raises:
        ShapeError: No size fits.
    """
    base, run, first = _first_that_fits(attempt, axes)
    shapes = {path: shape for path, (shape, _) in first.items()}
    notes: dict[str, dict[Axis, None]] = {path: {} for path in first}
    moved = set()

    def compare(changed: Sequence[Axis], other: int) -> bool:
        """Whether another size for some axes fits; what it changes is noted."""
        try:
            _, found = attempt({**dict.fromkeys(axes, base), **dict.fromkeys(changed, other)})
        except ShapeError as error:  # a layer whose sizes are fixed does not take this one
            for path in (p for p in first if error.path and p.rpartition(".")[0] == error.path):
                notes[path] |= dict.fromkeys(changed)
            return False
        for path in (p for p in first if found.get(p, first[p]) != first[p]):
            notes[path] |= dict.fromkeys(changed)
            moved.add(path)
            pairs = zip(shapes[path], found[path][0], strict=True)
            shapes[path] = tuple(a if a == b else None for a, b in pairs)
        return True

    def fits(changed: Sequence[Axis]) -> bool:
        return sum(compare(changed, other) for other in (base * 2, base + 1)) > 0

    alone = [axis for axis in axes if not fits([axis])]
    if len(alone) > 1 and not fits(alone):  # sizes that only fit each other are changed together
        for pair in itertools.combinations(alone, 2):
            fits(pair)
    return Tried(run, first, shapes, {p: tuple(n) for p, n in notes.items() if n}, frozenset(moved))


def _first_that_fits(attempt: Attempt[Run], axes: Sequence[Axis]) -> tuple[int, Run, Facts]:
    errors: list[ShapeError] = []
    for size in STAND_INS if axes else (0,):
        try:
            return size, *attempt(dict.fromkeys(axes, size))
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


def varying(inputs: Sequence[Any], keywords: Mapping[str, Any], is_shape: Callable[[Any], bool]) -> list[Axis]:
    """Every axis of every input whose size is None."""
    found: list[Axis] = []

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Input) or is_shape(value):
            shape = value.shape if isinstance(value, Input) else value
            found.extend((name, axis) for axis, n in enumerate(shape) if n is None)
        elif isinstance(value, Mapping):
            for k, v in value.items():
                walk(v, f"{name}[{k!r}]")
        elif isinstance(value, (tuple, list)):
            for i, v in enumerate(value):
                walk(v, f"{name}[{i}]")

    for i, value in enumerate(inputs):
        walk(value, f"input {i}")
    for k, value in keywords.items():
        walk(value, f"input {k!r}")
    return found
