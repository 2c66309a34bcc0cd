"""Every initializer's values follow the distribution it promises.

Each test is exact, or errs on the safe side, for any number of values: a support, the largest value, Hoeffding's
and Azuma's inequalities, an exact chi-square or binomial tail, the Dvoretzky-Kiefer-Wolfowitz inequality with
Massart's constant. For perfect numbers a single comparison fails with probability at most ALPHA = 1e-9. Fewer
than 1,000 are made, so that all of them together fail with probability below 1e-6 (Bonferroni), whatever their
dependence. Seeds are fixed: a verdict is the same at each run, and a failure is a defect.

What is not independent by design (orthogonal, sparse) has tests of its own.
"""

import hashlib
import math

import numpy as np
import pytest
from scipy import stats
from tests.strategies import planned

import seedbed as sb
from seedbed import initializers as si
from seedbed.fill import fill
from seedbed.plan import key
from seedbed.threefry import runs

ALPHA = 1e-9
LOG = math.log(2 / ALPHA)
SHAPE = (900, 1100)
COUNT = 900 * 1100
CUT = stats.truncnorm(-2, 2)


def hoeffding(count: int, width: float) -> float:
    """How far the mean of `count` independent values in an interval of this width may stray."""
    return width * math.sqrt(LOG / (2 * count))


def azuma(count: int, bound: float) -> float:
    """The same for a sum whose terms have mean 0 given those before them and are at most `bound`."""
    return bound * math.sqrt(2 * LOG / count)


def follows(values: np.ndarray, distribution) -> None:
    """Dvoretzky-Kiefer-Wolfowitz: the largest distance between two distribution functions."""
    levels = distribution.cdf(np.sort(values, axis=None).astype(float))
    steps = np.arange(levels.size + 1) / levels.size
    distance = max((steps[1:] - levels).max(), (levels - steps[:-1]).max())
    assert distance <= math.sqrt(LOG / (2 * levels.size))


def happens(count: int, trials: int, probability: float) -> None:
    """An exact binomial test on two sides."""
    law = stats.binom(trials, probability)
    assert min(law.cdf(count), law.sf(count - 1)) >= ALPHA / 2, (count, trials * probability)


def uniform(bound):
    return stats.uniform(-bound, 2 * bound)


# The laws, from the papers' formulas for 900 outputs and 1,100 inputs.
LAWS = {
    "Uniform": (si.Uniform(low=-0.3, high=0.3), uniform(0.3)),
    "Uniform, shifted": (si.Uniform(low=5, high=10), stats.uniform(5, 5)),
    "Normal": (si.Normal(std=0.02), stats.norm(0, 0.02)),
    "Normal, shifted": (si.Normal(mean=-1.0, std=0.5), stats.norm(-1, 0.5)),
    "TruncatedNormal": (si.TruncatedNormal(std=0.02), stats.truncnorm(-2, 2, 0, 0.02)),
    "TruncatedNormal, narrow": (si.TruncatedNormal(std=1.0, cut=0.5), stats.truncnorm(-0.5, 0.5)),
    "TruncatedNormal, wide": (si.TruncatedNormal(mean=1.0, std=2.0, cut=3.0), stats.truncnorm(-3, 3, 1, 2)),
    "VarianceScaling, normal": (si.VarianceScaling(scale=2.0, fan="avg"), stats.norm(0, math.sqrt(2 / 1000))),
    "VarianceScaling, uniform": (
        si.VarianceScaling(scale=2.0, fan="out", distribution="uniform"),
        uniform(math.sqrt(6 / 900)),
    ),
    "VarianceScaling, truncated": (
        si.VarianceScaling(scale=2.0, distribution="truncated_normal"),
        stats.truncnorm(-2, 2, 0, math.sqrt(2 / 1100) / CUT.std()),
    ),
    "XavierUniform": (si.XavierUniform(), uniform(math.sqrt(6 / 2000))),
    "XavierNormal": (si.XavierNormal(gain=5 / 3), stats.norm(0, 5 / 3 * math.sqrt(2 / 2000))),
    "HeUniform": (si.HeUniform(), uniform(math.sqrt(6 / 1100))),
    "HeNormal": (si.HeNormal(fan="out"), stats.norm(0, math.sqrt(2 / 900))),
    "LecunUniform": (si.LecunUniform(), uniform(math.sqrt(3 / 1100))),
    "LecunNormal": (si.LecunNormal(), stats.norm(0, math.sqrt(1 / 1100))),
    "Custom, uniform": (si.Custom(lambda draw, spec: draw.uniform(0, 1)), stats.uniform()),
    "Custom, normal": (si.Custom(lambda draw, spec: draw.normal()), stats.norm()),
}
NORMALS = [name for name, (_, law) in LAWS.items() if law.dist.name == "norm"]
BOUNDED = [name for name in LAWS if name not in NORMALS]


def values_of(name, seed=0):
    start, law = LAWS[name]
    return fill(planned(start, SHAPE, seed=seed)).astype(float), law


def levels_of(name, seed=0):
    """Where each value stands in its law, from -1/2 to 1/2: uniform and independent, if all is well."""
    values, law = values_of(name, seed)
    return law.cdf(values) - 0.5


def test_every_random_initializer_has_a_law():
    elsewhere = {si.Orthogonal, si.Sparse, si.Mixture, si.Overlay, si.Recorded, si.Chain, si.Loaded}
    fixed = {si.Zeros, si.Ones, si.Constant, si.Identity, si.Dirac, si.Keep}
    assert {type(start) for start, _ in LAWS.values()} | elsewhere | fixed == {*si.ALL, si.Custom}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("seed", [0, 1])
def test_values_follow_their_law(name, seed):
    follows(*values_of(name, seed))


@pytest.mark.parametrize("name", BOUNDED)
def test_bounded_values_stay_inside_their_support_and_reach_its_ends(name):
    values, law = values_of(name)
    low, high = law.support()
    slack = np.spacing(np.float32(max(abs(low), abs(high))))
    assert values.min() >= low - slack
    assert values.max() <= high + slack
    reach = -math.log(ALPHA) / COUNT  # the chance that no value lies in the last so much of the law
    assert law.cdf(values.min()) <= reach
    assert law.sf(values.max()) <= reach


@pytest.mark.parametrize("name", NORMALS)
def test_normals_reach_as_far_as_so_many_should_and_no_further(name):
    values, law = values_of(name)
    largest = np.abs((values - law.mean()) / law.std()).max()
    assert largest <= stats.norm.isf(ALPHA / (2 * COUNT))
    assert largest >= stats.norm.isf(-math.log(ALPHA) / (2 * COUNT))


@pytest.mark.parametrize("name", NORMALS)
def test_normals_have_the_right_mean_spread_and_tails(name):
    values, law = values_of(name)
    z = (values - law.mean()) / law.std()
    assert abs(z.sum()) <= math.sqrt(COUNT) * stats.norm.isf(ALPHA / 2)
    chi2 = stats.chi2(COUNT)
    assert chi2.ppf(ALPHA / 2) <= (z**2).sum() <= chi2.isf(ALPHA / 2)
    for threshold in (1, 2, 3, 4, 4.5):
        happens(int((z > threshold).sum()), COUNT, stats.norm.sf(threshold))
        happens(int((z < -threshold).sum()), COUNT, stats.norm.sf(threshold))


@pytest.mark.parametrize("name", BOUNDED)
def test_bounded_values_have_the_right_mean_and_spread(name):
    values, law = values_of(name)
    low, high = law.support()
    centered = values - law.mean()
    assert abs(centered.mean()) <= hoeffding(COUNT, high - low)
    assert abs((centered**2).mean() - law.var()) <= hoeffding(COUNT, (high - low) ** 2 / 4)


@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
def test_variance_scaling_promises_the_spread_of_the_values_produced(distribution):
    start = si.VarianceScaling(scale=3.0, fan="in", distribution=distribution)
    z = fill(planned(start, SHAPE)).astype(float) / math.sqrt(3 / 1100)
    slack = {
        "normal": stats.chi2.isf(ALPHA / 2, COUNT) / COUNT - 1,
        "truncated_normal": hoeffding(COUNT, (2 / CUT.std()) ** 2),
        "uniform": hoeffding(COUNT, 3.0),
    }
    assert abs((z**2).mean() - 1) <= slack[distribution]


@pytest.mark.parametrize("name", ["Uniform", "Normal", "TruncatedNormal", "Custom, normal"])
def test_neighbors_are_independent_along_every_axis(name):
    u = levels_of(name)
    for part in (u, 2 * np.abs(u) - 0.5):  # the value, and its size: both uniform on an interval of width 1
        pairs = [(part[1:], part[:-1]), (part[:, 1:], part[:, :-1]), (part[1:, 1:], part[:-1, :-1])]
        flat = part.reshape(-1)
        pairs += [(flat[lag:], flat[:-lag]) for lag in (2, 3, 4, 5, 8, 16, 64, 65536)]
        for a, b in pairs:
            assert abs((a * b).mean()) <= azuma(a.size, 0.25)


@pytest.mark.parametrize("name", ["Uniform", "Normal"])
def test_signs_of_neighbors_are_independent(name):
    sign = (levels_of(name) > 0).reshape(-1)
    for lag in (1, 2, 3, 4, 8):
        happens(int((sign[lag:] == sign[:-lag]).sum()), sign.size - lag, 0.5)


def of_path(path, seed=0):
    return stats.norm.cdf(fill(planned(si.Normal(std=1.0), (300, 400), seed=seed, path=path))) - 0.5


def test_parameters_and_seeds_are_independent_of_each_other():
    arrays = [of_path(f"h.{n}.weight", seed) for n in range(4) for seed in (0, 1, 2**32)]
    arrays += [of_path(path) for path in ("h.0.bias", "weight.0.h", "h.0", "0.h.weight")]
    assert len({hashlib.blake2b(a.tobytes()).digest() for a in arrays}) == len(arrays)
    for n, a in enumerate(arrays):
        for b in arrays[:n]:
            assert abs((a * b).mean()) <= azuma(a.size, 0.25)


def test_draws_of_one_parameter_are_independent_of_each_other():
    draws = [runs(key(0, ("w",)), draw, np.array([0]), 400_000)[0] / 2**32 - 0.5 for draw in range(5)]
    for n, a in enumerate(draws):
        for b in draws[:n]:
            assert abs((a * b).mean()) <= azuma(a.size, 0.25)


def test_every_bit_of_every_word_of_a_block_is_fair():
    words = runs(key(0, ("w",)), 0, np.array([0]), 400_000)[0].reshape(-1, 4)
    for bit in range(32):
        for ones in ((words >> np.uint32(bit)) & np.uint32(1)).sum(axis=0):
            happens(int(ones), 100_000, 0.5)


def test_many_small_parameters_look_neither_too_bad_nor_too_good():
    chances = []
    for n in range(300):
        z = fill(planned(si.Normal(std=1.0), (40, 25), path=f"h.{n}.weight")).reshape(-1)
        chances.append(stats.kstest(z, stats.norm.cdf).pvalue)
    follows(np.array(chances), stats.uniform())


def test_rows_and_columns_have_the_length_they_should():
    z, _ = values_of("Custom, normal")
    for axis, count in ((1, 1100), (0, 900)):
        squares = (z**2).sum(axis=axis)
        law = stats.chi2(count)
        assert law.ppf(ALPHA / 4000) <= squares.min()
        assert squares.max() <= law.isf(ALPHA / 4000)


def test_no_direction_of_a_normal_matrix_is_preferred():
    z, _ = values_of("Custom, normal")
    largest = np.linalg.norm(z, 2)
    # Gaussian concentration: above sqrt(900) + sqrt(1100) by t with probability at most exp(-t**2 / 2)
    assert largest <= math.sqrt(900) + math.sqrt(1100) + math.sqrt(2 * LOG)


# Orthogonal: many small matrices, whose elements have known laws


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (5, 3), (2, 2)])
def test_orthogonal_matrices_are_spread_evenly(rows, columns):
    count, longer = 20_000, max(rows, columns)
    spec = sb.ParamSpec(path="w", shape=(count, rows, columns), axes=("stack", "out", "in"))
    (entry,) = sb.plan(sb.Specs((spec,)), recipe=si.Orthogonal())
    q = fill(entry).astype(float)
    for row in range(rows):
        for column in range(columns):
            element = q[:, row, column]  # its square follows a beta law; its sign is fair
            follows(element**2, stats.beta(0.5, (longer - 1) / 2))
            happens(int((element > 0).sum()), count, 0.5)
    if rows == columns:
        happens(int((np.linalg.det(q) > 0).sum()), count, 0.5)


# Sparse: a fixed number of zeros in each column, anywhere


def test_zeros_of_sparse_fall_on_every_row_alike():
    rows, columns, zeros = 40, 20_000, 12
    values = fill(planned(si.Sparse(sparsity=0.3, std=0.5), (rows, columns)))
    zero = values == 0
    assert (zero.sum(axis=0) == zeros).all()
    for row in range(rows):
        happens(int(zero[row].sum()), columns, zeros / rows)
        happens(int((zero[row] & zero[row - 1]).sum()), columns, zeros * (zeros - 1) / (rows * (rows - 1)))
    centered = zero - zeros / rows
    for row in centered:
        assert abs((row[1:] * row[:-1]).mean()) <= azuma(columns - 1, 0.7**2)


def test_other_values_of_sparse_follow_the_normal():
    values = fill(planned(si.Sparse(sparsity=0.3, std=0.5), (900, 1100)))
    follows(values[values != 0], stats.norm(0, 0.5))


# Mixtures


def test_mixture_draws_its_parts_with_their_probabilities():
    parts = [(0.25, si.Uniform(low=5, high=10)), (0.5, si.Zeros()), (0.25, si.Uniform(low=-10, high=-5))]
    values = fill(planned(si.Mixture(parts), SHAPE))
    happens(int((values >= 5).sum()), COUNT, 0.25)
    happens(int((values == 0).sum()), COUNT, 0.5)
    happens(int((values < -5 + 1e-6).sum()), COUNT, 0.25)
    follows(values[values > 0], stats.uniform(5, 5))
    follows(values[values < 0], stats.uniform(-10, 5))


def test_mixture_chooses_independently_of_neighbors_and_of_values():
    parts = [(0.1, si.Normal(mean=100.0, std=1.0)), (0.3, si.TruncatedNormal(std=1.0)), (0.6, si.Ones())]
    values = fill(planned(si.Mixture(parts), SHAPE)).astype(float)
    first, second = values > 50, (values < 50) & (values != 1)
    follows(values[first], stats.norm(100, 1))
    follows(values[second], CUT)
    for chosen, probability in ((first, 0.1), (second, 0.3)):
        happens(int(chosen.sum()), COUNT, probability)
        c = chosen - probability
        for a, b in ((c[1:], c[:-1]), (c[:, 1:], c[:, :-1])):
            assert abs((a * b).mean()) <= azuma(a.size, (1 - probability) ** 2)


def test_mixture_with_a_rare_part_draws_it_as_rarely_as_it_says():
    values = fill(planned(si.Mixture([(2**-14, si.Ones()), (1 - 2**-14, si.Zeros())]), (2000, 2000)))
    happens(int(values.sum()), 4_000_000, 2**-14)


def test_overlay_follows_the_law_of_each_of_its_parts():
    box = ((0, 450), (0, 1100))
    start = si.Overlay(base=si.Normal(std=1.0), boxes=((box, si.Uniform(low=0, high=1)),))
    values = fill(planned(start, SHAPE))
    follows(values[:450], stats.uniform())
    follows(values[450:], stats.norm())
