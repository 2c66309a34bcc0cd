"""The numbers in `jax.numpy` under `jit` are the reference's, bit for bit."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs jax")

from tests.cases import draw_case, simple_initializers, using

import seedbed as sb
from seedbed import initializers as i
from seedbed import threefry
from seedbed.fill import fill
from seedbed.frameworks.flax import numbers
from seedbed.region import Region


def entry_of(start, shape, dtype="float32", seed=0):
    spec = sb.ParamSpec(path="w", shape=shape, dtype=dtype)
    (entry,) = sb.plan(sb.Specs((spec,)), recipe=start, seed=seed)
    return entry


def differ(entry, region):
    """Where the two engines' bits differ: places, theirs and the reference's."""
    spec = entry.spec
    with using("numpy"):
        expected = fill(entry, region)
    made = numbers.values(entry.start, spec.dtype, entry.key, spec.sizes, region.start, region.shape)
    assert made.shape == region.shape
    assert made.dtype.name == spec.dtype
    kind = f"u{expected.dtype.itemsize}"
    got, expected = (np.array(x).reshape(-1).view(kind) for x in (made, expected))
    return [(p, hex(got[p]), hex(expected[p])) for p in np.flatnonzero(got != expected)][:3]


def scaled(bits, factor, shift):
    """`shift + factor * x`, as a program is given the two."""
    way, by, to = numbers.scaling(factor, shift)
    return numbers.scaled(bits, way, np.uint32(by), np.uint32(to))


STARTS = {
    "uniform": i.Uniform(low=-0.3, high=0.3),
    "uniform shifted": i.Uniform(low=5, high=10),
    "uniform up to 0": i.Uniform(low=-1, high=0),
    "uniform of subnormals": i.Uniform(low=-1e-40, high=3e-40),
    "uniform about 0": i.Uniform(low=-1e-50, high=1e-50),
    "normal": i.Normal(std=0.02),
    "normal shifted": i.Normal(mean=1.0, std=0.02),
    "normal far out": i.Normal(mean=-3.0, std=1e-6),
    "normal of subnormals": i.Normal(std=1e-41),
    "normal shifted by subnormals": i.Normal(mean=-3e-42, std=1e-41),
    "normal of sums that cancel": i.Normal(mean=0.7853981852531433, std=1.0),
    "normal beyond float32": i.Normal(mean=1e38, std=3e38),
    "normal without spread": i.Normal(mean=0.1, std=0),
    "normal of zeros": i.Normal(std=0),
    "truncated normal": i.TruncatedNormal(std=0.02),
    "truncated normal shifted": i.TruncatedNormal(mean=-1.0, std=0.5, cut=1.5),
    "truncated normal of a far cut": i.TruncatedNormal(std=1.0, cut=7.0),
    "mixture": i.Mixture([(0.25, i.Uniform(low=5, high=10)), (0.5, i.Zeros()), (0.25, i.Normal(mean=2, std=3))]),
    "mixture of one": i.Mixture([(1, i.TruncatedNormal(std=1.0)), (0, i.Ones())]),
    "constant": i.Constant(value=0.1),
    "subnormal constant": i.Constant(value=-1e-40),
    "subnormal constant of float16": i.Constant(value=1e-6),
    "subnormal mean without spread": i.Normal(mean=1e-40, std=0),
    "mixture of one constant": i.Mixture([(1, i.Constant(value=1e-40)), (0, i.Ones())]),
}


@pytest.mark.parametrize("dtype", numbers.TYPES)
@pytest.mark.parametrize("name", STARTS)
def test_values_are_the_references(name, dtype):
    assert not differ(entry_of(STARTS[name], (300, 1001), dtype), Region.whole((300, 1001)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["uniform", "normal shifted", "truncated normal", "mixture"])
def test_counters_past_32_bits_count_in_two_halves(name, dtype):
    """Across 2**32 blocks, across 2**32 elements, and far out: along the first axis, where strides are long."""
    shape = (2**30, 2**20, 5)
    for at in (2**34, 2**32, 17 * 2**34, 2**49):
        row, column = divmod(at // 5, 2**20)
        corner = (row - 1, max(0, column - 40), 0)
        assert not differ(entry_of(STARTS[name], shape, dtype), Region(corner, (row + 2, column + 40, 5)))
    far = Region((2**30 - 2**12, 7, 1), (2**30, 9, 4))
    assert not differ(entry_of(STARTS[name], shape, dtype), far)
    assert not differ(entry_of(STARTS[name], (2**36,), dtype), Region((2**34 - 3,), (2**34 + 6,)))


def test_random_cases_are_the_references():
    rng, compared = np.random.default_rng(3), 0
    while compared < 60:
        entry, region, *_ = draw_case(rng)
        if entry.spec.dtype in numbers.TYPES and numbers._made(entry.start):
            assert not differ(entry, region), entry
            compared += 1


def test_any_scale_and_shift_is_rounded_as_the_reference_rounds_it():
    """Factors and shifts of every size, near each other's and far apart."""
    rng = np.random.default_rng(4)
    own = rng.integers(0, 2**32, 4096, dtype=np.uint32)
    own[:4] = 0, 2**31, 2**31 - 1, 2**32 - 1
    for _ in range(60):
        by = np.float32(rng.normal() * 2.0 ** rng.integers(-149, 120))
        near, any_size = float(by) * 2.0 ** rng.integers(-60, 60), 2.0 ** rng.integers(-149, 120)
        to = np.float32(np.clip(rng.normal() * (near if rng.random() < 0.7 else any_size), -1e38, 1e38))
        by, to = float(by), float(to)
        for values, bits in (
            (threefry.normal(own), numbers.normal(own)),
            (threefry.symmetric(own), numbers.symmetric(own)),
        ):
            assert (values.view(np.uint32) == np.asarray(bits)).all()
            expected = threefry.scaled(values, by, to).view(np.uint32)
            assert (np.asarray(scaled(bits, by, to)) == expected).all(), (by, to)


@pytest.mark.parametrize(
    ("least", "most"),
    [
        (2.0**-61, 2.0**-54),  # to float64 it is a tie of float32, which one rounding would not see
        (-(2.0**-54), -(2.0**-61)),
        (2.0**-53, 2.0**-53 + 2.0**-61),  # a tie of float64 but for bits that do not fit 64
    ],
)
def test_sums_beside_a_tie_are_rounded_twice(least, most):
    """`1 + x * by`, so far above a tie between two float32 numbers."""
    by = np.random.default_rng(5).uniform(1, 2, (200_000, 1)).astype(np.float32)
    ties = (np.arange(4) + 0.5) * 2.0**-23
    x = ((ties + (least + most) / 2) / by).astype(np.float32)
    above = x.astype(np.float64) * by - ties
    found = np.argwhere((least < above) & (above < most))[:12]
    assert len(found) == 12
    for row, column in found:
        factor, value = float(by[row, 0]), x[row, column : column + 1]
        expected = threefry.scaled(value, factor, 1.0).view(np.uint32)
        assert (np.asarray(scaled(value.view(np.uint32), factor, 1.0)) == expected).all(), (value, factor)


def test_no_64_bit_numbers_are_needed():
    assert not jax.config.jax_enable_x64
    form, its = numbers.formed(STARTS["normal shifted"])
    program = numbers._program(form, "float32", (64, 64), (64, 1))
    text = program.lower(np.zeros(4, np.uint32), np.zeros(2, np.uint32), np.array(its, np.uint32)).as_text()
    assert "ui32" in text
    assert not any(kind in text for kind in ("f64", "i64>", "ui64"))


def test_regions_of_one_size_share_one_program():
    """Whatever their keys, and the numbers of their initializers."""
    shards = [Region((n, 0), (n + 2, 8)) for n in range(0, 8, 2)]
    before = numbers._program.cache_info().misses
    for seed, std in enumerate((0.125, 0.02, 3e7)):
        for shard in shards:
            assert not differ(entry_of(i.Normal(std=std), (8, 8), seed=seed), shard)
    assert numbers._program.cache_info().misses == before + 1
    assert numbers._program(("normal", "times"), "float32", (2, 8), (8, 1))._cache_size() == 1


def test_it_is_the_same_inside_another_program_and_without_jit():
    entry = entry_of(STARTS["normal shifted"], (40, 9))
    with using("numpy"):
        expected = fill(entry)
    inside = jax.jit(lambda: numbers.values(entry.start, "float32", entry.key, (40, 9)) * 1)()
    assert (np.asarray(inside) == expected).all()
    with jax.disable_jit():
        plain = numbers.values(entry.start, "float32", entry.key, (40, 9))
    assert (np.asarray(plain) == expected).all()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1, 1)])
def test_parameters_without_axes_or_elements_are_made(shape):
    assert not differ(entry_of(STARTS["normal"], shape), Region.whole(shape))


def test_what_another_engine_is_to_fill_is_none():
    assert numbers.values(i.Orthogonal(), "float32", (0, 0, 0, 0), (2, 2)) is None
    assert numbers.values(i.Zeros(), "float64", (0, 0, 0, 0), (2, 2)) is None
    assert all(numbers._made(start) for start in simple_initializers(np.random.default_rng(0)))
