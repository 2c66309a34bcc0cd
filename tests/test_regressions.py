"""What others' initializations got wrong, one test each: it stays right here, on every engine."""

import itertools
import math

import numpy as np
import pytest
import torch
from tests.strategies import each_engine, planned  # noqa: F401 -- pytest runs the fixture around every test here
from torch import nn

import seedbed as sb
from seedbed import initializers as i
from seedbed.fill import fill
from seedbed.region import Region

FLOATS = ["float32", "bfloat16", "float16"]
MANY = 1 << 22
"""Values of one parameter; the draws below are the same on every run."""


def floats(values, dtype):
    """As float64; bfloat16 comes as its bits."""
    held = (values.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else values
    return held.astype(np.float64)


def drawn(start, dtype="float32", shape=(MANY,), **facts):
    return floats(fill(planned(start, shape, dtype, **facts)), dtype)


def likely(count, total, probability):
    """Whether a count is within 6 standard deviations of what it should be."""
    return abs(count - total * probability) <= 6 * math.sqrt(total * probability * (1 - probability)) + 1


def tail(z):
    """The share of a normal beyond z, on both sides."""
    return math.erfc(z / math.sqrt(2))


# Truncated normals: values 100 and 2,000 standard deviations out; half of them at the bound; kurtosis of 28,122.


def rounded_up(value, dtype):
    """The largest number of a dtype that rounding of `value` can give."""
    spacing = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    return value + max(spacing * value, 2.0**-24 if dtype == "float16" else 0)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("std", "cut"), [(1.0, 2.0), (0.02, 3.0), (0.001, 2.0), (1.0, 5.5), (0.02, 100.0), (0.001, 2000.0)]
)
def test_no_truncated_value_lies_beyond_its_cut(std, cut, dtype):
    """A far cut changes nothing that a normal would draw, and puts nothing at the bound."""
    size = np.abs(drawn(i.TruncatedNormal(std=std, cut=cut), dtype))
    reach = min(cut, 6.34)
    assert size.max() <= rounded_up(reach * std, dtype)
    assert size.max() > min(cut, 4.0) * std * 0.97
    if cut > 7:
        assert (size == np.abs(drawn(i.Normal(std=std), dtype))).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("std", [0.001, 0.02, 1.0])
def test_no_truncated_values_pile_up_at_the_cut(std, dtype):
    """The share of the outermost tenth of a standard deviation is the normal's own."""
    size = np.abs(drawn(i.TruncatedNormal(std=std, cut=2.0), dtype)) / std
    share = (tail(1.9) - tail(2.0)) / (1 - tail(2.0))
    ulp = {"float32": 0, "bfloat16": 2.0**-7, "float16": max(2.0**-10, 2.0**-25 / std)}[dtype]
    assert abs((size > 1.9).mean() - share) < 0.001 + ulp * 0.12
    kurtosis = (size**4).mean() / (size**2).mean() ** 2
    assert abs(kurtosis - 2.3655) < 0.02


@pytest.mark.parametrize("cut", [0.01, 0.5, 2.0, 3.0, 6.0])
def test_a_cut_is_in_standard_deviations_whatever_the_spread(cut):
    """In absolute units, bounds of 2 cut nothing at a spread of 0.02, and everything at 2,000."""
    plain = drawn(i.TruncatedNormal(std=1.0, cut=cut), shape=(1 << 16,))
    for power in (-20, -6, 11):
        assert (drawn(i.TruncatedNormal(std=2.0**power, cut=cut), shape=(1 << 16,)) == plain * 2.0**power).all()


# bfloat16 normals of 128 magnitudes, none beyond 2.7; low precision that is a stream of its own.


@pytest.mark.parametrize("dtype", FLOATS)
def test_normals_of_few_bits_have_many_magnitudes_and_whole_tails(dtype):
    size = np.abs(drawn(i.Normal(std=1.0), dtype))
    assert len(np.unique(size)) > {"float32": 2_000_000, "bfloat16": 1400, "float16": 9000}[dtype]
    for z in (1.0, 2.0, 3.0, 4.0, 4.5):  # numbers of all three dtypes: what lies past the half step above is larger
        step = 2.0 ** (math.floor(math.log2(z)) - {"float32": 23, "bfloat16": 7, "float16": 10}[dtype])
        assert likely((size > z).sum(), MANY, tail(z + step / 2))
    assert size.max() > 4.7


@pytest.mark.parametrize("start", [i.Normal(std=0.02), i.Uniform(low=-1, high=1), i.TruncatedNormal(std=1.0)], ids=str)
def test_models_of_few_bits_start_as_the_rounding_of_their_float32_twin(start):
    """Not as a stream of their own, with half as many random bits."""
    twins = [nn.Linear(33, 65).to(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)]
    plain, *others = (sb.initialize(twin, recipe=start, seed=3).weight for twin in twins)
    for weight in others:
        assert torch.equal(weight, plain.to(weight.dtype))


def test_uniform_values_of_few_bits_fill_their_range_evenly():
    for dtype in FLOATS:
        counts = np.histogram(drawn(i.Uniform(low=-1, high=1), dtype), np.linspace(-1, 1, 9))[0]
        assert all(abs(n / MANY - 1 / 8) < 0.003 for n in counts)


def test_no_value_is_infinite_or_nan():
    """The logarithm of a uniform value that was 0."""
    for start, dtype in itertools.product(
        (i.Normal(std=1.0), i.Uniform(low=0, high=1), i.TruncatedNormal(std=1.0)), FLOATS
    ):
        assert np.isfinite(drawn(start, dtype)).all()


def test_float32_uniforms_never_give_their_upper_bound():
    for low, high in ((0, 1), (-1, 0), (5, 10), (-(2.0**-20), 1), (1, 1 + 2.0**-20)):
        values = drawn(i.Uniform(low=low, high=high))
        assert low <= values.min()
        assert values.max() < high


# Values that depend on how many there are, or on how they lie in memory.


@pytest.mark.parametrize("dtype", [*FLOATS, "float64"])
@pytest.mark.parametrize("start", [i.Normal(std=1.0), i.Uniform(low=5, high=10), i.TruncatedNormal(std=1.0)], ids=str)
def test_the_first_values_do_not_depend_on_how_many_follow(start, dtype):
    """Below 16 elements a kernel of another kind, above them one that draws in pairs."""
    longest = fill(planned(start, (2000,), dtype)).tobytes()
    for count in [*range(41), 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 1999]:
        values = fill(planned(start, (count,), dtype))
        assert values.tobytes() == longest[: values.nbytes]


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_do_not_depend_on_how_they_lie_in_memory(dtype):
    entry = planned(i.Normal(std=1.0), (7, 40), dtype)
    whole = fill(entry)
    big = np.zeros((20, 100, 90), whole.dtype)
    for out in (big[:7, :40, 3], big[4, 8:88:2, :7].T, big[::-2][:7, ::-1, 0][:, :40], big[0, :7, 89:9:-2]):
        assert not out.flags.c_contiguous
        assert fill(entry, out=out).tobytes() == whole.tobytes()
    part = np.zeros((40, 7), whole.dtype).T[2:5, 1:30:3]
    assert (fill(entry, Region((2, 5), (5, 15)), part) == whole[2:5, 5:15]).all()


def test_a_transposed_parameter_starts_as_any_other():
    """torch fills a tensor in the order of its memory when that is dense, whatever its strides say."""
    plain, turned = nn.Linear(30, 20, bias=False), nn.Linear(30, 20, bias=False)
    turned.weight = nn.Parameter(torch.empty(30, 20).T)
    first, second = (sb.initialize(net, recipe=i.Normal(std=1.0), seed=1).weight for net in (plain, turned))
    assert not second.is_contiguous()
    assert torch.equal(first, second)


def test_values_do_not_come_again_after_two_to_the_32():
    """Counters of 32 bits, and offsets that wrap in large tensors."""
    entry = planned(i.Normal(std=1.0), (2**40,))
    seen = [
        fill(entry, Region((at,), (at + 64,))).tobytes() for at in (0, 2**31, 2**32, 2**33, 2**34, 2**35, 3 * 2**34)
    ]
    assert len(set(seen)) == len(seen)


# Streams that are equal, or one stream read from another place.


def pieces_of(values, length=8):
    return {values.tobytes()[at : at + 4 * length] for at in range(0, values.nbytes - 4 * length + 1, 4)}


def test_layers_of_equal_size_start_apart():
    """One seed for every tensor; copies of one layer that share its numbers."""
    net = nn.Sequential(*(nn.Linear(16, 16) for _ in range(50)))
    sb.initialize(net, recipe={"*.weight": i.HeNormal(), "*.bias": i.Uniform(low=-1, high=1)})
    for kind in ("weight", "bias"):
        values = torch.stack([getattr(layer, kind).detach().reshape(-1) for layer in net]).double().numpy()
        assert len(np.unique(values, axis=0)) == 50
        assert np.abs(np.corrcoef(values) - np.eye(50)).max() < (0.35 if kind == "weight" else 0.95)
    kept = [v for layer in net for v in pieces_of(layer.weight.detach().numpy().reshape(-1))]
    assert len(set(kept)) == len(kept)


SEEDS = [*range(40), 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**53, 2**53 + 1, 2**63, 2**64 - 2, 2**64 - 1]


def test_seeds_that_lie_near_each_other_or_far_out_share_nothing():
    """Seeds cut to 32 bits or to a float; seed plus counter, so that one seed's numbers are the next one's, moved."""
    pieces = [pieces_of(fill(planned(i.Normal(std=1.0), (300,), seed=seed))) for seed in SEEDS]
    assert len(set.union(*pieces)) == sum(map(len, pieces))
    values = np.stack([drawn(i.Normal(std=1.0), shape=(4096,), seed=seed) for seed in SEEDS])
    assert np.abs(np.corrcoef(values) - np.eye(len(SEEDS))).max() < 6 / math.sqrt(4096)


PATHS = ["a.b", "ab", "a.b.", ".a.b", "a..b", "b.a", "a", "b", "aa", "a.a", "a.ab", "aa.b", "ab.c", "a.bc", "abc", "a.b.c",
         "a_b", "a/b", "A.b", "1.0", "10", "1.", "0.1", "h.1.0", "h.10", "é", "e\u0301", ""]  # fmt: skip


def test_paths_that_look_alike_share_nothing():
    """Parts joined without their lengths, sums of letters, hashes of 32 bits."""
    pieces = [pieces_of(fill(planned(i.Normal(std=1.0), (300,), path=path))) for path in PATHS]
    assert len(set.union(*pieces)) == sum(map(len, pieces))


def test_the_draws_of_one_parameter_are_not_those_of_another_seed_or_path():
    """A choice and its values from one stream, or from that of a neighbor."""
    own = [
        sb.threefry.runs(planned(i.Zeros(), (4,), seed=seed).key, draw, np.array([0]), 400)[0]
        for seed in range(5)
        for draw in range(4)
    ]
    pieces = [pieces_of(words) for words in own]
    assert len(set.union(*pieces)) == sum(map(len, pieces))


def test_a_layer_put_in_between_leaves_the_others_as_they_were():
    """Numbers by order of construction: one layer more, and all that follow change."""
    first = nn.ModuleDict({"foo": nn.Linear(8, 8), "bar": nn.Linear(8, 8)})
    second = nn.ModuleDict({"foo": nn.Linear(8, 8), "baz": nn.Linear(3, 5), "bar": nn.Linear(8, 8)})
    for net in (first, second):
        torch.manual_seed(torch.initial_seed() + 1)
        sb.initialize(net, recipe={"*.weight": i.XavierUniform(), "*.bias": i.Zeros()}, seed=4)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_the_state_of_the_frameworks_own_numbers_is_left_alone():
    state, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    sb.initialize(nn.Sequential(nn.LazyLinear(4), nn.Dropout()), (2, 3), recipe="he")
    assert torch.equal(state, torch.get_rng_state())
    assert (numpys == np.random.get_state()[1]).all()


def test_spreads_follow_the_whole_parameter_and_not_a_shard():
    """A shard's own fans give each shard a spread that is too large."""
    specs = sb.Specs((sb.ParamSpec(path="w", shape=(512, 2048), axes=("out", "in")),))
    (entry,) = sb.plan(specs, recipe=i.XavierNormal())
    shards = [fill(entry, Region((0, at), (512, at + 256))) for at in range(0, 2048, 256)]
    assert all(abs(shard.std() / math.sqrt(2 / 2560) - 1) < 0.02 for shard in shards)
    assert (np.concatenate(shards, axis=1) == fill(entry)).all()
