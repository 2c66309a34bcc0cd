"""One parameter or buffer, without its values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from seedbed.errors import FanError, PlanError, UnknownSizeError, columns, nearest, quoted, shown
from seedbed.initializers import Fan, Initializer, from_dict
from seedbed.spec.input import ITEMSIZE, Shape, size_of
from seedbed.spec.layout import Layout, layout_from

MOST = 2**63 - 1
"""Elements of one parameter: their numbers fit 64 bits with a sign."""
KINDS = ("parameter", "buffer")
ROLES = ("weight", "bias", "scale", "embedding", "recurrent", "buffer", "other")
AXIS_ROLES = ("out", "in", "window", "stack")


@dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """One parameter or buffer, without its values.

    Args:
        path: Dotted name, in the framework's own spelling.
        shape: One size per axis; `None` where it is not settled yet.
        dtype: `"float32"`, `"bfloat16"`, ...; see `ITEMSIZE`.
        role: `weight`, `bias`, `scale`, `embedding`, `recurrent`, `buffer` or `other`.
        axes: One role per axis: `out`, `in`, `window` or `stack`; empty when they are not known.
        packed: How many blocks of equal size lie side by side along each axis (q, k and v; LSTM gates).
        groups: How many groups a convolution is cut into; `in` counts one group's channels, `out` all.
        layer: Name of the layer's class; of the class it becomes, for a lazy one.
        bases: Names of the classes the layer's class extends.
        kind: `parameter` or `buffer`.
        persistent: Whether the framework's checkpoints hold it.
        start: How the framework itself starts it; `None` when that is not known.
        origin: Where `start` was read, or where the values come from.
        aliases: Other paths of the same parameter.
        views: Paths of tensors of other shapes or strides inside its memory.
        stream: The name its own start's numbers are keyed by, where that is not its path.
        copied: The path of the parameter that its own start makes it a copy of.
        layout: How its array lies in the canonical one; `None` where it is the canonical one.
        unit: The path of the layer it belongs to, as PyTorch cuts layers; its path without the last part.
        leaf: Its name in that layer, in PyTorch's words; the last part of its path.
        lazy: Whether its layer still waits for an input.
        reached: Whether the dry run's input used it; `None` without a dry run.
        varies: Which axes of which inputs decide its unknown sizes.

    Example:
        >>> spec = ParamSpec(path="0.weight", shape=(256, None), axes=("out", "in"))
        >>> spec.shown_shape, spec.fan("out"), spec.fan("in")
        ('(256, ?)', 256.0, None)
    """

    path: str
    shape: Shape
    dtype: str = "float32"
    role: str = "other"
    axes: tuple[str, ...] = ()
    packed: tuple[int, ...] = ()
    groups: int = 1
    layer: str = ""
    bases: tuple[str, ...] = ()
    kind: Literal["parameter", "buffer"] = "parameter"
    persistent: bool = True
    start: Initializer | None = None
    origin: str = ""
    aliases: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    stream: str = ""
    copied: str = ""
    layout: Layout | None = None
    unit: str | None = None
    leaf: str = ""
    lazy: bool = False
    reached: bool | None = None
    varies: str = ""

    def __post_init__(self) -> None:
        self._judge_shape()
        for name, known in (("role", ROLES), ("dtype", ITEMSIZE), ("kind", KINDS)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                close = nearest(value if isinstance(value, str) else "", known)
                raise PlanError(f"{self.path}: unknown {name} {quoted(value)}.", remedy=close)
        unknown = [a for a in self.axes if a not in AXIS_ROLES]
        if unknown or (self.axes and len(self.axes) != len(self.shape)):
            raise PlanError(
                f"{self.path}: `axes` must give one role to each axis.",
                facts=[f"shape  {self.shown_shape}", f"axes   {self.axes}", f"roles  {', '.join(AXIS_ROLES)}"],
                path=self.path,
            )
        blocks = (*self.packed, self.groups)
        if (self.packed and len(self.packed) != len(self.shape)) or not all(type(n) is int and n > 0 for n in blocks):
            raise PlanError(
                f"{self.path}: `packed` must give one count to each axis, and `groups` one, each 1 or more.",
                facts=[f"shape   {self.shown_shape}", f"packed  {self.packed}", f"groups  {self.groups}"],
                path=self.path,
            )
        if self.layout and not self.layout.fits(len(self.shape)):
            raise PlanError(
                f"{self.path}: `layout` must name each axis once, and blocks that there are.",
                facts=[f"shape   {self.shown_shape}", f"layout  {self.layout}"],
                path=self.path,
            )

    def _judge_shape(self) -> None:
        """Make every size a plain number, because those of NumPy overflow without a word."""
        try:
            shape = tuple(None if n is None else size_of(n) for n in self.shape)
        except (TypeError, ValueError):
            raise PlanError(
                f"{self.path}: the shape must be a tuple of whole numbers, 0 or more, or None, got {quoted(self.shape)}.",
                path=self.path,
            ) from None
        object.__setattr__(self, "shape", shape)
        if max((n for n in shape if n), default=0) > MOST or (self.known and self.count > MOST):
            raise PlanError(
                f"{self.path}: {quoted(shape)} is too large: no size and no number of elements may be above 2**63 - 1.",
                path=self.path,
            )

    @property
    def known(self) -> bool:
        """Whether every size is settled."""
        return None not in self.shape

    @property
    def shown_shape(self) -> str:
        """The shape as it is printed."""
        sizes = ["?" if n is None else str(n) for n in self.shape]
        return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The shape, every size known.

        Raises:
            UnknownSizeError: Some size is not settled yet.
        """
        sizes = tuple(n for n in self.shape if n is not None)
        if not self.known:
            raise unknown_sizes([self])
        return sizes

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.sizes)

    @property
    def nbytes(self) -> int:
        """Bytes its values take."""
        return self.count * ITEMSIZE[self.dtype]

    @property
    def paths(self) -> tuple[str, ...]:
        """Its path and its other ones."""
        return (self.path, *self.aliases, *self.views)

    def fan(self, which: Fan) -> float | None:
        """How many inputs feed one output (`in`), outputs one input feeds (`out`), or their mean (`avg`).

        Counted on the whole parameter, from the roles of its axes: `window` axes multiply both fans,
        `stack` axes change neither, packed blocks count once, and so does one group of a convolution.

        Returns:
            The fan, or None while a size it needs is unknown.

        Raises:
            FanError: The axes carry no `in` or no `out` role.
        """
        lost = " and no ".join(repr(role) for role in ("in", "out") if role not in self.axes)
        if lost:
            why = f"it has no {lost} axis" if self.axes else "its axes are not labelled"
            raise FanError(
                f"{self.path}: cannot compute a fan, because {why}.",
                facts=[
                    f"shape  {self.shown_shape}",
                    f"axes   {', '.join(self.axes) or 'none'}",
                    f"layer  {self.layer or '?'}",
                ],
                remedy=(
                    "A fan needs at least one 'in' and one 'out' axis. Let the rule take only what has both, such as\n"
                    "    Rule(Where(role='weight'), ...)\n"
                    "give one role per axis with\n"
                    f"    specs.label({self.path!r}, axes=(...))\n"
                    "or choose an initializer that needs no fan, such as Normal(std=...)."
                ),
                path=self.path,
            )
        if which == "avg":
            fan_in, fan_out = self.fan("in"), self.fan("out")
            return None if fan_in is None or fan_out is None else (fan_in + fan_out) / 2
        packed = self.packed or (1,) * len(self.shape)
        fan = 1.0
        for size, role, blocks in zip(self.shape, self.axes, packed, strict=True):
            if role in (which, "window"):
                if size is None:
                    return None
                fan *= size / blocks
        whole = "in" if self.axes[0] == "in" else "out"  # the axis that counts the channels of all groups
        return fan / self.groups if which == whole else fan

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what is at its default is left out."""
        data: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.default is dataclasses.MISSING or value != f.default:
                plain = dataclasses.asdict(value) if isinstance(value, Layout) else value
                data[f.name] = value.to_dict() if isinstance(value, Initializer) else plain
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ParamSpec:
        """The inverse of `to_dict`."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        if values.get("start") is not None:
            values["start"] = from_dict(values["start"])
        if values.get("layout") is not None:
            values["layout"] = layout_from(values["layout"])
        return cls(**values)


def remarks(spec: ParamSpec) -> str:
    """What a table says of a parameter beside its start."""
    notes = [f"also {', '.join(spec.aliases)}"] if spec.aliases else []
    notes += [f"seen by {', '.join(spec.views)}"] if spec.views else []
    if spec.copied:
        notes.append(f"copy of {spec.copied}")
    if spec.varies:
        notes.append(f"depends on {spec.varies}")
    elif spec.lazy:
        notes.append("waits for an input")
    if spec.reached is False and spec.kind == "parameter":
        notes.append("not reached by the input")
    if spec.kind == "buffer":
        notes.append("buffer" if spec.persistent else "buffer, not persistent")
    return "; ".join(notes)


def unknown_sizes(specs: Sequence[ParamSpec]) -> UnknownSizeError:
    """The error that names parameters whose sizes no input has settled."""
    reasons = {True: "its layer waits for a size", False: "never reached by the input", None: "no input given"}
    rows = [(s.path, s.shown_shape, f"depends on {s.varies}" if s.varies else reasons[s.reached]) for s in specs]
    return UnknownSizeError(
        f"{specs[0].path}: waits for sizes that are still unknown."
        if len(rows) == 1
        else f"{len(rows)} parameters wait for sizes that are still unknown.",
        facts=shown(columns(rows)),
        remedy="Give inputs that reach them, every size a number, such as\n    seedbed.plan(model, (batch, features), ...)",
        paths=tuple(s.path for s in specs),
    )
