"""The integers: (key, counter) to words, and words to values. The reference for every other engine.

Only integer operations, exact conversions, table look-ups, one exact float32 product before one
addition, and one product at the end: no compiler, vector width or library can change a bit.
`docs/determinism.md` is the contract.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Floats = NDArray[np.float32]
Key = tuple[int, int, int, int]

ROTATIONS = ((10, 26), (11, 21), (13, 27), (23, 5), (6, 20), (17, 11), (25, 10), (18, 20))
PARITY = 0x1BD11BDA
FLOAT8 = {"float8_e4m3fn": (3, -6, 0x7E), "float8_e5m2": (2, -14, 0x7C)}
"""Bits of the fraction, smallest exponent, and the code of all that is too large: 448; infinity."""


def threefry4x32(key: Key, counter: tuple[Any, Any, Any, Any]) -> tuple[Words, Words, Words, Words]:
    """Threefry4x32 with 20 rounds, for arrays of counters.

    Args:
        key: Four 32-bit words.
        counter: Four numbers or arrays of uint32, of shapes that broadcast.

    Example:
        >>> [hex(int(w[0])) for w in threefry4x32((0, 0, 0, 0), (0, 0, 0, 0))]
        ['0x9c6ca96a', '0xe17eae66', '0xfc10ecd4', '0x5256a7d8']

    References:
        J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
        doi:10.1145/2063384.2063405, section 4.3; known answers from its Random123 library.
    """
    k0, k1, k2, k3 = key
    schedule = [np.uint32(k) for k in (k0, k1, k2, k3, PARITY ^ k0 ^ k1 ^ k2 ^ k3)]
    with np.errstate(over="ignore"):
        a, b, c, d = (np.atleast_1d(np.asarray(x, np.uint32)) + schedule[i] for i, x in enumerate(counter))
        for r in range(20):
            left, right = ROTATIONS[r % 8]
            if r % 2:
                a = a + d
                d = _rotate(d, left) ^ a
                c = c + b
                b = _rotate(b, right) ^ c
            else:
                a = a + b
                b = _rotate(b, left) ^ a
                c = c + d
                d = _rotate(d, right) ^ c
            if r % 4 == 3:
                s = r // 4 + 1
                a = a + schedule[s % 5]
                b = b + schedule[(s + 1) % 5]
                c = c + schedule[(s + 2) % 5]
                d = d + schedule[(s + 3) % 5] + np.uint32(s)
    return a, b, c, d


def _rotate(x: Words, by: int) -> Words:
    return (x << np.uint32(by)) | (x >> np.uint32(32 - by))


def runs(key: Key, draw: int, starts: NDArray[np.int64], length: int) -> Words:
    """The words of several runs of elements, all of one length.

    Element i uses word i mod 4 of block i div 4, and the counter of a block is
    (block mod 2**32, block div 2**32, draw, 0).

    Args:
        key: Of the parameter.
        draw: Which of its independent draws.
        starts: The first element of each run.
        length: Elements in a run.

    Returns:
        uint32, shape (runs, length).

    Example:
        >>> whole = runs((1, 2, 3, 4), 0, np.array([0]), 12)[0]
        >>> bool((runs((1, 2, 3, 4), 0, np.array([5]), 3)[0] == whole[5:8]).all())
        True
    """
    first = starts >> 2
    blocks = first[:, None] + np.arange((length + 6) // 4, dtype=np.int64)
    low, high = (blocks & 0xFFFFFFFF).astype(np.uint32), (blocks >> 32).astype(np.uint32)
    lanes = threefry4x32(key, (low, high, np.uint32(draw), np.uint32(0)))
    words = np.stack(np.broadcast_arrays(*lanes), axis=-1).reshape(len(starts), -1)
    offsets = starts & 3
    if len(starts) == 1 or not offsets.any():
        offset = int(offsets[0])
        return words[:, offset : offset + length]
    return np.take_along_axis(words, offsets[:, None] + np.arange(length), axis=1)


def symmetric(words: Words) -> Floats:
    """Uniform values of 24 bits, symmetric about 0, never 0, -1 or 1.

    Example:
        >>> [float(s) for s in symmetric(np.array([0, 2**32 - 1], np.uint32)) * np.float32(2**24)]
        [-16777215.0, 16777215.0]
    """
    odd = (words >> np.uint32(8)).astype(np.int32) * 2 - (2**24 - 1)
    return odd.astype(np.float32) * np.float32(2.0**-24)


@functools.cache
def table() -> tuple[Floats, Floats]:
    """A and B of the normal's table, made by `scripts/make_normal_table.py`."""
    with resources.files("seedbed").joinpath("normal_table.npy").open("rb") as file:
        a, b = np.load(file)
    return a, b


def quantile(m: NDArray[Any]) -> Floats:
    """The normal's value whose lower tail is (m + 1/2) / 2**32, sign turned; m from 0 to 2**31 - 1.

    Largest error 1e-6; largest value 6.338; never rises with m.
    """
    a, b = table()
    bits = m.astype(np.int32).astype(np.float32).view(np.int32)
    row = np.maximum((bits >> 15) - ((127 << 8) - 1), 0)
    t = ((bits >> 3) & 0xFFF).astype(np.float32)
    z: Floats = a[row] + b[row] * t
    return z


def normal(words: Words, lowest: int = 0) -> Floats:
    """Standard normal values; with `lowest` above 0, those of a normal cut symmetrically.

    Args:
        words: The top bit is the sign, the others the tail.
        lowest: The smallest m allowed; see `lowest_within`.

    Example:
        >>> [float(z) for z in normal(np.array([0, 2**31], np.uint32))]
        [6.337957859039307, -6.337957859039307]
    """
    m = words & np.uint32(0x7FFFFFFF)
    if lowest:
        m = lowest + ((m.astype(np.uint64) * np.uint64(2**31 - lowest)) >> np.uint64(31))
    z = quantile(m)
    return (z.view(np.uint32) ^ (words & np.uint32(0x80000000))).view(np.float32)


@functools.cache
@functools.lru_cache(256)
def lowest_within(cut: float) -> int:
    """The smallest m whose value is at most `cut` standard deviations, found in the table itself.

    Example:
        >>> lowest_within(7.0), round(lowest_within(2.0) / 2**32, 7)
        (0, 0.0227501)
    """
    low, high = 0, 2**31 - 1
    bound = np.float32(cut)
    while low < high:
        middle = (low + high) // 2
        if quantile(np.array([middle]))[0] <= bound:
            high = middle
        else:
            low = middle + 1
    return low


def scaled(values: Floats, factor: float, shift: float) -> Floats:
    """`shift + factor * values`, factor and shift rounded to float32 first.

    One float32 product when the shift is 0; otherwise product and sum in float64, where the product
    is exact, and one rounding. What float32 cannot hold becomes infinite.
    """
    by, to = np.float32(factor), np.float32(shift)
    with np.errstate(over="ignore"):
        if to == 0:
            return values * by
        return (values.astype(np.float64) * np.float64(by) + np.float64(to)).astype(np.float32)


def uniform(words: Words, low: float, high: float) -> Floats:
    """`low <= x < high`, the bounds rounded to float32.

    Example:
        >>> float(uniform(np.array([2**32 - 1], np.uint32), 5.0, 10.0)[0])
        9.999999046325684
    """
    values = scaled(symmetric(words), (high - low) / 2, (high + low) / 2)
    least, bound = np.float32(low), np.float32(high)
    last = np.nextafter(bound, least)
    values = np.where(values <= least, least, values)  # not np.clip: which of two zeros it returns is not said
    return np.where(values >= last, last, values)


def rounded(values: Floats, dtype: str) -> NDArray[Any]:
    """float32 values in another floating-point dtype, to nearest, ties to even.

    What NumPy lacks is given as its bits: bfloat16 in uint16, the two float8 in uint8.

    Example:
        >>> [hex(int(b)) for b in rounded(np.array([1.0, 1.00390625, 1.01171875], np.float32), "bfloat16")]
        ['0x3f80', '0x3f80', '0x3f82']
    """
    if dtype in FLOAT8:
        return _float8(values, *FLOAT8[dtype])
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return values.astype(dtype)
    bits = values.view(np.uint32)
    with np.errstate(over="ignore"):
        upper = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), upper).astype(np.uint16)


def _float8(values: Floats, mantissa: int, smallest: int, largest: int) -> NDArray[np.uint8]:
    nan = np.isnan(values)
    size = np.where(nan, 0, np.minimum(np.abs(values), np.float32(2**16)))
    exponent = np.where(size < 2.0**smallest, smallest, np.frexp(size)[1] - 1)
    steps = np.rint(np.ldexp(size, mantissa - exponent)).astype(np.int32)  # of the size they have at this exponent
    code = np.minimum(((exponent - smallest) << mantissa) + steps, largest)
    return np.where(nan, 0x7F, code + np.signbit(values) * 0x80).astype(np.uint8)
