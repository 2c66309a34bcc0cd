"""Lazy nnx layers: sizes left open until an input tells them, then the real layer in the same object."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from seedbed.errors import UninitializedError
from seedbed.frameworks.flax import build
from seedbed.frameworks.flax.wish import Wish
from seedbed.spec import Dim

STAND_INS = (64, 128)
"""Sizes a layer is built with while its own are open: what differs is not known."""
STARTING = threading.RLock()
"""Held while a kept wish is carried out, so that threads that make the first call wait for it."""


@dataclass(eq=False)
class Wanted:
    """The layer that is to be.

    Attributes:
        keys: Of the streams of random numbers that it is given, taken when it was defined.
        wish: A start asked for before the sizes are known, and the layer's path in the model.
    """

    cls: type
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    keys: Mapping[str, Any]
    wish: tuple[Wish, str] | None = None

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The sizes left open, in the order of the arguments."""
        found: list[Dim] = []
        jax.tree_util.tree_map(
            lambda a: found.append(a) if isinstance(a, Dim) else None,
            (self.arguments, dict(self.keywords)),
            is_leaf=lambda a: isinstance(a, Dim),
        )
        return tuple(found)

    def sizes(self, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> tuple[Any, ...]:
        """What the open sizes are for these inputs.

        Raises:
            InputError: There is no such input, or no such axis of it.
        """
        shapes = [tuple(getattr(value, "shape", ())) for value in inputs]
        named = {name: tuple(getattr(value, "shape", ())) for name, value in keywords.items()}
        return tuple(dim.of(shapes, named) for dim in self.dims)

    def make(self, sizes: Sequence[Any], key: Any) -> Any:
        """The layer of these sizes, its random numbers from a key, or from its own when that is None."""
        left = iter(sizes)

        def filled(value: Any) -> Any:
            if isinstance(value, Dim):
                return next(left)
            if isinstance(value, nnx.Rngs):
                return nnx.Rngs(**self.keys) if key is None else build.fresh(value, key)
            return value

        arguments, keywords = jax.tree_util.tree_map(
            filled, (self.arguments, dict(self.keywords)), is_leaf=lambda a: isinstance(a, (Dim, nnx.Rngs))
        )
        return self.cls(*arguments, **keywords)


@dataclass(eq=False)
class Settling:
    """A dry run that notes which sizes lazy layers get."""

    sizes: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    made: dict[int, Any] = field(default_factory=dict)


SETTLING: ContextVar[Settling | None] = ContextVar("SETTLING", default=None)


class Lazy(nnx.Module):
    """A layer that becomes real at its first input."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """Settle the layer, and call it."""
        settling = SETTLING.get()
        if settling is not None:
            wanted = self.wanted
            if id(wanted) not in settling.made:
                settling.sizes[id(wanted)] = wanted.sizes(inputs, keywords)
                settling.made[id(wanted)] = wanted.make(settling.sizes[id(wanted)], jax.random.key(0))
            return settling.made[id(wanted)](*inputs, **keywords)
        with STARTING:
            if isinstance(self, Lazy):  # another thread may have settled it meanwhile, and what was wanted is gone
                self._settle(self.wanted, inputs, keywords)
        return self(*inputs, **keywords)

    def _settle(self, wanted: Wanted, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        if isinstance(jax.numpy.zeros(()), jax.core.Tracer):
            raise UninitializedError(
                f"{wanted.cls.__name__}: its first call is inside jit, where it cannot become real.",
                remedy="Give the model inputs first:\n    seedbed.initialize(model, (batch, features), ...)",
            )
        sizes = wanted.sizes(inputs, keywords)
        if wanted.wish is None:
            become(self, wanted.make(sizes, None))
            return
        from seedbed.frameworks.flax import nnx as adapter

        adapter.carry_out(self, sizes, *wanted.wish)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "wanted" not in vars(self):
            raise AttributeError(name)
        above = self.wanted.wish[1] if self.wanted.wish else ""
        path = f"{above}.{name}" if above else name
        raise UninitializedError(
            f"{path}: is not there yet, because the sizes of its {self.wanted.cls.__name__} are not settled.",
            remedy=(
                "Give the model inputs, and the values exist:\n"
                "    seedbed.initialize(model, (batch, features), ...)\n"
                "or call the model once, which carries out the wish that was kept."
            ),
            path=path,
        )


def lazy(cls: type, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Lazy:
    """A layer whose sizes are open where an argument is a `Dim`."""
    wanted = Wanted(cls, tuple(arguments), dict(keywords), {})
    given = [a for a in (*arguments, *keywords.values()) if isinstance(a, nnx.Rngs)]
    streams = {n: v for rngs in given for n, v in vars(rngs).items() if isinstance(v, nnx.RngStream)}
    wanted.keys = {name: stream() for name, stream in streams.items()}
    return Lazy(wanted)


def become(layer: Lazy, built: Any) -> None:
    """Turn a lazy layer into a real one; it stays the same object."""
    state = dict(vars(built))
    vars(layer).clear()
    vars(layer).update(state)
    object.__setattr__(layer, "__class__", type(built))
