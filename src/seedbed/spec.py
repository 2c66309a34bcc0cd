"""Stage 2: what exists. Parameters and buffers, with what is known of them before they have values.

A size that nothing has settled yet is `None` and is printed `?`. Axes carry roles, set by the
framework's adapter, so that a fan is never guessed from position.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from seedbed import table
from seedbed.errors import FanError, InputError, PlanError, UnknownSizeError, nearest, shown
from seedbed.initializers import Fan, Initializer, from_dict

ITEMSIZE: Mapping[str, int] = {
    "float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
FLOATS = ("float64", "float32", "bfloat16", "float16")
ROLES = ("weight", "bias", "scale", "embedding", "recurrent", "buffer", "other")
AXIS_ROLES = ("out", "in", "window", "stack")

Shape = tuple["int | None", ...]


@dataclass(frozen=True)
class Input:
    """What a model is given, without values.

    Args:
        shape: One size per axis; `None` where it varies.
        dtype: `"float32"`, `"int64"`, ...; the model's own floating-point dtype when left out.

    Example:
        >>> Input((2, 20), "int64")
        Input((2, 20), 'int64')
    """

    shape: Shape
    dtype: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if not all(n is None or (isinstance(n, int) and not isinstance(n, bool) and n >= 0) for n in self.shape):
            raise InputError(f"Input: sizes must be whole numbers, 0 or more, or None, got {self.shape}.")
        if self.dtype is not None and self.dtype not in ITEMSIZE:
            raise InputError(f"Input: unknown dtype {self.dtype!r}.", remedy=nearest(self.dtype, ITEMSIZE))

    def __repr__(self) -> str:
        return f"Input({self.shape}{f', {self.dtype!r}' if self.dtype else ''})"


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
        aliases: Other paths of the same memory.
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
    lazy: bool = False
    reached: bool | None = None
    varies: str = ""

    def __post_init__(self) -> None:
        for name, value, known in (("role", self.role, ROLES), ("dtype", self.dtype, ITEMSIZE)):
            if value not in known:
                raise PlanError(f"{self.path}: unknown {name} {value!r}.", facts=[f"known  {', '.join(known)}"])
        unknown = [a for a in self.axes if a not in AXIS_ROLES]
        if unknown or (self.axes and len(self.axes) != len(self.shape)):
            raise PlanError(
                f"{self.path}: `axes` must give one role to each axis.",
                facts=[f"shape  {self.shown_shape}", f"axes   {self.axes}", f"roles  {', '.join(AXIS_ROLES)}"],
            )

    @property
    def known(self) -> bool:
        """Whether every size is settled."""
        return None not in self.shape and not self.lazy

    @property
    def shown_shape(self) -> str:
        """The shape as it is printed."""
        sizes = ["?" if n is None else str(n) for n in self.shape]
        return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"

    @property
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
        return (self.path, *self.aliases)

    def fan(self, which: Fan) -> float | None:
        """How many inputs feed one output (`in`), outputs one input feeds (`out`), or their mean (`avg`).

        Counted on the whole parameter, from the roles of its axes: `window` axes multiply both fans,
        `stack` axes change neither, packed blocks count once, and so does one group of a convolution.

        Returns:
            The fan, or None while a size it needs is unknown.

        Raises:
            FanError: The axes carry no `in` or no `out` role.
        """
        if "in" not in self.axes or "out" not in self.axes:
            raise FanError(
                f"{self.path}: cannot compute a fan, because its axes are not labelled.",
                facts=[
                    f"shape  {self.shown_shape}",
                    f"axes   {', '.join(self.axes) or 'none'}",
                    f"layer  {self.layer or '?'}",
                ],
                remedy=(
                    "A fan needs at least one 'in' and one 'out' axis. Give one role per axis with\n"
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
                data[f.name] = value.to_dict() if isinstance(value, Initializer) else value
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ParamSpec:
        """The inverse of `to_dict`."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        if values.get("start") is not None:
            values["start"] = from_dict(values["start"])
        return cls(**values)


@dataclass(frozen=True)
class Settled:
    """What a dry run settled in one lazy layer.

    Args:
        path: The layer's path; empty for the model itself.
        layer: The class it becomes.
        attributes: Pairs of name and value, such as `("in_features", 20)`.
    """

    path: str
    layer: str
    attributes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Specs:
    """Every parameter and buffer of a model, in the model's order.

    Args:
        params: The specs.
        framework: The framework they come from; empty when they were written by hand.
        settled: What the dry run settled in lazy layers.

    Example:
        >>> specs = Specs((ParamSpec(path="fc.weight", shape=(2, None), layer="Linear"),))
        >>> specs.unknown
        ('fc.weight',)
        >>> Specs.from_json(specs.to_json()) == specs
        True
    """

    params: tuple[ParamSpec, ...]
    framework: str = ""
    settled: tuple[Settled, ...] = field(default=())

    def __iter__(self) -> Iterator[ParamSpec]:
        return iter(self.params)

    def __len__(self) -> int:
        return len(self.params)

    def __getitem__(self, path: str) -> ParamSpec:
        """The spec at `path`, which may be one of its aliases."""
        for spec in self.params:
            if path in spec.paths:
                return spec
        raise KeyError(path)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Paths whose sizes are not all settled."""
        return tuple(s.path for s in self.params if not s.known)

    @property
    def unreached(self) -> tuple[str, ...]:
        """Paths of parameters that the dry run's input did not use."""
        return tuple(s.path for s in self.params if s.reached is False and s.kind == "parameter")

    def label(self, pattern: str, **changes: Any) -> Specs:
        """Specs in which every path that matches the glob `pattern` has some facts replaced.

        Args:
            pattern: Compared with the whole path.
            **changes: Any of `axes`, `role`, `packed`, `groups`, `start`.

        Raises:
            PlanError: The pattern matches no path.

        Example:
            >>> specs = Specs((ParamSpec(path="mix.weight", shape=(3, 4)),))
            >>> specs.label("mix.*", axes=("in", "out"))["mix.weight"].fan("in")
            3.0
        """
        hits = [any(fnmatch.fnmatchcase(p, pattern) for p in s.paths) for s in self.params]
        if not any(hits):
            raise PlanError(f"label: {pattern!r} matches no parameter.", facts=shown([s.path for s in self.params]))
        params = (dataclasses.replace(s, **changes) if hit else s for s, hit in zip(self.params, hits, strict=True))
        return dataclasses.replace(self, params=tuple(params))

    def to_json(self) -> str:
        """JSON text, read back by `from_json`."""
        settled = [dataclasses.asdict(s) for s in self.settled]
        data = {"framework": self.framework, "params": [s.to_dict() for s in self.params], "settled": settled}
        return json.dumps(data, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Specs:
        """The inverse of `to_json`."""
        data = json.loads(text)
        return cls(tuple(map(ParamSpec.from_dict, data["params"])), data["framework"], settled_from(data["settled"]))

    def table(self, *, fold: bool | None = None, width: int | None = None) -> str:
        """Columns of text; `fold` writes rows that differ in a number only as one (by default when many)."""
        rows = [
            [s.path, s.shown_shape, s.dtype, s.layer, str(s.start) if s.start else "?", remarks(s)] for s in self.params
        ]
        rows = table.fold(rows) if (len(rows) > table.MANY if fold is None else fold) else rows
        return table.table(["parameter", "shape", "dtype", "layer", "framework's start", "remarks"], rows, width=width)

    def __str__(self) -> str:
        return self.table()


def remarks(spec: ParamSpec) -> str:
    """What a table says of a parameter beside its start."""
    notes = [f"also {', '.join(spec.aliases)}"] if spec.aliases else []
    if spec.varies:
        notes.append(f"depends on {spec.varies}")
    if spec.reached is False and spec.kind == "parameter":
        notes.append("not reached by the input")
    if spec.kind == "buffer":
        notes.append("buffer" if spec.persistent else "buffer, not persistent")
    return "; ".join(notes)


def settled_from(data: Sequence[Mapping[str, Any]]) -> tuple[Settled, ...]:
    """`Settled` from plain data."""

    def value(v: Any) -> Any:
        return tuple(map(value, v)) if isinstance(v, list) else v

    return tuple(Settled(d["path"], d["layer"], tuple((n, value(v)) for n, v in d["attributes"])) for d in data)


def unknown_sizes(specs: Sequence[ParamSpec]) -> UnknownSizeError:
    """The error that names parameters whose sizes no input has settled."""
    reason = {True: "unknown", False: "never reached by the input", None: "no input given"}
    rows = [f"{s.path}  {s.shown_shape}  {f'depends on {s.varies}' if s.varies else reason[s.reached]}" for s in specs]
    what = "1 parameter has" if len(rows) == 1 else f"{len(rows)} parameters have"
    return UnknownSizeError(
        f"{specs[0].path}: {what} sizes that are still unknown."
        if len(rows) == 1
        else f"{what} sizes that are still unknown.",
        facts=shown(rows),
        remedy="Give inputs that reach them, every size a number, such as\n    seedbed.plan(model, (batch, features), ...)",
        paths=tuple(s.path for s in specs),
    )
