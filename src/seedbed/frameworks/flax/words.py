"""32-bit words of each element in `jax.numpy`, and numbers of 64 bits as two of 32: no x64 is needed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seedbed.threefry import PARITY, ROTATIONS

Word = Any
"""uint32: an array of any shape, or a constant of NumPy's."""
Wide = tuple[Word, Word]
"""The high word and the low one."""
FULL = 0xFFFFFFFF


def word(x: int) -> np.uint32:
    """A constant."""
    return np.uint32(x & FULL)


def wide(x: int) -> tuple[np.uint32, np.uint32]:
    """A constant of 64 bits."""
    return word(x >> 32), word(x)


def added(a: Wide, b: Wide) -> Wide:
    """The sum, modulo 2**64."""
    low = a[1] + b[1]
    return a[0] + b[0] + (low < a[1]).astype(jnp.uint32), low


def subtracted(a: Wide, b: Wide) -> Wide:
    """The difference, modulo 2**64."""
    return a[0] - b[0] - (a[1] < b[1]).astype(jnp.uint32), a[1] - b[1]


def below(a: Wide, b: Wide) -> Any:
    """Whether a < b."""
    return (a[0] < b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))


def product(a: Word, b: Word) -> Wide:
    """All 64 bits of a * b, from products of 16 bits by 16."""
    half, mask = word(16), word(0xFFFF)
    ah, al, bh, bl = a >> half, a & mask, b >> half, b & mask
    low, middle, other, high = al * bl, ah * bl, al * bh, ah * bh
    carry = ((low >> half) + (middle & mask) + (other & mask)) >> half
    return high + (middle >> half) + (other >> half) + carry, low + ((middle + other) << half)


def left(a: Wide, by: Word) -> Wide:
    """Shifted left by 0 to 63."""
    m, far = by & word(31), by >= word(32)
    near = (a[0] << m) | ((a[1] >> word(1)) >> (word(31) - m))
    return jnp.where(far, a[1] << m, near), jnp.where(far, word(0), a[1] << m)


def right(a: Wide, by: Word) -> Wide:
    """Shifted right by 0 to 63; the last bit is set where a bit was lost."""
    m, far = by & word(31), by >= word(32)
    near = (a[1] >> m) | ((a[0] << word(1)) << (word(31) - m))
    edge = (word(1) << m) - word(1)
    lost = jnp.where(far, a[1] | (a[0] & edge), a[1] & edge) != word(0)
    low = jnp.where(far, a[0] >> m, near) | lost.astype(jnp.uint32)
    return jnp.where(far, word(0), a[0] >> m), low


def zeros_before(a: Wide) -> Word:
    """How many of the 64 bits stand before the first that is set."""
    return jnp.where(a[0] != word(0), jax.lax.clz(a[0]), word(32) + jax.lax.clz(a[1]))


def places(first: Wide, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Wide:
    """The number of each element: `first`, and along each axis so many times its stride."""
    place: Wide = (jnp.broadcast_to(first[0], sizes), jnp.broadcast_to(first[1], sizes))
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        if size == 1:
            continue
        steps = jax.lax.broadcasted_iota(jnp.uint32, sizes, axis)
        high, low = wide(stride)
        if (size - 1) * stride <= FULL:
            place = added(place, (jnp.zeros_like(steps), steps * low))
        else:
            over, under = product(steps, low)
            place = added(place, (over + steps * high, under))
    return place


def words(key: Word, draw: int, place: Wide) -> Word:
    """The word of each element: element i uses word i mod 4 of block i div 4.

    Each element computes its whole block and takes one word of it. To compute a block once and stack its
    words costs far more: the compiler then computes all of them again for every element.
    """
    low, high = (place[1] >> word(2)) | (place[0] << word(30)), place[0] >> word(2)
    k = [key[n] for n in range(4)]
    k.append(word(PARITY) ^ k[0] ^ k[1] ^ k[2] ^ k[3])
    a, b = low + k[0], high + k[1]
    c, d = jnp.full_like(low, draw) + k[2], jnp.zeros_like(low) + k[3]
    for r in range(20):
        one, two = ROTATIONS[r % 8]
        if r % 2:
            a = a + d
            d = _rotated(d, one) ^ a
            c = c + b
            b = _rotated(b, two) ^ c
        else:
            a = a + b
            b = _rotated(b, one) ^ a
            c = c + d
            d = _rotated(d, two) ^ c
        if r % 4 == 3:
            s = r // 4 + 1
            a, b = a + k[s % 5], b + k[(s + 1) % 5]
            c, d = c + k[(s + 2) % 5], d + k[(s + 3) % 5] + word(s)
    which = place[1] & word(3)
    return jnp.where(which < 2, jnp.where(which == 0, a, b), jnp.where(which == 2, c, d))


def _rotated(x: Word, by: int) -> Word:
    return (x << word(by)) | (x >> word(32 - by))
