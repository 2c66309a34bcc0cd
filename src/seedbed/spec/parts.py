"""Arrays that hold several logical parameters: which ones, and where each lies."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seedbed.errors import PlanError, quoted
from seedbed.initializers import Initializer, Mixture, Orthogonal, Overlay
from seedbed.spec.input import Shape
from seedbed.spec.layout import Layout
from seedbed.spec.param import AXIS_ROLES, ROLES, ParamSpec, unknown_sizes


@dataclass(frozen=True)
class Cut:
    """Where one logical parameter lies in the array that holds it.

    Args:
        axis: The axis along which it takes a part of the array.
        start: Where that part begins.
        stop: Where it ends.
        every: How many places along the axis these are counted in, again and again; 0 for all of them, once.
        dropped: Whether the logical parameter lacks the axis, of which it takes one place.
        order: The axes that remain, counted without a dropped one, as the logical parameter has them; empty
            where it has them in the array's order.
    """

    axis: int
    start: int
    stop: int
    every: int = 0
    dropped: bool = False
    order: tuple[int, ...] = ()

    def axes(self, rank: int) -> tuple[int, ...]:
        """The array's axes, in the order in which the logical parameter has them."""
        left = tuple(a for a in range(rank) if a != self.axis or not self.dropped)
        return tuple(left[n] for n in self.order) if self.order else left

    def before(self, place: int) -> int:
        """How many of its places there are before a place of the axis."""
        times, rest = divmod(place, self.every) if self.every else (0, place)
        return times * (self.stop - self.start) + min(max(rest, self.start), self.stop) - self.start

    def shape(self, shape: Shape) -> Shape:
        """The logical parameter's shape, from the array's, whose size along the axis is known."""
        sizes = (*shape[: self.axis], self.before(shape[self.axis] or 0), *shape[self.axis + 1 :])
        return tuple(sizes[axis] for axis in self.axes(len(shape)))


@dataclass(frozen=True)
class Parts:
    """The logical parameters that one array holds: packed q, k and v, a gate beside its values, experts.

    Each is planned as if it were a parameter of its own: rules match its path, fans are counted on its
    shape, and its numbers are those of its path. So a model that holds them in one array starts as one
    that holds them apart.

    Args:
        names: Their paths, in the order in which they lie along `axis`. Each `*` stands for what the
            pattern's `*` matched, in order.
        axis: The array's axis along which they lie.
        sizes: How much of the axis each takes; equal parts when left out.
        repeats: How often parts of these sizes follow each other along the axis: once for each head, where
            every head's q, k and v lie together.
        stacked: Whether each takes one place of the axis, and lacks it. One name then stands for all:
            its `{}` is 0, 1, 2 and so on.
        order: The axes of a part as the logical parameter has them: `(1, 0)` where the array has (in, out)
            and the logical parameter (out, in). Counted without the axis that `stacked` drops.
        axes: The roles of the logical parameter's axes, where the model does not tell them.
        role: Its role, where the model does not tell it.

    Raises:
        PlanError: An argument is not what it must be.

    Example:
        >>> import seedbed as sb
        >>> qkv = ParamSpec(path="h.0.qkv.weight", shape=(16, 8), axes=("out", "in"))
        >>> held = Parts(("*.q.*", "*.k.*", "*.v.*"), sizes=(8, 4, 4))
        >>> he = sb.initializers.HeNormal(fan="out")
        >>> print(sb.plan(sb.Specs((qkv,)), recipe=he, parts={"*.qkv.*": held}).table(width=100))
        parameter       shape    dtype    starts as                              because
        ──────────────  ───────  ───────  ─────────────────────────────────────  ───────────────
        h.0.qkv.weight  (16, 8)  float32  in parts                               parts '*.qkv.*'
        · h.0.q.weight  (8, 8)   float32  HeNormal(fan=out): Normal(std=0.5)     rule 1: '*'
        · h.0.k.weight  (4, 8)   float32  HeNormal(fan=out): Normal(std=0.7071)  rule 1: '*'
        · h.0.v.weight  (4, 8)   float32  HeNormal(fan=out): Normal(std=0.7071)  rule 1: '*'
    """

    names: tuple[str, ...]
    axis: int = 0
    sizes: tuple[int, ...] | None = None
    repeats: int = 1
    stacked: bool = False
    order: tuple[int, ...] | None = None
    axes: tuple[str, ...] | None = None
    role: str | None = None

    def __post_init__(self) -> None:
        for name in ("names", "sizes", "order", "axes"):
            value = getattr(self, name)
            listed = (value,) if name == "names" and isinstance(value, str) else value
            if isinstance(listed, Sequence) and not isinstance(listed, str):
                object.__setattr__(self, name, tuple(listed))
        marks = [n.count("{}") for n in self.names] if _texts(self.names) else []
        numbers = self.order is None or (_whole_numbers(self.order) and sorted(self.order) == [*range(len(self.order))])
        sizes = self.sizes
        counted = sizes is None or (_whole_numbers(sizes) and min(sizes, default=0) > 0)
        for name, right, wanted in (
            ("names", bool(marks), "a name or a tuple of names"),
            ("axis", type(self.axis) is int, "a whole number"),
            ("stacked", isinstance(self.stacked, bool), "True or False"),
            ("names", marks == [1] or not any(marks), "one name with one {}, or names without"),
            ("names", self.stacked or not any(marks), "without {}, unless stacked=True"),
            ("sizes", counted, "a tuple of whole numbers, 1 or more"),
            ("sizes", sizes is None or not self.stacked, "left out with stacked=True, where each takes one place"),
            ("sizes", sizes is None or len(sizes) == len(self.names), "one for each name"),
            ("repeats", type(self.repeats) is int and self.repeats > 0, "a whole number, 1 or more"),
            ("repeats", self.repeats == 1 or not self.stacked, "1 with stacked=True"),
            ("order", numbers, "a tuple that names each axis once, from 0"),
            ("axes", self.axes is None or set(self.axes) <= set(AXIS_ROLES), f"roles out of {', '.join(AXIS_ROLES)}"),
            ("role", self.role is None or self.role in ROLES, f"one of {', '.join(ROLES)}"),
        ):
            if not right:
                raise PlanError(f"Parts: `{name}` must be {wanted}, got {quoted(getattr(self, name))}.", argument=name)

    def within(self, pattern: str, spec: ParamSpec) -> list[tuple[Cut, ParamSpec]]:
        """Where each logical parameter lies in an array whose path the pattern matches, and what is known of it.

        Raises:
            PlanError: The array cannot be cut so.
            UnknownSizeError: Its size along the axis is not settled.
        """
        cuts = self._cuts(spec)

        def names(path: str) -> list[str]:
            stars = captured(pattern, path)
            return [] if stars is None else self._named(pattern, stars, len(cuts))

        mine = [found for found in map(names, spec.paths) if found]
        copied, streams = names(spec.copied), names(spec.stream)  # where the array's numbers are another's
        made = []
        for number, cut in enumerate(cuts):
            path, *aliases = (found[number] for found in mine)
            facts = {
                "path": path,
                "aliases": tuple(aliases),
                "copied": copied[number] if copied else "",
                "stream": streams[number] if streams else "",
                "start": None if spec.copied and not copied else _start(spec, cut),  # or that of the whole alone
            }
            made.append((cut, self._part(spec, cut, facts)))
        return made

    def _cuts(self, spec: ParamSpec) -> list[Cut]:
        rank, facts = len(spec.shape), [f"shape  {spec.shown_shape}", f"parts  {', '.join(self.names)}"]
        if not -rank <= self.axis < rank:
            raise PlanError(f"{spec.path}: has no axis {self.axis} for its parts.", facts=facts, path=spec.path)
        axis, order = self.axis % rank, self.order or ()
        size, left = spec.shape[axis], rank - self.stacked
        if size is None:
            raise unknown_sizes([spec])
        if order and len(order) != left:
            raise PlanError(
                f"{spec.path}: `order` must name each of the {left} axes of a part once, got {order}.",
                facts=facts,
                path=spec.path,
            )
        numbered = self.stacked and "{}" in self.names[0]
        count = size if numbered else len(self.names)
        sizes = self.sizes or (1 if self.stacked else size // self.repeats // count,) * count
        if sum(sizes) * self.repeats != size:
            what = (
                f"whose sizes are {self.sizes}" if self.sizes else "each of one place" if self.stacked else "all equal"
            ) + (f", {self.repeats} times over" if self.repeats > 1 else "")
            raise PlanError(
                f"{spec.path}: {size} along axis {axis} are not {count} parts, {what}.",
                facts=facts,
                remedy="Give the size of each, in order, with sizes=(...)." if not self.stacked else "",
                path=spec.path,
            )
        ends = [sum(sizes[:n]) for n in range(count + 1)]
        every = ends[-1] if self.repeats > 1 else 0
        return [Cut(axis, a, b, every, self.stacked, order) for a, b in itertools.pairwise(ends)]

    def _named(self, pattern: str, stars: Sequence[str], count: int) -> list[str]:
        names = []
        for number in range(count):
            name = self.names[0].replace("{}", str(number)) if "{}" in self.names[0] else self.names[number]
            texts = name.split("*")
            if len(texts) - 1 > len(stars):
                raise PlanError(
                    f"parts: {name!r} has more * than its pattern {pattern!r}.",
                    remedy="Each * of a name stands for what one * of the pattern matched.",
                    pattern=pattern,
                )
            names.append("".join(text + star for text, star in zip(texts, [*stars[: len(texts) - 1], ""], strict=True)))
        return names

    def _part(self, spec: ParamSpec, cut: Cut, facts: Mapping[str, Any]) -> ParamSpec:
        kept = cut.axes(len(spec.shape))
        packed = [_blocks(spec, cut, axis) for axis in kept] if spec.packed else []
        return dataclasses.replace(
            spec,
            **facts,
            shape=cut.shape(spec.shape),
            role=self.role or spec.role,
            axes=self.axes or (tuple(spec.axes[axis] for axis in kept) if spec.axes else ()),
            packed=tuple(packed) if any(n > 1 for n in packed) else (),
            views=(),
            layout=_layout(spec.layout, cut, len(spec.shape)),
            unit=None,
            leaf=spec.leaf if facts["path"].rpartition(".")[2] == spec.path.rpartition(".")[2] else "",
        )


def captured(pattern: str, path: str) -> list[str] | None:
    """What each `*` of a glob stands for in a path, the shortest first; None where it does not match.

    Example:
        >>> captured("*.attn.qkv.*", "h.0.attn.qkv.weight")
        ['h.0', 'weight']
    """
    found = _expression(pattern).fullmatch(path)
    return list(found.groups()) if found else None


@functools.lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    between = re.split(r"\*+(?![^[]*\])", pattern)  # a star in brackets is a letter
    plain = (re.sub(r"\\[zZ]\Z", "", fnmatch.translate(text)) for text in between)
    return re.compile("(.*?)".join(plain), re.DOTALL)


def _texts(names: Any) -> bool:
    return isinstance(names, tuple) and bool(names) and all(isinstance(n, str) and n for n in names)


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(n) is int for n in values)


def _blocks(spec: ParamSpec, cut: Cut, axis: int) -> int:
    """How many of the array's packed blocks a part has along an axis."""
    size, blocks = spec.shape[axis], spec.packed[axis]
    if axis != cut.axis or not size:
        return blocks
    there, over = divmod(blocks * cut.before(size), size)
    return 1 if over else max(1, there)


def _layout(layout: Layout | None, cut: Cut, rank: int) -> Layout | None:
    """How a part lies in its canonical array."""
    if layout is None:
        return None
    place = {axis: n for n, axis in enumerate(cut.axes(rank))}
    groups = [tuple(place[axis] for axis in group if axis in place) for group in layout.groups(rank)]
    order = tuple(group for group in groups if group)
    return None if order == tuple((n,) for n in range(len(place))) else Layout(order=order)


def _start(spec: ParamSpec, cut: Cut) -> Initializer | None:
    """The array's own start, where each element of it starts by itself, or each matrix of a stack."""
    own = spec.start.resolve(spec) if spec.start is not None else None
    return _of_part(own, spec, cut) if own is not None else None


def _of_part(start: Initializer, spec: ParamSpec, cut: Cut) -> Initializer | None:
    if isinstance(start, Overlay):
        if cut.every:
            return None
        base, *inside = (_of_part(part, spec, cut) for part in start.parts)
        boxes = []
        for (box, _), part in zip(start.boxes, inside, strict=True):
            ends = max(box[cut.axis][0], cut.start), min(box[cut.axis][1], cut.stop)
            sides = (*box[: cut.axis], (ends[0] - cut.start, ends[1] - cut.start), *box[cut.axis + 1 :])
            if part is None:
                return None
            if ends[0] < ends[1]:
                boxes.append((tuple(sides[axis] for axis in cut.axes(len(box))), part))
        return Overlay(base=base, boxes=tuple(boxes)) if base and boxes else base
    stack = cut.dropped and bool(spec.axes) and spec.axes[cut.axis] == "stack"
    return (
        start if start.elementwise or isinstance(start, Mixture) or (stack and isinstance(start, Orthogonal)) else None
    )
