"""Parts of arrays, planned as parameters of their own and put back together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from seedbed.errors import FanError, PlanError, columns, nearest, quoted, shown
from seedbed.initializers import Initializer, Keep
from seedbed.plan.decide import Streams, Translate, decide
from seedbed.plan.entries import Entry, Plan
from seedbed.recipe import Recipe
from seedbed.spec import Cut, ParamSpec, Parts, Specs, captured


@dataclass(frozen=True)
class Held:
    """An array, and the logical parameters that it holds, which may hold others.

    Args:
        spec: The array's.
        pattern: Why it is cut.
        parts: Where each lies; none for one that holds itself alone.
    """

    spec: ParamSpec
    pattern: str = ""
    parts: tuple[tuple[Cut, Held], ...] = ()

    def leaves(self) -> Iterator[ParamSpec]:
        """The logical parameters."""
        for _, part in self.parts:
            yield from part.leaves()
        if not self.parts:
            yield self.spec


@dataclass(frozen=True)
class Holding:
    """The arrays of a model, and what each holds.

    Args:
        specs: The arrays.
        held: For each of them, what it holds.
    """

    specs: Specs
    held: tuple[Held, ...]

    @cached_property
    def logical(self) -> Specs:
        """Every logical parameter, as if it were one of the model's."""
        return dataclasses.replace(self.specs, params=tuple(leaf for held in self.held for leaf in held.leaves()))

    def decide(
        self,
        recipe: Recipe | None = None,
        *,
        seed: int = 0,
        streams: Streams = None,
        translate: Translate | None = None,
        given: Mapping[str, Initializer] | None = None,
    ) -> Plan:
        """`decide` for the logical parameters, and one entry for each array.

        An array stays whole where its values cannot be made in parts: they are there, they come from a
        checkpoint, or its own start computes all of them together.

        Raises:
            PlanError: Some parts of an array start by themselves, and others stay as they are.
            SeedbedError: And what `decide` raises.
        """
        known = given or {}
        whole = {
            held.spec.path: next((known[p] for p in held.spec.paths if p in known), None)
            for held in self.held
            if held.parts
        }
        inside = {leaf.path: whole[h.spec.path] for h in self.held if h.parts for leaf in h.leaves()}
        given = {**known, **{path: start for path, start in inside.items() if start is not None}}
        try:
            made = decide(self.logical, recipe, seed=seed, streams=streams, translate=translate, given=given)
        except FanError as error:
            lost = getattr(error, "paths", None) or [error.path]
            if not any(path in inside for path in lost):
                raise
            remedy = "Give one role to each axis of a part, with\n    Parts(..., axes=(...))"
            raise FanError(error.sentence, facts=error.facts, remedy=remedy, paths=tuple(lost)) from None
        entries = {entry.spec.path: entry for entry in made}
        return dataclasses.replace(made, entries=tuple(_joined(h, entries, whole.get(h.spec.path)) for h in self.held))


def holding(specs: Specs, parts: Mapping[str, Parts] | None) -> Holding:
    """What the arrays of a model hold.

    Args:
        specs: The arrays.
        parts: For patterns of paths, what the arrays there hold. What they hold may match another pattern.

    Raises:
        PlanError: A pattern matches nothing, an array cannot be cut so, or a name is taken.

    Example:
        >>> qkv = ParamSpec(path="h.0.qkv.weight", shape=(12, 4))
        >>> held = holding(Specs((qkv,)), {"*.qkv.*": Parts(("*.q.*", "*.k.*", "*.v.*"))})
        >>> [(s.path, s.shape) for s in held.logical]
        [('h.0.q.weight', (4, 4)), ('h.0.k.weight', (4, 4)), ('h.0.v.weight', (4, 4))]
    """
    parts = {} if parts is None else parts
    if not isinstance(parts, Mapping) or not all(isinstance(v, Parts) for v in parts.values()):
        raise PlanError(
            f"parts: must be a mapping of patterns to Parts, got {quoted(parts)}.",
            remedy="Write parts={'*.qkv.weight': seedbed.Parts(('*.q.weight', '*.k.weight', '*.v.weight'))}.",
        )
    taken = {path: "" for spec in specs for path in (*spec.paths, *spec.views)} if parts else {}
    used: set[str] = set()

    def cut(spec: ParamSpec, left: Mapping[str, Parts]) -> Held:
        pattern = next((n for n in left if any(captured(n, p) is not None for p in spec.paths)), None)
        if pattern is None:
            return Held(spec)
        used.add(pattern)
        found = left[pattern].within(pattern, spec)
        for _, part in found:
            for path in part.paths:
                _free(path, spec, taken)
        others = {n: p for n, p in left.items() if n != pattern}
        return Held(spec, pattern, tuple((where, cut(part, others)) for where, part in found))

    held = tuple(cut(spec, parts) for spec in specs)
    for pattern in parts:
        if pattern not in used:
            raise _idle(pattern, parts, [spec.path for spec in specs])
    return Holding(specs, held)


def _idle(pattern: str, parts: Mapping[str, Parts], paths: Sequence[str]) -> PlanError:
    """The error of a pattern that matches nothing, or nothing that is left."""
    taken = [path for path in paths if captured(pattern, path) is not None]
    if taken:
        first = next(n for n in parts if captured(n, taken[0]) is not None)
        return PlanError(
            f"parts: {pattern!r} matches no parameter that {first!r} above it does not take.",
            facts=shown(taken),
            remedy="Write the pattern that matches fewer above the one that matches more.",
            pattern=pattern,
        )
    return PlanError(
        f"parts: {pattern!r} matches no parameter.",
        facts=["The parameters:", *shown(paths)],
        remedy=f"{nearest(pattern, paths)}\nGive a glob that matches a whole path.",
        pattern=pattern,
    )


def _free(path: str, spec: ParamSpec, taken: dict[str, str]) -> None:
    """Note the name of a part, and raise where it is taken."""
    if path in taken:
        other = f"{taken[path]} holds too" if taken[path] else "is itself in the model"
        raise PlanError(
            f"{spec.path}: cannot hold {path}, which {other}.",
            remedy="Give each part a name of its own; * in it stands for what the pattern's * matched.",
            path=spec.path,
        )
    taken[path] = spec.path


def _joined(held: Held, entries: Mapping[str, Entry], given: Initializer | None) -> Entry:
    """One entry for an array, from those of its logical parameters."""
    spec = held.spec
    if not held.parts:
        return entries[spec.path]
    parts = tuple((cut, _joined(part, entries, given)) for cut, part in held.parts)
    first = parts[0][1]
    kept = [part for _, part in parts if part.kept]
    asked = {part.initializer for part in kept}
    if given is None and kept and (len(kept) < len(parts) or (len(asked) > 1 and spec.start is not None)):
        rows: list[tuple[Any, ...]] = [(part.spec.path, _start(part, spec), part.why) for _, part in parts]
        raise PlanError(
            f"{spec.path}: some of its parts start by themselves, and others as the whole array does.",
            facts=shown(columns(rows)),
            remedy="Give all of its parts rules that start them, or none of them.",
            path=spec.path,
        )
    if given is not None or kept:
        own = given or first.initializer
        (entry,) = decide(Specs((spec,)), seed=first.seed, given={spec.path: own})
        return dataclasses.replace(entry, why=f"{first.why}, as a whole")
    why = f"parts {held.pattern!r}"
    return Entry(spec=spec, initializer=Keep(), start=None, why=why, stream=spec.path, seed=first.seed, parts=parts)


def _start(part: Entry, spec: ParamSpec) -> str:
    whole = part.kept and part.initializer == Keep() and spec.start is not None
    return f"as the whole: {spec.start}" if whole else part.shown_start
