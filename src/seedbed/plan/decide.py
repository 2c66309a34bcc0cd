"""How a recipe becomes a plan: which rule sets each parameter, and what can be wrong with that."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Union

from seedbed.errors import (
    FanError,
    InitializerError,
    PlanError,
    SeedbedError,
    UnmatchedError,
    UnusedRuleError,
    columns,
    count,
    nearest,
    quoted,
    shown,
)
from seedbed.initializers import (
    Box,
    Constant,
    Dirac,
    Identity,
    Initializer,
    Keep,
    Loaded,
    Mixture,
    Native,
    Ones,
    Orthogonal,
    Overlay,
    Recorded,
    Sparse,
    Zeros,
)
from seedbed.plan.entries import Entry, Key, Plan, seed_of
from seedbed.recipe import Finder, Recipe
from seedbed.spec import ITEMSIZE, ParamSpec, Shape, Specs

Translate = Callable[[Native, ParamSpec], Initializer]
Streams = Union[Mapping[str, str], Literal["position"], None]
"""Names for the streams of some paths, or `"position"`: of all, the place of its layer among the layers."""


def decide(
    specs: Specs,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    streams: Streams = None,
    translate: Translate | None = None,
    given: Mapping[str, Initializer] | None = None,
) -> Plan:
    """Which rule sets each parameter, and what it then becomes.

    Buffers start as their framework starts them, unless a rule says `role="buffer"`.

    Args:
        specs: What exists.
        recipe: The rules; `None` starts everything as its framework does.
        seed: From 0 to 2**64 - 1.
        streams: Names for the streams of some paths, in place of the paths; or `"position"` (see `streams_of`).
        translate: Turns a framework's own initializer into one of ours, for one parameter.
        given: What some paths start as, before any rule.

    Raises:
        UnmatchedError: Parameters that no rule matches; all are listed.
        UnusedRuleError: Rules that decide nothing and are not optional.
        FanError: An initializer needs a fan that axes without roles do not give.
        InitializerError: An initializer does not suit a parameter's shape or dtype.
        PlanError: The seed is out of range, or two parameters have one stream.

    Example:
        >>> from seedbed.initializers import Normal, Ones, Zeros
        >>> specs = Specs((ParamSpec(path="h.0.ln.weight", shape=(8,)), ParamSpec(path="h.0.ln.bias", shape=(8,))))
        >>> plan = decide(specs, Recipe.of({"*.bias": Zeros(), "*.ln.*": Ones()}))
        >>> [(e.spec.path, e.start) for e in plan]
        [('h.0.ln.weight', Ones()), ('h.0.ln.bias', Zeros())]
    """
    seed, streams = seed_of(seed), streams_of(streams, specs)
    entries, failures = [], []
    for spec, number in _match(specs, recipe, given or {}):
        first = next((given[p] for p in spec.paths if p in given), None) if given else None
        rule = recipe.rules[number] if recipe and number is not None and first is None else None
        asked = first or (rule.initializer if rule else Keep())
        own = (spec.stream if asked == Keep() else "") or spec.path
        stream = next((streams[p] for p in spec.paths if p in streams), own)
        try:
            if isinstance(asked, Native):
                asked = _translated(asked, spec, translate)
            start = _start(asked, spec)
        except SeedbedError as error:
            failures.append((spec, error))
            continue
        if asked == Keep() and start is not None and start.whole and spec.layout and spec.layout.partial:
            stream = own  # the framework makes this part as a whole by itself, which no other part shares
        origin = "the checkpoint" if first else spec.origin or "as constructed"
        why = f"rule {(number or 0) + 1}: {rule.where}" if rule and asked != Keep() else origin
        entries.append(Entry(spec=spec, initializer=asked, start=start, why=why, stream=stream, seed=seed))
    _raise_all(failures)
    _distinct(entries)
    return Plan(tuple(entries), seed, recipe.name if recipe else "", specs.framework, specs.settled)


def streams_of(streams: Streams, specs: Specs) -> dict[str, str]:
    """Names of streams by path.

    `"position"` names every parameter by the number of its layer among the layers that have parameters,
    counted in the model's order, and by what PyTorch calls it there: `"2.weight"`. So a network has the
    same names in every framework, whatever its layers are called there.

    Raises:
        PlanError: It is neither a mapping of paths to names nor `"position"`, or a path is not there.

    Example:
        >>> kernel = ParamSpec(path="layers_2.kernel", shape=(256, 10), leaf="weight")
        >>> streams_of("position", Specs((kernel,)))
        {'layers_2.kernel': '0.weight'}
    """
    if isinstance(streams, str) and streams == "position":
        return _by_position(specs)
    if streams is not None and not (isinstance(streams, Mapping) and all(isinstance(v, str) for v in streams.values())):
        raise PlanError(
            f"streams: must be a mapping of paths to names, or 'position', got {quoted(streams)}.",
            remedy="Write streams={path: name}.",
        )
    paths = {p: None for s in specs for p in s.paths}
    for path in streams or {}:
        if path not in paths:
            raise PlanError(
                f"streams: {path!r} is not a parameter of the model.", remedy=nearest(str(path), paths), path=path
            )
    return dict(streams or {})


def _by_position(specs: Specs) -> dict[str, str]:
    units: dict[str, int] = {}
    names = {}
    for spec in sorted(specs, key=lambda s: s.kind == "buffer"):
        above, _, last = spec.path.rpartition(".")
        unit = above if spec.unit is None else spec.unit
        if spec.kind == "parameter":
            units.setdefault(unit, len(units))
        if unit in units:
            names[spec.path] = f"{units[unit]}.{spec.leaf or last}"
    return names


def _translated(asked: Native, spec: ParamSpec, translate: Translate | None) -> Initializer:
    if translate is None:
        raise PlanError(
            f"{spec.path}: {asked.name} belongs to a framework, and these specs to none.",
            remedy="Use one of seedbed.initializers, or Custom(function) for one of your own.",
            path=spec.path,
        )
    return translate(asked, spec) if spec.known else asked


def _match(specs: Specs, recipe: Recipe | None, given: Mapping[str, Initializer]) -> list[tuple[ParamSpec, int | None]]:
    """Each spec with the place of the first rule that matches it."""
    if recipe is None:
        return [(s, None) for s in specs]
    finder = Finder(recipe)
    pairs = [(s, finder.first(s)) for s in specs]
    lost = [s for s, n in pairs if n is None and s.kind == "parameter" and not any(p in given for p in s.paths)]
    won = Counter(n for _, n in pairs)
    wins = [won[place] for place in range(len(recipe.rules))]
    if lost:
        parameters = [s for s in specs if s.kind == "parameter"]
        raise UnmatchedError(
            f"recipe {recipe.name!r}: {len(lost)} of {count(len(parameters), 'parameter')} match no rule."
            if len(lost) > 1
            else f"{lost[0].path}: matches no rule of recipe {recipe.name!r}.",
            facts=[
                *columns([(s.path, f"{s.dtype}{s.shown_shape}", s.layer) for s in lost]),
                "",
                "The rules, in the order tried:",
                *_tried(recipe, wins),
            ],
            remedy=(
                f"Add a rule for each, such as Rule({lost[0].path!r}, ...), or end the recipe with a catch-all:\n"
                "    Rule('*', Keep())             # as the framework starts it\n"
                "    Rule('*', Keep(values=True))  # the values that are there now"
            ),
            paths=tuple(s.path for s in lost),
        )
    idle = [r for r, won in zip(recipe, wins, strict=True) if not won and not r.optional]
    if idle:
        raise UnusedRuleError(
            f"recipe {recipe.name!r}: {f'{len(idle)} rules' if len(idle) > 1 else f'the rule {idle[0]}'} decided no parameter.",
            facts=[*_tried(recipe, wins), "", "The first parameters:", *shown([s.path for s in specs])],
            remedy="Correct the rule, move it above the one that takes its parameters, or give it optional=True.",
            rules=tuple(idle),
        )
    return pairs


def _tried(recipe: Recipe, wins: Sequence[int]) -> list[str]:
    rows = [
        (n, rule.where, rule.initializer, f"decided {won}", "" if won or rule.optional else "<- nothing")
        for n, (rule, won) in enumerate(zip(recipe, wins, strict=True), 1)
    ]
    return columns(rows)


def _start(asked: Initializer, spec: ParamSpec) -> Initializer | None:
    if asked == Keep():
        if spec.start is None:
            return None if spec.lazy or not spec.known else Keep(values=True)
        asked = spec.start
    if isinstance(asked, Keep):
        return asked
    start = None if isinstance(asked, Native) else asked.resolve(spec)
    if start is not None:
        suits(start, spec)
    return start


def suits(start: Initializer, spec: ParamSpec) -> None:
    """Raise `InitializerError` when `start` cannot fill a parameter of this shape or dtype."""
    for part in start.parts if isinstance(start, Overlay) else ():
        suits(part, spec)
    what = _misfit(start, spec) or _misshape(start, spec)
    if what:
        raise InitializerError(
            f"{spec.path}: {start} {what}.",
            facts=[f"shape  {spec.shown_shape}", f"dtype  {spec.dtype}", f"layer  {spec.layer or '?'}"],
            remedy=f"Give it a rule of its own, before the others: Rule({spec.path!r}, ...).",
            path=spec.path,
        )


def _misshape(start: Initializer, spec: ParamSpec) -> str:
    """Why a start cannot have a shape, if it cannot."""
    rank, rows = len(spec.shape), spec.shape[0] if spec.shape else None
    if isinstance(start, Orthogonal) and rank - spec.axes.count("stack") < 2:
        return "needs two axes or more"
    if isinstance(start, (Identity, Sparse)) and rank != 2:
        return "needs two axes"
    if isinstance(start, Dirac) and not 3 <= rank <= 5:
        return "needs three to five axes"
    if isinstance(start, Dirac) and rows is not None and rows % start.groups:
        return "needs a number of outputs that its groups divide"
    if isinstance(start, Overlay) and not all(_inside(box, spec.shape) for box, _ in start.boxes):
        return "has a box that reaches outside"
    return ""


def _misfit(start: Initializer, spec: ParamSpec) -> str:
    """Why a dtype cannot hold the values of a start, if it cannot."""
    parts = [i for _, i in start.parts] if isinstance(start, Mixture) else [start]
    for value in (p.value if isinstance(p, Constant) else p.gain for p in parts if isinstance(p, (Constant, Identity))):
        low, high = _range(spec.dtype)
        if "float" not in spec.dtype and not float(value).is_integer():
            return f"is not a whole number, and this one is {spec.dtype}"
        if not low <= value <= high:
            return f"is out of the range of {spec.dtype}"
    if "float" not in spec.dtype and not isinstance(
        start, (Zeros, Ones, Constant, Identity, Dirac, Overlay, Recorded, Loaded)
    ):
        return f"fills floating-point parameters, and this one is {spec.dtype}"
    return ""


def _range(dtype: str) -> tuple[float, float]:
    """The smallest and largest value of a dtype."""
    bits = 8 * ITEMSIZE[dtype]
    if dtype.startswith("uint") or dtype == "bool":
        return 0, 1 if dtype == "bool" else 2**bits - 1
    if dtype.startswith("int"):
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    largest = {"float16": 65504, "float8_e4m3fn": 448, "float8_e5m2": 57344}.get(dtype, math.inf)
    return -largest, largest


def _inside(box: Box, shape: Shape) -> bool:
    return len(box) == len(shape) and all(n is None or b <= n for (_, b), n in zip(box, shape, strict=True))


def _raise_all(failures: Sequence[tuple[ParamSpec, SeedbedError]]) -> None:
    if not failures:
        return
    first = failures[0][1]
    if len(failures) == 1:
        raise first
    remedy = (
        "Let the rule take only what it suits, such as\n    Rule(Where(role='weight'), ...)\nand give the others one."
    )
    if len({e.remedy for _, e in failures}) == 1:
        remedy = first.remedy or remedy
    elif all(isinstance(e, FanError) for _, e in failures):
        remedy = (
            "Give roles to their axes with specs.label(path, axes=(...)), let a rule take only what has fans, such as\n"
            "    Rule(Where(role='weight'), ...)\n"
            "or choose an initializer that needs no fan, such as Normal(std=...)."
        )
    raise type(first)(
        f"{len(failures)} parameters cannot be started as the recipe asks.",
        facts=shown([e.sentence for _, e in failures]),
        remedy=remedy,
        paths=tuple(s.path for s, _ in failures),
    )


def _distinct(entries: Sequence[Entry]) -> None:
    seen: dict[Key, list[Entry]] = {}
    for entry in entries:
        if entry.spec.copied and entry.stream == entry.spec.stream:
            continue
        others = seen.setdefault(entry.key, [])
        other = next((e for e in others if not _side_by_side(entry, e)), None)
        if other is not None:
            raise PlanError(
                f"{entry.spec.path} and {other.spec.path} have one stream, and would start with equal numbers.",
                facts=[f"stream  {entry.stream}"],
                remedy="Give each its own name in streams={path: name}.",
                paths=(other.spec.path, entry.spec.path),
            )
        others.append(entry)


def _side_by_side(one: Entry, other: Entry) -> bool:
    """Whether two arrays are parts of one whole that have no element in common."""
    a, b = one.numbered.layout, other.numbered.layout
    return bool(
        a
        and b
        and a.partial
        and b.partial
        and not set(a.blocks) & set(b.blocks)
        and a.whole(one.spec.shape) == b.whole(other.spec.shape)
    )
