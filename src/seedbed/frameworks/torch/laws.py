"""What recorded operations amount to: from the operations to the initializer a reader would name.

A law says how the elements of a storage are distributed. It is kept up to date operation by operation;
where no law follows, the operations themselves are the record.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from seedbed.errors import InitializerError
from seedbed.frameworks.torch.record import Geometry, Ref
from seedbed.frameworks.torch.resets import box_of, constant
from seedbed.initializers import Initializer, Normal, Overlay, TruncatedNormal, Uniform
from seedbed.initializers.choices import Box

COPIES = {"copy", "copy_", "_to_copy", "clone", "lift_fresh", "detach", "alias", "contiguous", "positive"}
POINTWISE = COPIES | {
    *("abs", "add", "ceil", "clamp", "clamp_max", "clamp_min", "cos", "div", "erf", "erfinv", "exp", "exp2", "expm1"),
    *("floor", "log", "log10", "log1p", "log2", "logit", "mul", "neg", "pow", "reciprocal", "round", "rsqrt", "rsub"),
    *("sigmoid", "sign", "sin", "softplus", "sqrt", "square", "sub", "tanh", "true_divide"),
}
FULL = {"zeros": 0, "ones": 1, "zeros_like": 0, "ones_like": 1, "new_zeros": 0, "new_ones": 1, "zero_": 0}
FILLED = {"full", "full_like", "new_full", "fill_", "fill"}
SQRT2 = math.sqrt(2.0)

Token = tuple[Any, ...]
"""A draw: the operation's number, then the parts of it that were taken."""


@dataclass(frozen=True)
class Erfinv:
    """`scale * erfinv(u) + shift`, u uniform on [low, high]: a truncated normal on its way."""

    low: float
    high: float
    scale: float = 1.0
    shift: float = 0.0

    def normal(self) -> TruncatedNormal | None:
        """What it is, if its interval is symmetric."""
        high = min(self.high, 1 - 2.0**-24)
        if abs(self.low + self.high) > 1e-6 or not high > 0 or self.scale <= 0:
            return None
        cut = SQRT2 * float(torch.erfinv(torch.tensor(high, dtype=torch.float64)))
        return TruncatedNormal(mean=self.shift, std=self.scale / SQRT2, cut=cut)


class Law(NamedTuple):
    """How the elements of a tensor are distributed.

    Attributes:
        start: The initializer; of a constant, a tensor of one element that holds it; None for memory nobody wrote.
        geometry: The tensor's.
        dtype: The tensor's.
        token: The draw it comes from; empty for a constant.
        boxes: What parts of it were written later.
    """

    start: Initializer | Erfinv | torch.Tensor | None
    geometry: Geometry
    dtype: torch.dtype
    token: Token = ()
    boxes: tuple[tuple[Box, Law], ...] = ()

    @property
    def constant(self) -> torch.Tensor | None:
        """The one element, where all are equal."""
        return self.start if isinstance(self.start, torch.Tensor) and not self.boxes else None

    def initializer(self) -> Initializer | None:
        """One of seedbed's, if it is one."""
        if isinstance(self.start, torch.Tensor):
            base: Initializer | None = constant_of(self.start)
        else:
            base = self.start.normal() if isinstance(self.start, Erfinv) else self.start
        boxes = self.boxes
        if base is None and boxes and _covers([b for b, _ in boxes], self.geometry.size):
            (_, first), *rest = boxes
            base, boxes = first.initializer(), tuple(rest)
        parts = [(box, law.initializer()) for box, law in boxes]
        if base is None or (boxes and base.whole) or any(i is None or i.whole for _, i in parts):
            return None
        while parts and parts[0][1] == base and base_constant(base):  # a later one may undo what stands before it
            parts.pop(0)
        try:
            return Overlay(base=base, boxes=tuple(parts)) if parts else base  # type: ignore[arg-type]
        except InitializerError:
            return None

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Every draw in it."""
        own = (self.token,) if self.token else ()
        return own + tuple(t for _, law in self.boxes for t in law.tokens)


def base_constant(start: Initializer) -> bool:
    """Whether an initializer draws nothing."""
    return type(start).__name__ in ("Zeros", "Ones", "Constant")


def constant_of(one: torch.Tensor) -> Initializer | None:
    """The initializer of a constant, where float32 holds it, its sign too."""
    value = one.item()
    if isinstance(value, complex) or not math.isfinite(value) or abs(value) > 3.4e38:
        return None
    if float(np.float32(value)) != value or (value == 0 and math.copysign(1, value) < 0):
        return None
    return constant(int(value) if isinstance(value, bool) else value)


def _covers(boxes: list[Box], size: tuple[int, ...]) -> bool:
    """Whether boxes that do not meet are the whole."""
    volume = sum(math.prod(b - a for a, b in box) for box in boxes)
    return volume == math.prod(size) and _apart(boxes)


def _apart(boxes: Sequence[Sequence[tuple[int, int]]]) -> bool:
    return all(
        any(p[1] <= q[0] or q[1] <= p[0] for p, q in zip(one, two, strict=True))
        for n, one in enumerate(boxes)
        for two in boxes[:n]
    )


def seen_through(ref: Ref) -> Law | None:
    """The law of the elements that a tensor takes from its storage."""
    law = ref.cell.law
    if law is None or law.dtype != ref.dtype or law.geometry == ref.geometry:
        return law if law is not None and law.dtype == ref.dtype else None
    if law.constant is not None:
        one = law.constant.reshape((1,) * len(ref.geometry.size))
        return Law(one, ref.geometry, ref.dtype)
    elementwise = isinstance(law.start, (Normal, Uniform, TruncatedNormal, Erfinv)) and not law.boxes
    if not elementwise or 0 in ref.geometry.stride or ref.geometry.offset < law.geometry.offset:
        return None
    return law._replace(geometry=ref.geometry, token=(*law.token, ref.geometry))


def made_by(
    func: Any, name: str, values: Mapping[str, Any], out: torch.Tensor, geometry: Geometry, index: int
) -> Law | None:
    """The law of what one operation leaves in `out`, a tensor of this geometry, if all of it is written."""

    def filled(value: Any) -> Law | None:
        if isinstance(value, (bool, int, float)):
            return Law(torch.full((1,) * out.dim(), value, dtype=out.dtype), geometry, out.dtype)
        law = seen_through(value) if type(value) is Ref else None
        one = law.constant if law else None
        return None if one is None else Law(one.reshape((1,) * out.dim()).to(out.dtype), geometry, out.dtype)

    if name in FULL:
        return filled(FULL[name])
    if name in FILLED:
        return filled(values.get("fill_value", values.get("value")))
    if name == "scalar_tensor":
        return filled(values["s"])
    floating = out.dtype.is_floating_point
    if name in ("normal_", "randn", "randn_like", "normal") and floating:
        mean, std = values.get("mean", 0.0), values.get("std", 1.0)
        if isinstance(mean, (int, float)) and isinstance(std, (int, float)):
            return _drawn(Normal, out, geometry, index, mean=float(mean), std=float(std))
    if name in ("uniform_", "rand", "rand_like") and floating:
        low, high = values.get("from", 0.0), values.get("to", 1.0)
        return filled(low) if low == high else _drawn(Uniform, out, geometry, index, low=float(low), high=float(high))
    bare = name.rstrip("_") if name not in COPIES else name
    if bare in POINTWISE:
        return _pointwise(func, bare, values, out, geometry)
    return None


def _drawn(cls: type[Initializer], out: torch.Tensor, geometry: Geometry, index: int, **arguments: float) -> Law | None:
    start = _start(cls, **arguments)
    return Law(start, geometry, out.dtype, (index,)) if start is not None else None


@functools.lru_cache(maxsize=256)
def _start(cls: type[Initializer], **arguments: float) -> Initializer | None:
    """A model draws thousands of times, and from a few distributions."""
    try:
        return cls(**arguments)
    except InitializerError:
        return None


def _pointwise(func: Any, name: str, values: Mapping[str, Any], out: torch.Tensor, geometry: Geometry) -> Law | None:
    tensors = {k: v for k, v in values.items() if type(v) is Ref}
    if name in ("copy", "copy_"):
        tensors = {"src": tensors["src"]} if "src" in tensors else {}
    laws = {k: seen_through(v) for k, v in tensors.items()}
    if (
        not laws
        or any(law is None for law in laws.values())
        or any(isinstance(v, torch.Tensor) for v in values.values())
    ):
        return None
    found = {k: law for k, law in laws.items() if law is not None}
    if all(law.constant is not None for law in found.values()):
        if name in COPIES:
            (law,) = found.values()
            assert law.constant is not None
            return Law(law.constant.reshape((1,) * out.dim()).to(out.dtype), geometry, out.dtype)
        given = {k: found[k].constant.clone() if k in found else v for k, v in values.items()}  # type: ignore[union-attr]
        one = func(**given)
        return Law(one, geometry, one.dtype) if one.numel() == 1 and one.dtype == out.dtype else None
    drawn = [law for law in found.values() if law.constant is None]
    if len(drawn) > 1 or drawn[0].geometry.size != geometry.size or not out.dtype.is_floating_point:
        return None
    (law,) = drawn
    if law.dtype != out.dtype and law.dtype not in (torch.float32, torch.float64):
        return None  # rounded twice
    numbers = {k: float(f.constant) for k, f in found.items() if f.constant is not None}
    if law.boxes:
        return law._replace(geometry=geometry, dtype=out.dtype) if name in COPIES and law.geometry == geometry else None
    start = law.start if name in COPIES else _moved(name, law, {**values, **numbers}, found)
    return None if start is None else law._replace(start=start, geometry=geometry, dtype=out.dtype)


def _moved(name: str, law: Law, values: dict[str, Any], found: dict[str, Law]) -> Initializer | Erfinv | None:
    """A draw times or plus a number, cut, or through the inverse of the error function."""
    start = law.start
    if name == "erfinv" and isinstance(start, Uniform):
        return Erfinv(start.low, start.high) if -1 <= start.low < start.high <= 1 else None
    if name == "clamp":
        return _cut(start, values.get("min"), values.get("max"))
    first = found.get("self")
    reading = first is None or first is not law
    by = values.get("self") if reading else values.get("other")
    alpha = values.get("alpha", 1)
    if type(by) is Ref or not isinstance(by, (int, float)) or not isinstance(alpha, (int, float)):
        return None
    if name == "mul":
        return _affine(start, float(by), 0.0)
    if name in ("div", "true_divide") and not reading and by and values.get("rounding_mode") is None:
        return _affine(start, 1.0 / by, 0.0)
    if name == "add":
        return _affine(start, 1.0, float(by) * alpha) if not reading or alpha == 1 else None
    if name == "sub" and not reading:
        return _affine(start, 1.0, -float(by) * alpha)
    return None


def _affine(start: Any, by: float, plus: float) -> Initializer | Erfinv | None:
    """`by * x + plus`; `by` must be positive, so that what is copied stays a copy."""
    if not by > 0:
        return None
    try:
        if isinstance(start, Normal):
            return Normal(mean=start.mean * by + plus, std=start.std * by)
        if isinstance(start, Uniform):
            return Uniform(low=start.low * by + plus, high=start.high * by + plus)
        if isinstance(start, TruncatedNormal):
            return TruncatedNormal(mean=start.mean * by + plus, std=start.std * by, cut=start.cut)
    except InitializerError:
        return None
    return replace(start, scale=start.scale * by, shift=start.shift * by + plus) if isinstance(start, Erfinv) else None


def _cut(start: Any, low: Any, high: Any) -> Initializer | Erfinv | None:
    """Clamping changes nothing where the values already end."""
    if isinstance(start, Erfinv):
        normal = start.normal()
        start = normal if normal is not None else start
    if isinstance(start, TruncatedNormal):
        reach = start.cut * start.std * (1 - 1e-5)
        if (low is None or low <= start.mean - reach) and (high is None or high >= start.mean + reach):
            return start
    return None


def disjoint(parts: list[Geometry]) -> bool:
    """Whether no two parts of one tensor share an element, as far as can be told."""
    spans = sorted(
        (p.offset, p.offset + 1 + sum((n - 1) * t for n, t in zip(p.size, p.stride, strict=True))) for p in parts
    )
    if all(a[1] <= b[0] for a, b in itertools.pairwise(spans)):
        return True
    if len({p.stride for p in parts}) > 1 or 0 in parts[0].stride:
        return False
    stride = parts[0].stride
    boxes = []
    for part in parts:
        offset, box = part.offset, []
        for axis in sorted(range(len(stride)), key=lambda n: -stride[n]):
            first, offset = divmod(offset, stride[axis])
            box.append((first, first + part.size[axis]))
        boxes.append(box)
    ordered = sorted(stride, reverse=True)
    inside = all(
        side[1] * t <= above for box in boxes for side, t, above in zip(box[1:], ordered[1:], ordered, strict=False)
    )
    return inside and _apart(boxes)


def overlaid(before: Law | None, part: Law | None, view: torch.Tensor) -> Law | None:
    """The law of a tensor, a part of which was written."""
    if before is None or part is None or before.dtype != part.dtype or isinstance(part.start, Erfinv):
        return None
    whole = _Whole(before.geometry)
    box = box_of(view, whole)  # type: ignore[arg-type]
    return None if box is None else before._replace(boxes=(*before.boxes, (box, part)))


class _Whole:
    """As much of a tensor as `box_of` asks for."""

    def __init__(self, geometry: Geometry) -> None:
        self.shape, self._geometry = geometry.size, geometry

    def stride(self) -> tuple[int, ...]:
        return self._geometry.stride

    def storage_offset(self) -> int:
        return self._geometry.offset

    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(self.shape[::-1], self._geometry.stride[::-1], strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True
