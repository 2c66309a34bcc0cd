"""Initializers that fill each element by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from seedbed.errors import InitializerError, columns
from seedbed.initializers.initializer import FLOAT32_MAX, HasFan, Initializer, is_number, number


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Zeros(Initializer):
    """Every element 0."""

    elementwise = True


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Ones(Initializer):
    """Every element 1."""

    elementwise = True


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Constant(Initializer):
    """Every element `value`.

    Args:
        value: Any finite number; rounded to float32, then to the parameter's dtype.

    Raises:
        InitializerError: `value` is not a finite number.

    Example:
        >>> Constant(value=42)
        Constant(value=42)
    """

    elementwise = True
    value: float

    def __post_init__(self) -> None:
        number(self, "value")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Uniform(Initializer):
    """Uniform values, `low <= x < high`.

    Args:
        low: The smallest value.
        high: The bound that is never reached in float32.

    Raises:
        InitializerError: A bound is not finite, or `low` is above `high`.

    Example:
        >>> Uniform(low=-0.5, high=0.5)
        Uniform(low=-0.5, high=0.5)
    """

    elementwise = True
    low: float
    high: float

    def __post_init__(self) -> None:
        number(self, "low")
        number(self, "high")
        if self.low > self.high:
            raise InitializerError(f"Uniform: `low` must not be above `high`, got low={self.low}, high={self.high}.")
        if self.high - self.low > FLOAT32_MAX:
            raise InitializerError(f"Uniform: `high - low` must fit float32, got low={self.low}, high={self.high}.")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Normal(Initializer):
    """Normal values, not cut; none lies further out than 6.34 standard deviations.

    Args:
        mean: Mean of the values.
        std: Standard deviation of the values, 0 or more.

    Raises:
        InitializerError: An argument is not finite, or `std` is negative.

    Example:
        >>> Normal(std=0.02)
        Normal(std=0.02)
    """

    elementwise = True
    mean: float = 0.0
    std: float

    def __post_init__(self) -> None:
        number(self, "mean")
        number(self, "std", least=0)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class TruncatedNormal(Initializer):
    """Normal values, none further than `cut` standard deviations from the mean.

    Args:
        mean: Mean of the values.
        std: Standard deviation of the normal before it is cut; at `cut=2` the values spread 0.8796 of it.
        cut: In standard deviations, above 0.

    Raises:
        InitializerError: An argument is out of range.

    Example:
        >>> TruncatedNormal(std=0.02, cut=3.0)
        TruncatedNormal(std=0.02, cut=3.0)
    """

    elementwise = True
    mean: float = 0.0
    std: float
    cut: float = 2.0

    def __post_init__(self) -> None:
        number(self, "mean")
        number(self, "std", least=0)
        number(self, "cut", above=0)
        if self.cut < 0.001:
            raise InitializerError(
                f"TruncatedNormal: `cut` must be at least 0.001 standard deviations, got {self.cut}."
            )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Mixture(Initializer):
    """Each element follows one of several initializers, drawn with the given probabilities.

    Args:
        parts: Pairs of a probability and an initializer that fills elements one by one (constants,
            uniform, normal, truncated normal, or one of the fan-scaled). Probabilities sum to 1.

    Raises:
        InitializerError: A probability is out of range, or they do not sum to 1.

    Example:
        >>> coin = Mixture([(0.5, Zeros()), (0.5, Uniform(low=5, high=10))])
        >>> coin
        Mixture(parts=((0.5, Zeros()), (0.5, Uniform(low=5, high=10))))
    """

    parts: tuple[tuple[float, Initializer], ...]

    def __init__(self, parts: Sequence[tuple[float, Initializer]]) -> None:
        try:
            object.__setattr__(self, "parts", tuple((p, i) for p, i in parts))
        except (TypeError, ValueError):
            raise InitializerError(
                f"Mixture: `parts` must be pairs of a probability and an initializer, got {parts!r}.",
                remedy="Write Mixture([(probability, Zeros()), (probability, Uniform(low=..., high=...))]).",
            ) from None
        for place, (probability, part) in enumerate(self.parts, 1):
            if not (isinstance(part, Initializer) and part.elementwise):
                raise InitializerError(
                    f"Mixture: part {place} must fill elements one by one, got {part!r}.",
                    remedy="Parts may be Zeros, Ones, Constant, Uniform, Normal, TruncatedNormal and the fan-scaled ones.",
                )
            if not is_number(probability) or not 0 <= probability <= 1:
                raise InitializerError(f"Mixture: probability {place} must be from 0 to 1, got {probability!r}.")
        object.__setattr__(self, "parts", tuple((p if type(p) is int else float(p), i) for p, i in self.parts))
        total = math.fsum(p for p, _ in self.parts)
        if abs(total - 1.0) > 1e-6:
            raise InitializerError(
                f"Mixture: the probabilities must sum to 1, got {total:.9g}.",
                facts=columns([(p, i) for p, i in self.parts]),
            )

    def thresholds(self) -> tuple[int, ...]:
        """For each part but the last, the first 32-bit word that no longer chooses it.

        Example:
            >>> Mixture([(0.25, Zeros()), (0.75, Ones())]).thresholds()
            (1073741824,)
        """
        from fractions import Fraction

        sums, total = [], Fraction(0)
        for probability, _ in self.parts[:-1]:
            total += Fraction(probability)
            sums.append(min(round(total * 2**32), 2**32))
        return tuple(sums)

    def resolve(self, spec: HasFan) -> Initializer | None:
        parts = [(p, i.resolve(spec)) for p, i in self.parts]
        return Mixture([(p, i) for p, i in parts if i]) if all(i for _, i in parts) else None


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Custom(Initializer):
    """The user's own function, asked for any region of the parameter.

    Args:
        function: Called as `function(draw, spec)`; returns an array of the shape `draw.shape`.
            `draw.uniform()`, `draw.normal()` and `draw.bits()` give fresh values for exactly the
            region asked for, and `draw.index(axis)` the places of its elements, so that joined
            regions equal the whole. Give it by position.

    Example:
        >>> Custom(lambda draw, spec: draw.normal() * (abs(draw.normal()) > 1)).name
        '<lambda>'
    """

    function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise InitializerError(f"Custom: `function` must be callable, got {function!r}.")
        object.__setattr__(self, "function", function)

    @property
    def name(self) -> str:
        """The function's name, as the table shows it."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def to_dict(self) -> dict[str, Any]:
        return {"name": "Custom", "function": f"{getattr(self.function, '__module__', '?')}:{self.name}"}

    def __repr__(self) -> str:
        return f"Custom({self.name})"

    __str__ = __repr__
