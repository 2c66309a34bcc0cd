"""The law that each initializer's values really have, counted over every word, and the one it promises.

A law is every value a parameter may hold with the number of words that give it: nothing is sampled. The normal's is
read off the library's own map by giving it all 2**31 sizes, block by block; the others are made from all their words
likewise, or from laws already counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from seedbed import threefry
from seedbed.initializers import Initializer, Mixture, Normal, TruncatedNormal, Uniform

Floats = NDArray[np.float64]

SIZES = 2**31
BLOCK = 2**23


@dataclass(frozen=True)
class Law:
    """Values in rising order, none twice, and how many of `words` words give each."""

    values: NDArray[np.float32]
    counts: NDArray[np.int64]
    words: int

    def at_most(self, edges: Floats) -> Floats:
        """The part of the words whose value is at most each edge."""
        sums = np.concatenate(([0], np.cumsum(self.counts)))
        return sums[np.searchsorted(self.values, edges, side="right")] / self.words

    def moments(self, center: float) -> list[float]:
        """About `center`, the first to the eighth; extended precision, then rounded."""
        z = self.values.astype(np.longdouble) - np.longdouble(center)
        n = self.counts.astype(np.longdouble) / np.longdouble(self.words)
        sums = []
        for _ in range(8):
            n *= z
            sums.append(float(n.sum()))
        return sums

    def distance(self, cdf: Callable[[Floats], Floats]) -> float:
        """Kolmogorov-Smirnov: the largest difference from a continuous distribution function, over all real numbers."""
        sums = np.concatenate(([0], np.cumsum(self.counts))) / self.words
        values = self.values.astype(np.float64)
        below = cdf(np.nextafter(values, -np.inf))
        return float(max(np.abs(sums[1:] - cdf(values)).max(), np.abs(sums[:-1] - below).max()))


@dataclass(frozen=True)
class Walk:
    """What a walk over all sizes found: they never rise, and each run of equal ones is kept."""

    sizes: NDArray[np.float32]
    counts: NDArray[np.int64]
    lowest: int

    @property
    def law(self) -> Law:
        """Of both signs: a word and the same with its top bit give the same size, signs opposed."""
        size, count = self.sizes[::-1], self.counts[::-1]
        if size[0] == 0:  # both zeros are one value
            values, counts = np.concatenate((-size[:0:-1], size)), np.concatenate((count[:0:-1], count))
            counts[size.size - 1] *= 2
        else:
            values, counts = np.concatenate((-size[::-1], size)), np.concatenate((count[::-1], count))
        return Law(values, counts, 2**32)

    def cut(self, lowest: int) -> Walk:
        """From the walk without a cut, the one from `lowest`: m becomes lowest + (m * (2**31 - lowest) >> 31)."""
        last = np.cumsum(self.counts)
        kept = last > lowest
        ends = (last[kept] - lowest) << 31  # how many m become less than this: the quotient, rounded up
        ends = -(-ends // (SIZES - lowest))
        return Walk(self.sizes[kept], np.diff(ends, prepend=0), lowest)

    def error(self) -> float:
        """The largest deviation from the exact quantile of the truncated normal, over every m.

        Between the ends of a run the exact quantile falls, so the ends tell.
        """
        last = np.cumsum(self.counts) - 1
        worst = 0.0
        for m in (last - self.counts + 1, last):
            moved = self.lowest + ((m.astype(np.uint64) * np.uint64(SIZES - self.lowest)) >> np.uint64(31))
            exact = -special.ndtri((moved.astype(np.float64) + 0.5) / 2**32)
            worst = max(worst, float(np.abs(self.sizes.astype(np.float64) - exact).max()))
        return worst


def walk(lowest: int = 0) -> Walk:
    """Give the library's normal map all 2**31 words without a sign, in order.

    Raises:
        ValueError: A size is above the one before it, below zero, or not finite.
    """
    sizes, counts = [], []
    previous = np.float32(np.inf)
    for first in range(0, SIZES, BLOCK):
        z = threefry.normal(np.arange(first, first + BLOCK, dtype=np.uint32), lowest)
        if not (np.isfinite(z).all() and (z >= 0).all() and z[0] <= previous and (z[1:] <= z[:-1]).all()):
            raise ValueError(f"the sizes of m from {first} do not fall")
        starts = np.concatenate(([0], np.flatnonzero(z[1:] != z[:-1]) + 1))
        runs = np.diff(np.concatenate((starts, [BLOCK])))
        if z[0] == previous:
            counts[-1][-1] += runs[0]
            starts, runs = starts[1:], runs[1:]
        sizes.append(z[starts])
        counts.append(runs)
        previous = z[-1]
    return Walk(np.concatenate(sizes), np.concatenate(counts), lowest)


def merged(values: NDArray[np.float32], counts: NDArray[np.int64], words: int) -> Law:
    """A law of rising values, equal ones taken together."""
    starts = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))
    return Law(values[starts], np.add.reduceat(counts, starts), words)


def counted(start: Initializer, walks: dict[int, Walk]) -> Law:
    """The law of an elementwise initializer; `walks` keeps the walks, by their lowest m."""
    if isinstance(start, Uniform):
        s = threefry.uniform(np.arange(2**24, dtype=np.uint32) << np.uint32(8), start.low, start.high)
        return merged(s, np.full(2**24, 256), 2**32)
    if isinstance(start, (Normal, TruncatedNormal)):
        lowest = threefry.lowest_within(start.cut) if isinstance(start, TruncatedNormal) else 0
        if lowest not in walks:
            walks[lowest] = walks[0].cut(lowest)
        law = walks[lowest].law
        if start.std == 1 and start.mean == 0:
            return law
        return merged(threefry.scaled(law.values, start.std, start.mean), law.counts, law.words)
    if isinstance(start, Mixture):
        return mixed(start, walks)
    value = np.array([getattr(start, "value", 0.0)], np.float32)
    return Law(value, np.array([2**32]), 2**32)


def mixed(start: Mixture, walks: dict[int, Walk]) -> Law:
    """Of a mixture whose probabilities are quarters: parts in proportion, so that all counts stay whole."""
    bounds = [0, *start.thresholds(), 2**32]
    values, counts = [], []
    for (_, part), low, high in zip(start.parts, bounds, bounds[1:], strict=False):
        law = counted(part, walks)
        share = (high - low) // 2**30
        if share * 2**30 != high - low:
            raise ValueError("a mixture of other parts than quarters")
        values.append(law.values)
        counts.append(law.counts * share)
    order = np.argsort(np.concatenate(values), kind="stable")
    return merged(np.concatenate(values)[order], np.concatenate(counts)[order], 2**34)


@dataclass(frozen=True)
class Promise:
    """What an initializer's documentation says: a distribution function, and its moments about `center`."""

    cdf: Callable[[Floats], Floats]
    center: float
    moments: tuple[float, float, float, float]
    support: tuple[float, float]


def promised(start: Initializer) -> Promise:
    """The textbook's law; moments are about the mean."""
    if isinstance(start, Uniform):
        low, width = start.low, start.high - start.low
        moments = (0.0, width**2 / 12, 0.0, width**4 / 80)
        return Promise(lambda x: np.clip((x - low) / width, 0, 1), low + width / 2, moments, (low, low + width))
    if isinstance(start, Normal):
        mean, std = start.mean, start.std
        return Promise(
            lambda x: special.ndtr((x - mean) / std), mean, (0.0, std**2, 0.0, 3 * std**4), (-np.inf, np.inf)
        )
    if isinstance(start, TruncatedNormal):
        mean, std, cut = start.mean, start.std, start.cut
        tail, density = special.ndtr(-cut), np.exp(-(cut**2) / 2) / np.sqrt(2 * np.pi)
        inside = 1 - 2 * tail
        second = 1 - 2 * cut * density / inside
        fourth = 3 * second - 2 * cut**3 * density / inside
        return Promise(
            lambda x: np.clip((special.ndtr((x - mean) / std) - tail) / inside, 0, 1),
            mean,
            (0.0, std**2 * second, 0.0, std**4 * fourth),
            (mean - cut * std, mean + cut * std),
        )
    if isinstance(start, Mixture):
        parts = [(p, promised(part)) for p, part in start.parts if not _zero(part)]
        zero = sum(p for p, part in start.parts if _zero(part))
        return Promise(
            lambda x: sum((p * part.cdf(x) for p, part in parts), zero * (np.asarray(x) >= 0)),
            0.0,
            tuple(sum(p * _raw(part, k) for p, part in parts) for k in (1, 2, 3, 4)),
            (min(part.support[0] for _, part in parts), max(part.support[1] for _, part in parts)),
        )
    raise TypeError(f"{start}: no law is written down")


def _zero(part: Initializer) -> bool:
    return not isinstance(part, (Uniform, Normal, TruncatedNormal))


def _raw(part: Promise, k: int) -> float:
    """A moment about 0 from those about the mean."""
    about = (1.0, *part.moments)
    return float(sum(special.comb(k, i) * about[i] * part.center ** (k - i) for i in range(k + 1)))
