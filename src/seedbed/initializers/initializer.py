"""What every initializer is, and how arguments are judged."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal, Protocol

from seedbed.errors import InitializerError, quoted

FLOAT32_MAX = 3.4028234663852886e38

Fan = Literal["in", "out", "avg"]


class HasFan(Protocol):
    """What an initializer asks of a parameter's spec."""

    def fan(self, which: Fan) -> float | None:
        """Fan in, fan out or their mean; None while a size is unknown."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Initializer:
    """Base of all initializers."""

    elementwise: ClassVar[bool] = False
    """Whether each element is filled by itself, so that it may be part of a `Mixture`."""
    whole: ClassVar[bool] = False
    """Whether a part of the array cannot be computed without all of it."""

    def resolve(self, spec: HasFan) -> Initializer | None:
        """The same start without fans, or None while a size it needs is unknown."""
        return self

    def flax(self) -> Any:
        """For the slots of Flax's layers, such as `kernel_init`: a function of a key, a shape and a dtype.

        The numbers come from the key that Flax gives, and not from a plan; fans are counted as JAX counts them.
        """
        return _slot("flax", self)

    def keras(self) -> Any:
        """For the slots of Keras's layers, such as `kernel_initializer`: one of Keras's initializers, on its seed."""
        return _slot("keras", self)

    def gluon(self) -> Any:
        """For the slots of Gluon's layers, such as `weight_initializer`: one of MXNet's, on MXNet's generator."""
        return _slot("gluon", self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, read back by `from_dict`.

        Example:
            >>> from seedbed.initializers import Normal
            >>> Normal(std=0.02).to_dict()
            {'name': 'Normal', 'std': 0.02}
        """
        return {"name": type(self).__name__, **{name: _plain(value) for name, value in self._changed()}}

    def _changed(self) -> list[tuple[str, Any]]:
        """The arguments that are not at their defaults."""
        pairs = [(f, getattr(self, f.name)) for f in dataclasses.fields(self)]
        return [(f.name, v) for f, v in pairs if f.default is dataclasses.MISSING or v != f.default]

    def _arguments(self) -> tuple[Any, ...]:
        return tuple(getattr(self, f.name) for f in dataclasses.fields(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Initializer) and type(self) is type(other) and self._arguments() == other._arguments()

    def __hash__(self) -> int:
        return hash((type(self), self._arguments()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self._changed())})"

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={_short(v)}' for n, v in self._changed())})"


def _slot(framework: str, initializer: Initializer) -> Any:
    """The one way from here to the edge, taken where a framework's name is called: nothing is imported before."""
    return import_module(f"seedbed.frameworks.{framework}").slot(initializer)


def _plain(value: Any) -> Any:
    if isinstance(value, Initializer):
        return value.to_dict()
    if isinstance(value, tuple) and value and isinstance(value[0], tuple) and isinstance(value[0][-1], Initializer):
        key = "probability" if is_number(value[0][0]) else "box"
        return [{key: _plain(k), "initializer": i.to_dict()} for k, i in value]
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return ", ".join(f"{_short(p)}: {i}" for p, i in value)
    return str(value)


def is_number(value: object) -> bool:
    """Whether `value` is a finite real number, NumPy's included."""
    try:
        return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def number(owner: Initializer, name: str, *, least: float | None = None, above: float | None = None) -> None:
    """Raise unless the argument is a finite float32 number within bounds; make it a plain one."""
    value = getattr(owner, name)
    bound = "" if least is None and above is None else f", {least} or more" if above is None else f" above {above}"
    low = (least is not None and is_number(value) and value < least) or (
        above is not None and is_number(value) and value <= above
    )
    if not is_number(value) or low or abs(value) > FLOAT32_MAX:
        raise InitializerError(
            f"{type(owner).__name__}: `{name}` must be a finite float32 number{bound}, got {quoted(value)}.",
            argument=name,
            got=value,
        )
    if not isinstance(value, int):
        object.__setattr__(owner, name, float(value) + 0.0)  # one zero: equal initializers give equal bits


def choice(owner: Initializer, name: str, known: Sequence[str]) -> None:
    """Raise unless the argument is one of `known`."""
    value = getattr(owner, name)
    if value not in known:
        raise InitializerError(
            f"{type(owner).__name__}: `{name}` must be one of {', '.join(map(repr, known))}, got {quoted(value)}.",
            argument=name,
            got=value,
        )
