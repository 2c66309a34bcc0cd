"""The integers and what is made of them, against published answers, SciPy and PyTorch."""

import importlib.util
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from seedbed.threefry import (
    lowest_within,
    normal,
    quantile,
    rounded,
    runs,
    scaled,
    symmetric,
    table,
    threefry4x32,
    uniform,
)

# Counter, key and words of threefry4x32 with 20 rounds, from `tests/kat_vectors` of Random123
# (https://github.com/DEShawResearch/random123).
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000 00000000 00000000",
        "9c6ca96a e17eae66 fc10ecd4 5256a7d8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff ffffffff ffffffff",
        "2a881696 57012287 f6c7446e a16a6732",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0 082efa98 ec4e6c89",
        "59cd1dbb b8879579 86b5d00c ac8b6d84",
    ),
]
WORDS = st.integers(0, 2**32 - 1)
KEYS = st.tuples(WORDS, WORDS, WORDS, WORDS)
EXTREMES = np.array([0, 1, 255, 256, 2**31 - 256, 2**31 - 1, 2**31, 2**31 + 255, 2**32 - 256, 2**32 - 1], np.uint32)


def random_words(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, count, np.uint32)


def four(text: str) -> tuple[int, int, int, int]:
    a, b, c, d = (int(word, 16) for word in text.split())
    return a, b, c, d


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_threefry_gives_the_published_words(counter, key, words):
    assert tuple(int(w[0]) for w in threefry4x32(four(key), four(counter))) == four(words)


def test_threefry_of_an_array_is_that_of_its_elements():
    key, counters = (1, 2, 3, 4), random_words(40).reshape(4, 10)
    together = np.array(threefry4x32(key, tuple(counters)))
    alone = [np.array(threefry4x32(key, tuple(int(n) for n in c)))[:, 0] for c in counters.T]
    assert (np.array(alone) == together.T).all()


def one_by_one(key, draw: int, first: int, length: int) -> list[int]:
    """The definition: element i uses word i mod 4 of block i div 4."""
    words = []
    for i in range(first, first + length):
        block = i // 4
        words.append(int(threefry4x32(key, (block % 2**32, block // 2**32, draw, 0))[i % 4][0]))
    return words


@settings(max_examples=60, deadline=None, derandomize=True)
@given(key=KEYS, draw=st.integers(0, 9), first=st.integers(0, 2**62), length=st.integers(0, 11))
def test_runs_equal_the_plain_definition(key, draw, first, length):
    assert runs(key, draw, np.array([first]), length).tolist() == [one_by_one(key, draw, first, length)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    key=KEYS, starts=st.lists(st.integers(2**34 - 20, 2**34 + 20), min_size=1, max_size=5), length=st.integers(1, 11)
)
def test_runs_across_two_to_the_32_blocks_equal_the_plain_definition(key, starts, length):
    expected = [one_by_one(key, 3, first, length) for first in starts]
    assert runs(key, 3, np.array(starts), length).tolist() == expected


def test_high_half_of_the_block_number_is_counted():
    low, high = (runs((1, 2, 3, 4), 0, np.array([first]), 64) for first in (0, 2**34))
    assert (low != high).mean() > 0.99


def test_draws_are_different_words():
    draws = [runs((1, 2, 3, 4), draw, np.array([0]), 64) for draw in range(4)]
    assert len(np.unique(draws)) == 256


def test_symmetric_reaches_its_extremes_and_no_further():
    step = 2.0**-24
    expected = [step - 1, step - 1, step - 1, 3 * step - 1, -step, -step, step, step, 1 - step, 1 - step]
    assert symmetric(EXTREMES).tolist() == expected


def test_symmetric_is_never_zero_and_turns_with_its_word():
    words = random_words(200_000)
    values = symmetric(words)
    assert values.all()
    assert (symmetric(~words) == -values).all()
    assert (values.astype(np.float64) == ((words >> 8) + 0.5) / 2**23 - 1).all()


def places() -> np.ndarray:
    """Both edges of every octave and of every row, and random places in every octave."""
    edges = [np.arange(0, 5000), np.arange(2**31 - 5000, 2**31)]
    for octave in range(12, 31):
        rows = 2**octave + np.arange(257) * 2 ** (octave - 8)
        edges += [(rows[:, None] + np.arange(-3, 3)).reshape(-1)]
        edges += [np.random.default_rng(octave).integers(2**octave, 2 ** (octave + 1), 50_000)]
    return np.unique(np.concatenate(edges).clip(0, 2**31 - 1))


def test_quantile_is_within_a_millionth_of_the_exact_one():
    m = places()
    error = np.abs(quantile(m).astype(np.float64) + ndtri((m + 0.5) / 2**32))
    assert error.max() < 1e-6, m[error.argmax()]


def test_quantile_never_rises():
    m = places()
    z = quantile(m)
    assert (np.diff(z) <= 0).all()
    assert z[0] == np.float32(6.337958)
    assert 0 < z[-1] < 1e-6


def test_quantile_falls_or_stays_inside_every_row():
    a, b = table()
    assert (b <= 0).all()
    assert (a > 0).all()
    mantissas, _ = np.frexp(b.astype(np.float64))
    assert (mantissas * 4096 % 1 == 0).all(), "a slope has more than 12 bits: its product with t is not exact"


def test_committed_table_is_what_its_script_makes():
    path = Path(__file__).parents[1] / "scripts" / "make_normal_table.py"
    spec = importlib.util.spec_from_file_location("make_normal_table", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    a, b = table()
    assert a.dtype == b.dtype == np.dtype("float32")
    assert a.shape == b.shape == (2 + script.OCTAVES * script.ROWS,)
    assert (a[0], b[0]) == (np.float32(script.quantile(0)), 0)
    assert (a[-1], b[-1]) == (np.float32(script.quantile(2.0**31 - 32)), 0)
    last = a + b * np.float32(4095)
    for octave in range(script.OCTAVES):
        for number in (0, 1, 255, *np.random.default_rng(octave).integers(2, 255, 25)):
            row = 1 + octave * script.ROWS + int(number)
            intercept, slope = map(np.float32, script.row(octave, int(number)))
            held = intercept > a[row] and a[row] >= last[row - 1]  # to the end of the row before it
            assert b[row] == slope, (octave, number)
            assert a[row] == intercept or (held and intercept - a[row] < 2e-6), (octave, number)


def test_normal_takes_its_sign_from_the_top_bit():
    words = random_words(50_000) & np.uint32(2**31 - 1)
    assert (normal(words) > 0).all()
    assert (normal(words | np.uint32(2**31)) == -normal(words)).all()


@pytest.mark.parametrize("cut", [0.001, 0.1, 0.5, 1.0, 1.96, 2.0, 3.0, 4.5, 6.0, 6.337])
def test_lowest_within_is_the_first_value_inside_the_cut(cut):
    lowest = lowest_within(cut)
    assert quantile(np.array([lowest]))[0] <= np.float32(cut)
    assert quantile(np.array([lowest - 1]))[0] > np.float32(cut)
    exact, density = ndtr(-cut) * 2**32, math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    assert abs(lowest - exact) < 1 + 1e-6 * density * 2**32


def test_lowest_within_a_cut_beyond_the_table_is_zero():
    assert lowest_within(6.34) == lowest_within(50.0) == lowest_within(3e38) == 0


@pytest.mark.parametrize("cut", [0.001, 0.5, 1.0, 2.0, 3.0, 6.0])
def test_cut_normal_reaches_its_cut_and_never_passes_it(cut):
    words = np.concatenate([EXTREMES, random_words(100_000)])
    z = normal(words, lowest_within(cut))
    assert np.abs(z).max() <= np.float32(cut)
    assert np.abs(z).max() == quantile(np.array([lowest_within(cut)]))[0]
    assert ((z > 0) == (words < 2**31)).all()
    lowest = lowest_within(cut)
    m = [lowest + ((int(word) % 2**31) * (2**31 - lowest) >> 31) for word in words]
    assert np.abs(np.abs(z) + ndtri((np.array(m) + 0.5) / 2**32)).max() < 1e-6


def test_scaled_without_a_shift_is_one_float32_product():
    z = normal(random_words(10_000))
    assert (scaled(z, 0.02, 0.0) == z * np.float32(0.02)).all()
    assert (scaled(z, 0.02, -0.0) == z * np.float32(0.02)).all()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    word=WORDS,
    factor=st.floats(-1e10, 1e10, width=32, allow_subnormal=False),
    shift=st.floats(-1e10, 1e10, width=32, allow_subnormal=False).filter(bool),
)
def test_scaled_with_a_shift_is_the_exact_product_and_one_sum_in_float64(word, factor, shift):
    z = normal(np.array([word], np.uint32))
    exact = Fraction(float(z[0])) * Fraction(factor) + Fraction(shift)
    assert scaled(z, factor, shift)[0] == np.float32(float(exact))


def test_scaled_beyond_float32_is_infinite_and_says_nothing():
    z = np.array([2.0, -2.0], np.float32)
    assert scaled(z, 3e38, 0.0).tolist() == scaled(z, 3e38, 1.0).tolist() == [math.inf, -math.inf]


ADVERSARIAL = [
    (0, 1),
    (-1, 1),
    (5, 10),
    (-10, -5),
    (0.1, 0.3),
    (-1e-3, 7.0),
    (1e8, 1e8 + 4),
    (1e8, 1e8 + 8),
    (1e8, 1e8 + 24),
    (16777215, 16777217),
    (1, 1 + 2**-23),
    (1, 1 + 3 * 2**-23),
    (0, 1.4e-45),
    (-1.4e-45, 0),
    (-1.4e-45, 1.4e-45),
    (1e-40, 3e-40),
    (1e-30, 1.0000001e-30),
    (-1.7e38, 1.7e38),
    (0, 3.4028234663852886e38),
    (-1, 1e-12),
    (-(2**-24), 1),
]


def holds(low, high, words):
    values, least, bound = uniform(words, low, high), np.float32(low), np.float32(high)
    assert values.dtype == np.float32
    assert (values >= least).all()
    if least < bound:
        assert (values < bound).all()
    else:
        assert (values == least).all()


@pytest.mark.parametrize(("low", "high"), ADVERSARIAL)
def test_uniform_never_reaches_its_upper_bound(low, high):
    holds(low, high, np.concatenate([EXTREMES, random_words(20_000)]))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(bounds=st.tuples(st.floats(-1.7e38, 1.7e38), st.floats(-1.7e38, 1.7e38)).map(sorted))
def test_uniform_between_any_bounds_never_reaches_the_upper_one(bounds):
    holds(*bounds, EXTREMES)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e8, 1e-45])
def test_uniform_between_equal_bounds_is_that_bound(value):
    assert (uniform(EXTREMES, value, value) == np.float32(value)).all()


def test_uniform_from_zero_never_gives_a_negative_zero():
    assert not np.signbit(uniform(EXTREMES, 0.0, 1.4e-45)).any()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (5, 10), (-0.05, 0.05)])
def test_uniform_comes_within_a_step_of_both_bounds(low, high):
    values, step = uniform(EXTREMES, low, high), (high - low + abs(high)) * 2.0**-23
    assert abs(values.min() - low) <= step
    assert abs(values.max() - high) <= step


def hard_to_round(dropped: int) -> np.ndarray:
    """Every exponent and sign, with fractions at, just above and just below ties between even and odd."""
    upper = np.arange(2**16, dtype=np.uint32) << np.uint32(16)
    tie = 1 << (dropped - 1)
    lower = [0, 1, tie - 1, tie, tie + 1, 2**dropped - 1, 2**dropped, 3 * tie, 0x7FFF, 0x8000, 0x8001, 0xFFFF]
    bits = np.concatenate([upper | np.uint32(x & 0xFFFF) for x in lower] + [random_words(100_000)])
    special = np.array([math.inf, -math.inf, 0.0, -0.0, math.nan, 65504, 65519.996, 65520, 448, 464], np.float32)
    return np.concatenate([bits.view(np.float32), special])


@pytest.mark.parametrize(
    ("dtype", "held", "dropped"),
    [
        ("bfloat16", "uint16", 16),
        ("float16", "uint16", 13),
        ("float8_e4m3fn", "uint8", 20),
        ("float8_e5m2", "uint8", 21),
    ],
)
def test_rounded_agrees_with_torch(dtype, held, dropped):
    values = hard_to_round(dropped)
    if dtype == "float8_e4m3fn":
        values = values[~(np.abs(values) > 464)]  # beyond its largest, releases of torch differ
    theirs = torch.from_numpy(values).to(getattr(torch, dtype))
    mine = rounded(values, dtype).view(held)
    back = torch.from_numpy(mine.copy()).view(theirs.dtype).float().numpy()
    number = ~np.isnan(values)
    bits = theirs.view(getattr(torch, held)).numpy()
    assert (mine == bits)[number].all()
    assert np.isnan(back[~number]).all()


def test_rounded_to_float8_without_infinities_ends_at_its_largest():
    values = np.array([448, 464, 465, 1e9, math.inf, -math.inf], np.float32)
    assert rounded(values, "float8_e4m3fn").tolist() == [0x7E] * 5 + [0xFE]


def test_rounded_to_float64_is_exact():
    values = hard_to_round(16)
    values = values[~np.isnan(values)]
    assert rounded(values, "float64").tolist() == values.tolist()
