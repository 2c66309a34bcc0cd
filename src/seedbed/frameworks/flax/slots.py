"""seedbed's initializers in Flax's own slots: functions of a key, a shape and a dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seedbed.errors import FanError, InitializerError
from seedbed.frameworks.flax import numbers
from seedbed.initializers import Fan, Identity, Initializer, Normal, Orthogonal


class Shaped:
    """What JAX takes the fans of a shape for: `in` the last axis but one, `out` the last, the others a window."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)

    def fan(self, which: Fan) -> float:
        """JAX's fan.

        Raises:
            FanError: There are fewer than two axes.
        """
        if len(self.shape) < 2:
            raise FanError(
                f"kernel_init: cannot compute a fan of {self.shape}: it has fewer than two axes.",
                remedy="Choose an initializer that needs no fan, such as Normal(std=...).",
            )
        window = math.prod(self.shape[:-2])
        into, out = self.shape[-2] * window, self.shape[-1] * window
        return {"in": into, "out": out, "avg": (into + out) / 2}[which]


def slot(initializer: Initializer) -> Any:
    """A function for `kernel_init=` and its like, drawing from the key that Flax gives it.

    Inside `jit` it is part of the program; fans are JAX's.

    Args:
        initializer: One of ours.

    Raises:
        InitializerError: When it is called, for one that has no form in a program.

    Example:
        >>> import jax
        >>> from seedbed.initializers import HeNormal
        >>> slot(HeNormal())(jax.random.key(0), (512, 256)).shape
        (512, 256)
    """

    def start(key: Any, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Any:
        made = _made(initializer, key, tuple(shape), jnp.dtype(dtype))
        return made if out_sharding is None else jax.lax.with_sharding_constraint(made, out_sharding)

    start.__name__ = start.__qualname__ = str(initializer)
    return start


def _made(initializer: Initializer, key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    plain = initializer.resolve(Shaped(shape))
    if isinstance(plain, Identity) and len(shape) == 2:
        return plain.gain * jnp.eye(*shape, dtype=dtype)
    words = jax.random.bits(key, (4,), jnp.uint32)
    if isinstance(plain, Orthogonal) and len(shape) > 1:
        return (plain.gain * _orthogonal(words, shape)).astype(dtype)
    held = str(dtype) if str(dtype) in numbers.TYPES else "float32"
    made = numbers.values(plain, held, words, shape) if plain is not None else None
    if made is None:
        raise InitializerError(
            f"{initializer}: cannot be computed inside a JAX program.",
            remedy="Start the model with seedbed.initialize instead, which fills it from outside.",
        )
    return made.astype(dtype)


def _orthogonal(words: Any, shape: tuple[int, ...]) -> Any:
    """Of as many columns as the last axis has; the signs make it uniform over all of them."""
    rows, columns = math.prod(shape[:-1]), shape[-1]
    z = numbers.values(Normal(std=1.0), "float32", words, (max(rows, columns), min(rows, columns)))
    q, r = jnp.linalg.qr(z)
    q = q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)
    return (q if rows >= columns else q.T).reshape(shape)
