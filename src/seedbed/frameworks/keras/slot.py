"""Seedbed's initializers in Keras's own slots: `kernel_initializer=slot(HeNormal())`."""

from __future__ import annotations

import random
from typing import Any

import keras

from seedbed.errors import InitializerError
from seedbed.fill import fill, storage_dtype
from seedbed.frameworks.keras.arrays import aligned, tensor_of
from seedbed.initializers import Initializer, from_dict
from seedbed.plan import Entry
from seedbed.spec import Layout, ParamSpec


@keras.saving.register_keras_serializable(package="seedbed")
class Slot(keras.initializers.Initializer):  # type: ignore[misc]
    """One of seedbed's initializers as Keras's layers take them.

    Fans follow from the shape as Keras reads it, (window..., in, out). As with Keras's own initializers
    one object gives the same values on each call, and without a seed takes one that
    `keras.utils.set_random_seed` decides.

    Args:
        initializer: One of seedbed's, or its data.
        seed: From 0 to 2**64 - 1.
    """

    def __init__(self, initializer: Initializer | dict[str, Any], seed: int | None = None) -> None:
        self.initializer = from_dict(initializer) if isinstance(initializer, dict) else initializer
        self._given = seed
        self.seed = random.randint(1, 10**9) if seed is None else seed  # as Keras makes its own

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """The values."""
        spec = self._spec(tuple(map(int, shape)), keras.backend.standardize_dtype(dtype))
        start = self.initializer.resolve(spec)
        entry = Entry(spec=spec, initializer=self.initializer, start=start, why="", stream="slot", seed=self.seed)
        return tensor_of(fill(entry, out=aligned(spec.sizes, storage_dtype(spec.dtype))), spec.dtype)

    def resolved(self, shape: tuple[int, ...]) -> Initializer | None:
        """The initializer without fans, for an array of a shape."""
        return self.initializer.resolve(self._spec(shape, "float32"))

    def _spec(self, shape: tuple[int, ...], dtype: str) -> ParamSpec:
        rank = len(shape)
        axes = ("window",) * (rank - 2) + ("in", "out") if rank >= 2 else ("out",) * rank
        order = ((rank - 1,), (rank - 2,), *((axis,) for axis in range(rank - 2)))
        layout = Layout(order=order) if rank >= 2 else None
        return ParamSpec(path="slot", shape=shape, dtype=dtype, axes=axes, layout=layout)

    def get_config(self) -> dict[str, Any]:
        """Plain data, for `from_config`."""
        return {"initializer": self.initializer.to_dict(), "seed": self._given}


def slot(initializer: Initializer, seed: int | None = None) -> Slot:
    """An initializer of seedbed's for a layer's `kernel_initializer=` and its like."""
    if not isinstance(initializer, Initializer):
        raise InitializerError(f"slot: one of seedbed's initializers is needed, got a {type(initializer).__name__}.")
    return Slot(initializer, seed)
