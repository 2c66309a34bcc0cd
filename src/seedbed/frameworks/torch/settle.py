"""What inputs settle, and what they leave open: sizes that vary are tried at several values and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from seedbed.errors import ShapeError
from seedbed.frameworks.torch.dryrun import DryRun
from seedbed.frameworks.torch.resets import Record, starts
from seedbed.frameworks.torch.shapes import dry_run, is_shape
from seedbed.frameworks.torch.told import told as notes_of
from seedbed.frameworks.torch.twin import named_tensors, what_settled
from seedbed.spec import Input, ParamSpec, Settled, Shape

STAND_INS = (64, 32, 128, 224, 256, 16, 512, 8, 4, 2, 1)
"""Sizes tried, in this order, where an input's size varies."""

Told = dict[str, tuple[Shape, tuple[Record, str]]]
"""Shape, and start with its origin, of each path."""

UNTOLD = (Record(None), "")


@dataclass(frozen=True)
class Settlement:
    """What dry runs told of each path.

    Attributes:
        told: Shapes and starts; sizes that vary are None.
        varies: Which axes of which inputs a path depends on.
        waits: Paths that cannot be settled while those vary.
        reached: Paths that the inputs used.
        settled: What became of each lazy layer; empty while anything varies.
    """

    twin: nn.Module
    told: Told
    varies: Mapping[str, str]
    waits: set[str]
    reached: set[str]
    settled: tuple[Settled, ...]


def settle(model: nn.Module, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Settlement:
    """Settle all that the inputs can settle."""
    axes = varying(inputs, keywords)
    base, run = _first_that_fits(model, inputs, keywords, axes)
    first = tell(run.twin)
    told, notes, waits = dict(first), {path: dict[str, None]() for path in first}, set[str]()
    for name, axis in axes:
        note = f"{name} axis {axis}"
        for other in (base * 2, base + 1):
            sizes = {**dict.fromkeys(axes, base), (name, axis): other}
            try:
                found = tell(dry_run(model, inputs, keywords, sizes).twin)
            except ShapeError as error:  # a layer whose sizes are fixed does not take this one
                for path in first:
                    if path.rpartition(".")[0] == error.path:
                        notes[path][note] = None
                continue
            for path in (p for p in first if found[p] != first[p]):
                notes[path][note] = None
                waits.add(path)
                pairs = zip(told[path][0], found[path][0], strict=True)
                told[path] = (tuple(a if a == b else None for a, b in pairs), UNTOLD)
    varies = {path: ", ".join(n) for path, n in notes.items() if n}
    settled = () if waits else what_settled(model, run.twin)
    return Settlement(run.twin, told, varies, waits, run.reached, settled)


def tell(twin: nn.Module) -> Told:
    """Shape and start of all that a twin has settled."""
    known = starts(twin) | {path: (note.start, note.origin) for path, note in notes_of(twin).items()}
    return {p: (tuple(t.shape), known.get(p, UNTOLD)) for p, t in named_tensors(twin) if not is_lazy(t)}


def _first_that_fits(
    model: nn.Module, inputs: Sequence[Any], keywords: Mapping[str, Any], axes: Sequence[tuple[str, int]]
) -> tuple[int, DryRun]:
    errors: list[ShapeError] = []
    for size in STAND_INS if axes else (0,):
        try:
            return size, dry_run(model, inputs, keywords, dict.fromkeys(axes, size))
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
