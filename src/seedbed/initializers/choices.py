"""Initializers that point elsewhere: to the framework, to what is there, to parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from seedbed.errors import RecipeError
from seedbed.initializers.initializer import HasFan, Initializer

Box = tuple[tuple[int, int], ...]
"""One (start, stop) per axis."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Native(Initializer):
    """A framework's own initializer, as its adapter is given it; never left in a plan."""

    function: Callable[..., Any]

    @property
    def name(self) -> str:
        """The function's name."""
        inner = getattr(self.function, "func", self.function)
        return getattr(inner, "__qualname__", type(inner).__name__)

    def to_dict(self) -> dict[str, Any]:
        raise RecipeError(
            f"{self.name}: a framework's own initializer cannot be written to a file.",
            remedy="Use one of seedbed's initializers, or write the plan instead: there it is already translated.",
        )

    def __repr__(self) -> str:
        return f"Native({self.name})"

    __str__ = __repr__


@dataclass(frozen=True, kw_only=True, repr=False)
class Keep(Initializer):
    """As the framework starts it.

    Args:
        values: True leaves the values that are there now, bit for bit, and starts nothing.
    """

    values: bool = False


@dataclass(frozen=True, kw_only=True, repr=False)
class Overlay(Initializer):
    """One initializer for the whole, others for boxes of it: an embedding whose padding row is 0.

    Args:
        base: Fills everything outside the boxes.
        boxes: Pairs of a box, one (start, stop) per axis, and its initializer; later ones win.

    Example:
        >>> print(Overlay(base=Normal(std=1.0), boxes=((((0, 1), (0, 8)), Zeros()),)))
        Normal(std=1), [0:1, 0:8] Zeros()
    """

    base: Initializer
    boxes: tuple[tuple[Box, Initializer], ...] = field(default=())

    def resolve(self, spec: HasFan) -> Initializer | None:
        base = self.base.resolve(spec)
        return Overlay(base=base, boxes=self.boxes) if base else None

    def __str__(self) -> str:
        boxes = [f"[{', '.join(f'{a}:{b}' for a, b in box)}] {part}" for box, part in self.boxes]
        return ", ".join([str(self.base), *boxes])
