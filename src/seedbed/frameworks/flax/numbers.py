"""The numbers in `jax.numpy` under `jit`, bit for bit: any region of a parameter, made on its device.

XLA takes subnormal numbers for 0 and may order or fuse sums and products as it likes. So floating-point
numbers are handled as their bits here, but for two steps in which neither can matter: the look-up's exact
product and its one sum, and a last product that is not subnormal.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

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
Form = tuple[str, Any]
"""A kind of initializer, and what else decides its program."""
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

    One program is compiled for each kind of initializer, dtype, shape and region's size; the key, the corner
    and the initializer's own numbers are its arguments, so that all layers and shards of one size share it.

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
    corner, sizes = corner or (0,) * len(shape), shape if sizes is None else sizes
    if not makes(start, dtype, sizes, layout):
        return None
    first, strides = _lines(shape, layout)
    form, its = formed(start)
    program = _program(form, dtype, sizes, strides)
    words_of = key if hasattr(key, "dtype") else np.array(key, np.uint32)
    return program(words_of, _firsts([corner], first, strides)[0], np.array(its, np.uint32))


def shards(
    start: Initializer,
    dtype: str,
    key: Any,
    shape: tuple[int, ...],
    corners: Mapping[jax.Device, tuple[int, ...]],
    sizes: tuple[int, ...],
    layout: Layout | None = None,
) -> dict[jax.Device, jax.Array]:
    """Regions of one size, each made by the device that is to hold it; equal ones by each of theirs.

    One program is compiled for all of the devices, and each runs it for itself: where its region begins is an
    argument of which every device has its own. No device of another process takes part.

    Args:
        start: What fills it, of which `makes` is true.
        dtype: The parameter's.
        key: Of the parameter.
        shape: Of the whole parameter.
        corners: Where each device's region begins.
        sizes: Of each region.
        layout: How the array lies in the canonical one.

    Returns:
        Each device's region.

    Example:
        >>> import jax, numpy as np, seedbed as sb
        >>> specs = sb.Specs((sb.ParamSpec(path="fc.weight", shape=(4, 6)),))
        >>> (entry,) = sb.plan(specs, recipe=sb.initializers.Normal(std=0.02))
        >>> corners = {jax.devices()[0]: (2, 0)}
        >>> (made,) = shards(entry.start, "float32", entry.key, (4, 6), corners, (2, 6)).values()
        >>> bool((np.asarray(made) == sb.fill.fill(entry)[2:]).all())
        True
    """
    devices = tuple(sorted(corners, key=lambda device: device.id))
    if not sizes:  # no axis that the devices could share
        made = {}
        for device in devices:
            with jax.default_device(device):
                made[device] = jax.device_put(values(start, dtype, key, shape, layout=layout), device)
        return made
    first, strides = _lines(shape, layout)
    form, its = formed(start)
    mesh, program = _everywhere(form, dtype, sizes, strides, devices)
    firsts = _firsts([corners[device] for device in devices], first, strides)
    with jax.set_mesh(mesh):  # the caller's, if there is one, is another
        whole = program(np.array(key, np.uint32), firsts, np.array(its, np.uint32))
    return {shard.device: shard.data for shard in whole.addressable_shards}


def makes(start: Initializer, dtype: str, sizes: tuple[int, ...], layout: Layout | None = None) -> bool:
    """Whether a region's values are made here; an axis is counted in 32 bits, the whole in 64.

    Example:
        >>> from seedbed.initializers import Normal, Orthogonal
        >>> makes(Normal(std=0.02), "bfloat16", (4, 6)), makes(Orthogonal(), "bfloat16", (4, 6))
        (True, False)
    """
    one_block = layout is None or len(layout.blocks) < 2
    return dtype in TYPES and _made(start) and one_block and all(size <= FULL + 1 for size in sizes)


def _firsts(corners: Sequence[tuple[int, ...]], first: int, strides: tuple[int, ...]) -> Any:
    """The number of each region's first element, as two words."""
    numbers = [first + sum(at * stride for at, stride in zip(c, strides, strict=True)) for c in corners]
    return np.array([wide(number) for number in numbers], np.uint32)


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


def formed(start: Initializer) -> tuple[Form, list[int]]:
    """An initializer in two: what decides the program, and the words that are the program's arguments."""
    if isinstance(start, Mixture):
        thresholds = [*start.thresholds(), FULL + 1][: len(start.parts)]
        parts = [formed(part) for _, part in start.parts]
        forms = tuple((t > FULL, form) for t, (form, _) in zip(thresholds, parts, strict=True))
        return ("mixture", forms), [w for t, (_, its) in zip(thresholds, parts, strict=True) for w in (t & FULL, *its)]
    if isinstance(start, Uniform):
        least, bound = np.float32(start.low), np.float32(start.high)
        way, *scale = scaling((start.high - start.low) / 2, (start.high + start.low) / 2)
        return ("uniform", way), [*scale, _of(least), _of(np.nextafter(bound, least))]
    if isinstance(start, (Normal, TruncatedNormal)):
        way, *scale = scaling(start.std, start.mean)
        lowest = threefry.lowest_within(start.cut) if isinstance(start, TruncatedNormal) else 0
        return ("cut", way) if lowest else ("normal", way), [*scale, lowest]
    value = start.value if isinstance(start, Constant) else isinstance(start, Ones)
    return ("constant", ""), [_of(np.float32(value))]


@functools.lru_cache(maxsize=1024)
def _program(form: Form, dtype: str, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """Of a key, the number of the first element, and an initializer's words."""

    def run(key: Word, first: Word, its: Word) -> Any:
        place = places((first[0], first[1]), sizes, strides)
        kind, inner = form
        numbers = iter([its[n] for n in range(its.shape[0])])
        if kind != "mixture":
            return rounded(_bits(form, words(key, 0, place), numbers), dtype)
        choice, own = words(key, 0, place), words(key, 1, place)
        parts = [(last, next(numbers), _bits(part, own, numbers)) for last, part in inner]
        made = parts[-1][2]
        for last, threshold, bits in reversed(parts[:-1]):
            made = bits if last else jnp.where(choice < threshold, bits, made)
        return rounded(made, dtype)

    return jax.jit(run)


@functools.lru_cache(maxsize=1024)
def _everywhere(
    form: Form, dtype: str, sizes: tuple[int, ...], strides: tuple[int, ...], devices: tuple[jax.Device, ...]
) -> tuple[Mesh, Any]:
    """The same on several devices, whose regions lie one after another; the first elements' numbers as rows."""
    run = _program(form, dtype, sizes, strides)
    mesh, whole, own = Mesh(np.array(devices), ("device",)), PartitionSpec(), PartitionSpec("device")

    def each(key: Word, firsts: Word, its: Word) -> Any:
        return run(key, firsts[0], its)

    return mesh, jax.jit(jax.shard_map(each, mesh=mesh, in_specs=(whole, own, whole), out_specs=own))


def _bits(form: Form, own: Word, its: Iterator[Word]) -> Word:
    """The bits of float32 values, from uniform words and the initializer's."""
    kind, way = form
    if kind == "constant":
        return jnp.broadcast_to(next(its), own.shape)
    by, to = next(its), next(its)
    if kind == "uniform":
        return within(scaled(symmetric(own), way, by, to), next(its), next(its))
    lowest = next(its)
    return scaled(normal(own, lowest if kind == "cut" else None), way, by, to)


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


def normal(own: Word, lowest: Word | None = None) -> Word:
    """Bits of standard normal values; of a cut normal where there is a lowest word."""
    m = own & word(0x7FFFFFFF)
    if lowest is not None:
        high, low = product(m, word(2**31) - lowest)
        m = lowest + ((high << word(1)) | (low >> word(31)))
    a, b = threefry.table()
    number = jax.lax.bitcast_convert_type(m.astype(jnp.int32).astype(jnp.float32), jnp.int32)
    row = jnp.maximum((number >> 15) - ((127 << 8) - 1), 0)
    t = ((number >> 3) & 0xFFF).astype(jnp.float32)
    taken = [jnp.asarray(column).at[row].get(mode="promise_in_bounds") for column in (a, b)]
    return _to_bits(taken[0] + taken[1] * t) ^ (own & word(SIGN))


def scaling(factor: float, shift: float) -> tuple[str, int, int]:
    """How `scaled` is to go about a factor and a shift, and their bits."""
    by, to = np.float32(factor), np.float32(shift)
    way = "shifted" if to != 0 else "times" if abs(by) >= SAFE else "small"
    return way, _of(by), _of(to)


def scaled(x: Word, way: str, by: Word, to: Word) -> Word:
    """Bits of `to + by * x` from the bits of all three, rounded as the contract says."""
    if way == "times":
        return _to_bits(_to_float(x) * _to_float(by))
    sign = (x ^ by) & word(SIGN)
    mantissa, exponent = _parts(x)
    its, own = _parts(by)
    p = product(mantissa, its)
    p, power = _led(p, exponent + own, 2)
    nothing = (p[0] | p[1]) == word(0)
    if way == "small":
        return jnp.where(nothing, sign, sign | _rounded(p, power))
    return jnp.where(nothing, to, _summed(p, power, sign, to))


def _parts(x: Word) -> tuple[Word, Any]:
    """A whole number and the exponent of 2 that it is multiplied with."""
    field = ((x >> word(23)) & word(0xFF)).astype(jnp.int32)
    fraction = x & word(0x7FFFFF)
    return jnp.where(field > 0, fraction | word(0x800000), fraction), jnp.maximum(field, 1) - 150


def _led(a: Wide, power: Any, zeros: int) -> tuple[Wide, Any]:
    """The same number with so many zeros before its first bit."""
    by = jnp.where((a[0] | a[1]) == word(0), word(zeros), zeros_before(a)) - word(zeros)
    return left(a, by), power - by.astype(jnp.int32)


def _summed(p: Wide, power: Any, sign: Word, to: Word) -> Word:
    """Bits of p * 2**power + to, rounded to 53 binary digits, then to float32. p begins at bit 61."""
    mantissa, own = _parts(to)
    (upper, lower), own = _led((jnp.zeros_like(mantissa), mantissa), own, 2)
    apart = power - own
    over, under = (jnp.clip(x, 0, 63).astype(jnp.uint32) for x in (apart, -apart))
    p, t = right(p, under), right((upper, lower), over)
    power = jnp.maximum(power, own)
    other = to & word(SIGN)
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


def within(bits: Word, least: Word, last: Word) -> Word:
    """Bits of the values, kept between the least and the last that there may be."""
    bits = jnp.where(_order(bits) <= _order(least), least, bits)
    return jnp.where(_order(bits) >= _order(last), last, bits)


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
