"""The numbers in `jax.numpy` under `jit`, bit for bit: any region of a parameter, made on its device.

XLA takes subnormal numbers for 0 and may order or fuse sums and products as it likes. So floating-point
numbers are handled as their bits here, but for two steps in which neither can matter: the look-up's exact
product and its one sum, and a last product that is not subnormal.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seedbed import threefry
from seedbed.frameworks.flax.words import (
    FULL,
    Wide,
    Word,
    added,
    below,
    left,
    places,
    product,
    right,
    subtracted,
    wide,
    word,
    words,
    zeros_before,
)
from seedbed.initializers import Constant, Initializer, Mixture, Normal, Ones, TruncatedNormal, Uniform, Zeros
from seedbed.spec import Layout

TYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
SIGN, INFINITY = 0x80000000, 0x7F800000
SAFE = 2.0**-96
"""Times the smallest value that is not 0, a factor from here on gives no subnormal number."""


def values(
    start: Initializer,
    dtype: str,
    key: Any,
    shape: tuple[int, ...],
    corner: tuple[int, ...] | None = None,
    sizes: tuple[int, ...] | None = None,
    layout: Layout | None = None,
) -> Any:
    """The values of a region of a parameter.

    One program is compiled for each initializer, dtype, shape and region's size; key and corner are its
    arguments, so that all shards of one size share it.

    Args:
        start: What fills it: constants, uniform, normal, truncated normal, or a mixture of these.
        dtype: The parameter's: float32, bfloat16 or float16.
        key: Of the parameter; an array of four words where it is computed itself.
        shape: Of the whole parameter.
        corner: Where the region begins in it; at its first element when left out.
        sizes: Of the region; the whole when left out.
        layout: How the array lies in the canonical one.

    Returns:
        An array of the region's shape, or None where another engine is to fill it.

    Example:
        >>> import numpy as np, seedbed as sb
        >>> specs = sb.Specs((sb.ParamSpec(path="fc.weight", shape=(4, 6)),))
        >>> (entry,) = sb.plan(specs, recipe=sb.initializers.Normal(std=0.02))
        >>> made = values(entry.start, "float32", entry.key, (4, 6), corner=(2, 0), sizes=(2, 6))
        >>> bool((np.asarray(made) == sb.fill.fill(entry)[2:]).all())
        True
    """
    if dtype not in TYPES or not _made(start) or (layout and len(layout.blocks) > 1):
        return None
    corner, sizes = corner or (0,) * len(shape), shape if sizes is None else sizes
    first, strides = _lines(shape, layout)
    first += sum(at * stride for at, stride in zip(corner, strides, strict=True))
    program = _program(start, dtype, sizes, strides)
    words_of = key if hasattr(key, "dtype") else np.array(key, np.uint32)
    return program(words_of, np.array(wide(first), np.uint32))


def _lines(shape: tuple[int, ...], layout: Layout | None) -> tuple[int, tuple[int, ...]]:
    """The number of an array's first element in the canonical whole, and how far along each axis the next is."""
    axes = [axis for group in layout.groups(len(shape)) for axis in group] if layout else list(range(len(shape)))
    strides, step = [0] * len(shape), 1
    for axis in reversed(axes):
        strides[axis] = step
        step *= shape[axis]
    number = layout.blocks[0] if layout and layout.blocks else 0
    return number * step, tuple(strides)


def _made(start: Initializer) -> bool:
    if isinstance(start, Mixture):
        return all(_made(part) for _, part in start.parts)
    return isinstance(start, (Zeros, Ones, Constant, Uniform, Normal, TruncatedNormal))


@functools.lru_cache(maxsize=1024)
def _program(start: Initializer, dtype: str, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    def run(key: Word, first: Word) -> Any:
        place = places((first[0], first[1]), sizes, strides)
        if not isinstance(start, Mixture):
            return rounded(_bits(start, words(key, 0, place)), dtype)
        choice, own = words(key, 0, place), words(key, 1, place)
        made = _bits(start.parts[-1][1], own)
        for threshold, (_, part) in reversed(list(zip(start.thresholds(), start.parts, strict=False))):
            mine = choice < word(threshold) if threshold <= FULL else jnp.full_like(choice, True, bool)
            made = jnp.where(mine, _bits(part, own), made)
        return rounded(made, dtype)

    return jax.jit(run)


def _bits(start: Initializer, own: Word) -> Word:
    """The bits of float32 values."""
    if isinstance(start, Uniform):
        return uniform(own, start.low, start.high)
    if isinstance(start, (Normal, TruncatedNormal)):
        lowest = threefry.lowest_within(start.cut) if isinstance(start, TruncatedNormal) else 0
        return scaled(normal(own, lowest), start.std, start.mean)
    value = start.value if isinstance(start, Constant) else isinstance(start, Ones)
    return jnp.full_like(own, _of(np.float32(value)))


def _of(x: np.float32) -> int:
    return int(x.view(np.uint32))


def _to_bits(x: Any) -> Word:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _to_float(x: Word) -> Any:
    return jax.lax.bitcast_convert_type(x, jnp.float32)


def symmetric(own: Word) -> Word:
    """Bits of uniform values, symmetric about 0."""
    odd = (own >> word(8)).astype(jnp.int32) * 2 - (2**24 - 1)
    return _to_bits(odd.astype(jnp.float32) * np.float32(2.0**-24))


def normal(own: Word, lowest: int) -> Word:
    """Bits of standard normal values, of a cut normal where `lowest` is above 0."""
    m = own & word(0x7FFFFFFF)
    if lowest:
        high, low = product(m, word(2**31 - lowest))
        m = word(lowest) + ((high << word(1)) | (low >> word(31)))
    a, b = threefry.table()
    number = jax.lax.bitcast_convert_type(m.astype(jnp.int32).astype(jnp.float32), jnp.int32)
    row = jnp.maximum((number >> 15) - ((127 << 8) - 1), 0)
    t = ((number >> 3) & 0xFFF).astype(jnp.float32)
    taken = [jnp.asarray(column).at[row].get(mode="promise_in_bounds") for column in (a, b)]
    return _to_bits(taken[0] + taken[1] * t) ^ (own & word(SIGN))


def scaled(x: Word, factor: float, shift: float) -> Word:
    """Bits of `shift + factor * x` from the bits of x, rounded as the contract says."""
    by, to = np.float32(factor), np.float32(shift)
    if to == 0 and abs(by) >= SAFE:
        return _to_bits(_to_float(x) * by)
    sign = (x ^ word(_of(by))) & word(SIGN)
    mantissa, exponent = _parts(x)
    its, own = _parts_of(by)
    p = product(mantissa, word(its))
    p, power = _led(p, exponent + own, 2)
    nothing = (p[0] | p[1]) == word(0)
    if to == 0:
        return jnp.where(nothing, sign, sign | _rounded(p, power))
    made = _summed(p, power, sign, to)
    return jnp.where(nothing, word(_of(to)), made)


def _parts(x: Word) -> tuple[Word, Any]:
    """A whole number and the exponent of 2 that it is multiplied with."""
    field = ((x >> word(23)) & word(0xFF)).astype(jnp.int32)
    fraction = x & word(0x7FFFFF)
    return jnp.where(field > 0, fraction | word(0x800000), fraction), jnp.maximum(field, 1) - 150


def _parts_of(x: np.float32) -> tuple[int, int]:
    field, fraction = _of(x) >> 23 & 0xFF, _of(x) & 0x7FFFFF
    return (fraction | 0x800000 if field else fraction), max(field, 1) - 150


def _led(a: Wide, power: Any, zeros: int) -> tuple[Wide, Any]:
    """The same number with so many zeros before its first bit."""
    by = jnp.where((a[0] | a[1]) == word(0), word(zeros), zeros_before(a)) - word(zeros)
    return left(a, by), power - by.astype(jnp.int32)


def _summed(p: Wide, power: Any, sign: Word, to: np.float32) -> Word:
    """Bits of p * 2**power + to, rounded to 53 binary digits, then to float32. p begins at bit 61."""
    mantissa, own = _parts_of(to)
    by = 62 - mantissa.bit_length()
    upper, lower = (jnp.full_like(p[0], half) for half in wide(mantissa << by))
    apart = power - (own - by)
    over, under = (jnp.clip(x, 0, 63).astype(jnp.uint32) for x in (apart, -apart))
    p, t = right(p, under), right((upper, lower), over)
    power = jnp.maximum(power, own - by)
    other = word(_of(to) & SIGN)
    alike, less = sign == other, below(p, t)
    sums = zip(added(p, t), subtracted(p, t), subtracted(t, p), strict=True)
    high, low = (jnp.where(alike, s, jnp.where(less, b, a)) for s, a, b in sums)
    nothing = (high | low) == word(0)
    (high, low), power = _led((high, low), power, 1)
    up = word(0x1FF) + ((low >> word(10)) & word(1))
    high, low = added((high, low), (jnp.zeros_like(up), up))
    bits = _rounded((high, low & word(FULL ^ 0x3FF)), power, whole=62)
    return jnp.where(nothing, word(0), jnp.where(less, other, sign) | bits)


def _rounded(a: Wide, power: Any, whole: int = 61) -> Word:
    """Bits of a * 2**power as float32, to nearest, ties to even. a begins at bit `whole`, or is 2**(whole + 1)."""
    last = jnp.maximum(power + (whole - 23), -149)
    drop = last - power
    by = jnp.clip(drop - 32, 1, 31).astype(jnp.uint32)
    kept, rest, half = a[0] >> by, a[0] & ((word(1) << by) - word(1)), word(1) << (by - word(1))
    odd = (kept & word(1)) | (a[1] != word(0)).astype(jnp.uint32)
    up = (rest > half) | ((rest == half) & (odd != word(0)))
    kept = jnp.where(drop > 63, word(0), kept + up.astype(jnp.uint32))
    return jnp.minimum(((last + 149).astype(jnp.uint32) << word(23)) + kept, word(INFINITY))


def uniform(own: Word, low: float, high: float) -> Word:
    """Bits of uniform values, `low <= x < high`."""
    bits = scaled(symmetric(own), (high - low) / 2, (high + low) / 2)
    least, bound = np.float32(low), np.float32(high)
    last = np.nextafter(bound, least)
    bits = jnp.where(_order(bits) <= _order(jnp.full_like(bits, _of(least))), word(_of(least)), bits)
    return jnp.where(_order(bits) >= _order(jnp.full_like(bits, _of(last))), word(_of(last)), bits)


def _order(bits: Word) -> Word:
    """Numbers that compare as the floats do; both zeros are one."""
    bits = jnp.where(bits == word(SIGN), word(0), bits)
    return bits ^ jnp.where(bits >= word(SIGN), word(FULL), word(SIGN))


def rounded(bits: Word, dtype: str) -> Any:
    """float32 values, given as bits, in a dtype of `TYPES`; to nearest, ties to even."""
    if dtype == "float32":
        return _to_float(bits)
    if dtype == "bfloat16":
        half = (bits + word(0x7FFF) + ((bits >> word(16)) & word(1))) >> word(16)
    else:
        m = bits & word(0x7FFFFFFF)
        usual = (m - word(0x38000000) + word(0xFFF) + ((m >> word(13)) & word(1))) >> word(13)
        mantissa, exponent = _parts(m)
        by = jnp.clip(-24 - exponent, 1, 25).astype(jnp.uint32)  # of what is below float16's normal numbers
        small = (mantissa + (word(1) << (by - word(1))) - word(1) + ((mantissa >> by) & word(1))) >> by
        half = jnp.minimum(jnp.where(m < word(0x38800000), small, usual), word(0x7C00))
        half = half | ((bits >> word(16)) & word(0x8000))
    # Without the barrier, XLA moves what is one constant as a float of 16 bits, and takes a subnormal one for 0.
    barrier: Any = jax.lax.optimization_barrier
    return jax.lax.bitcast_convert_type(barrier(half.astype(jnp.uint16)), TYPES[dtype])
