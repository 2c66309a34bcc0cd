"""Initializers that point elsewhere: to the framework, to what is there, to parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from seedbed.errors import InitializerError, RecipeError
from seedbed.initializers.initializer import HasFan, Initializer

Box = tuple[tuple[int, int], ...]
"""One (start, stop) per axis."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
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
            remedy="Use one of seedbed's initializers, or write a plan whose sizes are settled: there it is translated.",
        )

    def __repr__(self) -> str:
        return f"Native({self.name})"

    __str__ = __repr__


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Keep(Initializer):
    """As the framework starts it.

    Args:
        values: True leaves the values that are there now, bit for bit, and starts nothing.
    """

    values: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.values, bool):
            raise InitializerError(f"Keep: `values` must be True or False, got {self.values!r}.")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Recorded(Initializer):
    """What a constructor did to a parameter, carried out again: a table of frequencies, a mask.

    Args:
        text: The operations, in a few words.
        digest: Of all of them; two that are equal do the same.
        function: Carries them out: called with the dtype and a function of (stream, number, shape) that
            gives the numbers of each draw, returns the whole array. `None` in a plan read from a file.

    Example:
        >>> print(Recorded(text="arange, mul", digest="1f0c"))
        computed: arange, mul
    """

    whole = True
    text: str
    digest: str
    function: Callable[..., Any] | None = field(default=None)

    def _arguments(self) -> tuple[Any, ...]:
        return self.text, self.digest

    def to_dict(self) -> dict[str, Any]:
        return {"name": type(self).__name__, "text": self.text, "digest": self.digest}

    def __str__(self) -> str:
        return f"computed: {self.text}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}(text={self.text!r}, digest={self.digest!r})"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Chain(Recorded):
    """What a constructor did to each element by itself, so that any part can be computed alone.

    Elements are counted in the order of the whole array, and computed in blocks of `STEP`, the last one
    filled up: every element goes through the same place of the same block, whichever part is asked for.

    Args:
        text: The operations, in a few words.
        digest: Of all of them; two that are equal do the same.
        function: Carries them out: called with the dtype and a function of (stream, number, shape) that
            gives the numbers of each draw, returns a function of the numbers of blocks that gives these
            blocks, one a row. `None` in a plan read from a file.

    Example:
        >>> print(Chain(text="rand, mul, exp", digest="2a07"))
        elementwise: rand, mul, exp
    """

    whole = False
    STEP: ClassVar[int] = 2048

    def __str__(self) -> str:
        return f"elementwise: {self.text}"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Loaded(Initializer):
    """The values of a checkpoint.

    Args:
        file: The checkpoint, as it was asked for.
        tensor: The array's name in it.
        array: The array; `None` in a plan read from a file.

    Example:
        >>> print(Loaded(file="base.safetensors", tensor="fc.weight"))
        fc.weight of base.safetensors
    """

    file: str
    tensor: str
    array: Any = field(default=None)

    def _arguments(self) -> tuple[Any, ...]:
        return self.file, self.tensor

    def to_dict(self) -> dict[str, Any]:
        return {"name": "Loaded", "file": self.file, "tensor": self.tensor}

    def __str__(self) -> str:
        return f"{self.tensor} of {self.file.replace(chr(92), '/').rpartition('/')[2]}"

    def __repr__(self) -> str:
        return f"Loaded(file={self.file!r}, tensor={self.tensor!r})"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Overlay(Initializer):
    """One initializer for the whole, others for boxes of it: an embedding whose padding row is 0.

    Args:
        base: Fills everything outside the boxes.
        boxes: Pairs of a box, one (start, stop) per axis, and its initializer; later ones win.

    Raises:
        InitializerError: A box is not one, or what should fill it makes no numbers of its own.

    Example:
        >>> from seedbed.initializers import Normal, Zeros
        >>> print(Overlay(base=Normal(std=1.0), boxes=((((0, 1), (0, 8)), Zeros()),)))
        Normal(std=1), [0:1, 0:8] Zeros()
    """

    base: Initializer
    boxes: tuple[tuple[Box, Initializer], ...] = field(default=())

    def __post_init__(self) -> None:
        pairs = tuple(self.boxes)
        if not all(isinstance(pair, tuple) and len(pair) == 2 and _is_box(pair[0]) for pair in pairs):
            raise InitializerError(
                f"Overlay: `boxes` must be pairs of a box and an initializer, got {self.boxes!r}.",
                remedy="Write one (start, stop) per axis: boxes=((((0, 1), (0, 8)), Zeros()),).",
            )
        object.__setattr__(self, "boxes", pairs)
        for part in (self.base, *(i for _, i in pairs)):
            if not isinstance(part, Initializer) or isinstance(part, (Keep, Native)):
                raise InitializerError(f"Overlay: every part must make numbers of its own, got {part!r}.")

    @property
    def parts(self) -> tuple[Initializer, ...]:
        """The base and what fills the boxes."""
        return (self.base, *(i for _, i in self.boxes))

    @property
    def whole(self) -> bool:  # type: ignore[override]
        """Whether one of its parts needs the whole array."""
        return any(part.whole for part in self.parts)

    def resolve(self, spec: HasFan) -> Initializer | None:
        base, *inside = (part.resolve(spec) for part in self.parts)
        boxes = tuple((box, part) for (box, _), part in zip(self.boxes, inside, strict=True) if part)
        return Overlay(base=base, boxes=boxes) if base and len(boxes) == len(self.boxes) else None

    def __str__(self) -> str:
        boxes = [f"[{', '.join(f'{a}:{b}' for a, b in box)}] {part}" for box, part in self.boxes]
        return ", ".join([str(self.base), *boxes])


def _is_box(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(side, tuple) and len(side) == 2 and all(type(n) is int for n in side) and 0 <= side[0] <= side[1]
        for side in value
    )
