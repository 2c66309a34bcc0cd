"""How a framework's array lies in the canonical one, whose axes are (out, in, window...) as PyTorch has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seedbed.spec.input import Shape


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the elements of a framework's array stand in the canonical array.

    Args:
        order: For each axis of the canonical array, the axes of the framework's that make it, slowest
            first; empty where the two have the same axes.
        blocks: Which of the equal blocks that lie along the first axis of the canonical whole it holds
            (q, k and v; the gates of an LSTM), in its own order; empty for all of them.
        of: How many such blocks the whole has.

    Example:
        >>> kernel = Layout(order=((1,), (0,)))  # (in, out)
        >>> kernel.canonical((20, 256))
        (256, 20)
        >>> query = Layout(order=((1, 2), (0,)), blocks=(0,), of=3)  # (in, heads, out of a head), one of q, k and v
        >>> query.canonical((512, 8, 64)), query.whole((512, 8, 64))
        ((512, 512), (1536, 512))
    """

    order: tuple[tuple[int, ...], ...] = ()
    blocks: tuple[int, ...] = ()
    of: int = 1

    def fits(self, rank: int) -> bool:
        """Whether it tells of every axis of an array of `rank` axes once, and of blocks that there are."""
        axes = [axis for group in self.order for axis in group]
        named = not self.order or (sorted(axes) == list(range(rank)) and all(self.order))
        blocks = set(self.blocks)
        return named and len(blocks) == len(self.blocks) and blocks <= set(range(self.of)) and (rank > 0 or not blocks)

    def groups(self, rank: int) -> tuple[tuple[int, ...], ...]:
        """`order`, written out."""
        return self.order or tuple((axis,) for axis in range(rank))

    @property
    def partial(self) -> bool:
        """Whether it is a part of a whole."""
        return 0 < len(self.blocks) < self.of

    def canonical(self, shape: Shape) -> Shape:
        """The shape of the same elements with the canonical axes."""
        sizes = [[shape[axis] for axis in group] for group in self.groups(len(shape))]
        return tuple(None if None in group else math.prod(n for n in group if n is not None) for group in sizes)

    def whole(self, shape: Shape) -> Shape:
        """The shape of the canonical whole that it is a part of."""
        first, *rest = self.canonical(shape) or (1,)
        if not self.partial or first is None:
            return self.canonical(shape)
        return (first // len(self.blocks) * self.of, *rest)

    @property
    def alone(self) -> Layout:
        """The same for an array that is a whole by itself."""
        return Layout(order=self.order) if self.partial else self

    def roles(self, axes: Sequence[str]) -> tuple[str, ...]:
        """The roles of the canonical axes, from those of the framework's."""
        return tuple(axes[group[0]] for group in self.groups(len(axes))) if axes else ()


def layout_from(data: Mapping[str, Any]) -> Layout:
    """A `Layout` from plain data."""
    return Layout(order=tuple(map(tuple, data["order"])), blocks=tuple(data["blocks"]), of=data["of"])
