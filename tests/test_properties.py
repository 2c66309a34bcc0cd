"""What everything rests on: a number depends on seed, stream and position, and on nothing else."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.strategies import (
    EVERY,
    FLOATS,
    SEEDS,
    bits,
    cuts,
    each_engine,  # noqa: F401 -- pytest runs it around every test here
    entries,
    initializers,
    memory,
    planned,
    regions,
    shapes,
)

import seedbed as sb
from seedbed import initializers as si
from seedbed.fill import fill, storage_dtype
from seedbed.materialize import BLOCK, Job, run
from seedbed.plan import key
from seedbed.region import Region

# More than 5,000 cases a run, the same ones each time.
often = settings(max_examples=2000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
sometimes = settings(often, max_examples=400)
seldom = settings(often, max_examples=60)


@often
@given(data=st.data(), entry=entries())
def test_joined_regions_equal_the_whole(data, entry):
    whole = fill(entry)
    joined = np.full_like(whole, 1)
    for region in data.draw(cuts(entry.spec.sizes)):
        joined[region.slices] = fill(entry, region)
    assert (bits(joined) == bits(whole)).all()


@sometimes
@given(data=st.data(), entry=entries())
def test_a_region_alone_equals_that_region_of_the_whole(data, entry):
    region = data.draw(regions(entry.spec.sizes))
    part = fill(entry, region)
    assert part.shape == region.shape
    assert (bits(part) == bits(fill(entry)[region.slices])).all()


@pytest.mark.parametrize("name", EVERY)
def test_every_region_of_every_initializer_equals_that_region_of_the_whole(name):
    start, shape = EVERY[name]
    entry = planned(start, shape)
    whole = bits(fill(entry))
    ends = [list(itertools.combinations(range(n + 1), 2)) for n in shape]
    for box in itertools.product(*ends):
        region = Region(tuple(a for a, _ in box), tuple(b for _, b in box))
        assert (bits(fill(entry, region)) == whole[region.slices]).all(), region


@seldom
@given(
    data=st.data(),
    shape=st.sampled_from([(70_000,), (3, 40_000), (300, 300), (2, 3, 20_000), (50, 40, 40), (70_000, 1), (1, 70_000)]),
)
def test_a_region_of_a_large_parameter_equals_that_region_of_the_whole(data, shape):
    kinds = [i for name, (i, suits) in EVERY.items() if len(suits) == 2 and name not in ("Orthogonal", "Identity")]
    kinds = [i for i in kinds if not isinstance(i, (si.Overlay, si.Recorded, si.Loaded))]
    suiting = kinds if len(shape) == 2 else [si.Normal(std=1.0), si.Uniform(low=0, high=1), EVERY["Mixture"][0]]
    entry = planned(data.draw(st.sampled_from(suiting)), shape, data.draw(st.sampled_from(FLOATS)))
    region = data.draw(regions(shape))
    assert (bits(fill(entry, region)) == bits(fill(entry)[region.slices])).all()


@sometimes
@given(data=st.data(), entry=entries())
def test_memory_of_any_layout_gets_the_same_values_and_nothing_beside_it(data, entry):
    region = data.draw(regions(entry.spec.sizes))
    owner, out = data.draw(memory(region.shape, storage_dtype(entry.spec.dtype)))
    expected = fill(entry, region)
    assert fill(entry, region, out) is out
    assert (bits(out) == bits(expected)).all()
    out[...] = 0
    assert not bits(owner).any(), "something outside `out` was written"


@sometimes
@given(data=st.data(), shape=shapes(), seed=SEEDS)
def test_every_dtype_is_the_rounding_of_float32(data, shape, seed):
    start = data.draw(initializers(shape))
    same_in_every_dtype(start, shape, seed)


@pytest.mark.parametrize("name", EVERY)
def test_every_initializer_in_every_dtype_is_the_rounding_of_float32(name):
    same_in_every_dtype(*EVERY[name], seed=1)


def same_in_every_dtype(start, shape, seed):
    reference = torch.from_numpy(fill(planned(start, shape, "float32", seed)))
    for dtype in ("float64", "bfloat16", "float16"):
        rounded = reference.to(getattr(torch, dtype))
        values = fill(planned(start, shape, dtype, seed))
        theirs = rounded.numpy() if dtype != "bfloat16" else rounded.view(torch.uint16).numpy()
        assert (bits(values) == bits(theirs)).all(), dtype


def test_every_initializer_has_an_example():
    assert {type(start) for start, _ in EVERY.values()} == {*si.ALL, si.Custom} - {si.Keep, si.Loaded}


@settings(seldom, max_examples=100)
@given(data=st.data(), first=entries(), second=entries())
def test_the_order_of_filling_does_not_matter(data, first, second):
    expected = [fill(entry) for entry in (first, second)]
    jobs = [(n, region) for n, e in enumerate((first, second)) for region in data.draw(cuts(e.spec.sizes))]
    got = [np.full_like(values, 1) for values in expected]
    for n, region in data.draw(st.permutations(jobs)):
        fill((first, second)[n], region, got[n][(*region.slices, ...)])
    for values, there in zip(got, expected, strict=True):
        assert (bits(values) == bits(there)).all()


PATHS = [f"{block}.{name}" for block in ("a", "b", "h.0", "h.1") for name in ("weight", "bias")]


@st.composite
def two_models(draw):
    """Two lists of parameters that share some, in another order; shared ones are alike."""
    params = {path: sb.ParamSpec(path=path, shape=draw(shapes(1, 2, 5))) for path in PATHS}
    subsets = st.lists(st.sampled_from(PATHS), min_size=1, unique=True)
    return tuple(sb.Specs(tuple(params[path] for path in draw(subsets))) for _ in range(2))


@settings(seldom, max_examples=200)
@given(models=two_models(), start=st.sampled_from([si.Normal(std=1.0), si.Uniform(low=0, high=1)]), seed=SEEDS)
def test_other_parameters_leave_the_bits_untouched(models, start, seed):
    here, there = (sb.plan(specs, recipe=start, seed=seed) for specs in models)
    for path in {e.spec.path for e in here} & {e.spec.path for e in there}:
        assert (bits(fill(here[path])) == bits(fill(there[path]))).all()


def test_equal_shapes_under_two_paths_start_apart():
    for start in (si.Normal(std=1.0), si.Uniform(low=0, high=1), si.Orthogonal(), si.Sparse(sparsity=0.5)):
        a, b = (fill(planned(start, (20, 20), path=path)) for path in ("h.0.weight", "h.1.weight"))
        assert (a != b).mean() > 0.4


def test_keys_keep_the_parts_of_a_path_apart():
    spellings = [("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), ("", "abc"), ("abc", ""), ("a.b", "c"), ()]
    assert len({key(0, parts) for parts in spellings}) == len(spellings)


def test_a_hundred_thousand_paths_have_different_keys():
    names = ("q.weight", "q.bias", "k.weight", "v.weight", "o.weight", "up.weight", "up.bias", "down.weight")
    paths = {("layers", str(n), *name.split(".")) for n in range(12_500) for name in names}
    assert len({key(0, path) for path in paths}) == len(paths) == 100_000


def test_each_word_of_a_key_varies():
    keys = np.array([key(seed, ("fc", "weight")) for seed in range(2000)], np.uint64)
    for column in keys.T:
        assert len(np.unique(column)) > 1990
        assert 0.4 < (column >> np.uint64(31)).mean() < 0.6


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 2])
def test_neighboring_seeds_give_unrelated_streams(seed):
    a, b = (fill(planned(si.Normal(std=1.0), (200, 200), seed=s)).astype(float) for s in (seed, seed + 1))
    assert (a == b).sum() < 5
    assert abs((a * b).mean()) * 200 < 5  # the mean of 40,000 products: standard deviation 1/200


DIGEST = """
import hashlib
from seedbed.fill import fill
from tests.strategies import EVERY, FLOATS, planned
digest = hashlib.blake2b()
for start, shape in EVERY.values():
    for dtype in FLOATS:
        digest.update(fill(planned(start, shape, dtype, seed=3)).tobytes())
print(digest.hexdigest())
"""


def test_two_processes_with_different_hash_seeds_give_the_same_bits():
    root = Path(__file__).parents[1]
    path = os.pathsep.join([*(p for p in sys.path if p), str(root)])
    digests = set()
    for hash_seed in ("1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def large_model() -> torch.nn.Module:
    """One parameter takes several blocks of the driver; one is bfloat16, two are tied."""
    model = torch.nn.Sequential(torch.nn.Linear(1100, 1000), torch.nn.Linear(30, 20), torch.nn.Linear(20, 30))
    model[2].weight = torch.nn.Parameter(model[2].weight.detach().bfloat16())
    model.register_parameter("head", model[1].weight)
    return model


RECIPE = {
    "0.weight": si.TruncatedNormal(std=0.02),
    "1.weight": si.Orthogonal(),
    "2.weight": EVERY["Mixture"][0],
    "*": si.Uniform(low=-1, high=1),
}


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_are_done_once_and_in_order_however_they_are_shared_out(threads):
    sizes = [(600, 1000), (7,), (0, 3), (300, 1000), (2, 2), (3000, 1000), (5, 5), (), (400, 1000)]
    specs = [sb.ParamSpec(path=f"w{n}", shape=shape) for n, shape in enumerate(sizes)]
    plan = sb.plan(sb.Specs(tuple(specs)), recipe=sb.initializers.Normal(std=1.0))
    made, told, held = [], [], [0]

    class Place:
        def block(self, region):
            held.append(held[-1] + math.prod(region.shape))
            return np.empty(region.shape, np.float32)

        def done(self, region, values):
            held.append(held[-1] - values.size)
            made.append(values.reshape(-1).copy())

    run([Job(e, Place()) for e in plan], threads=threads, progress=lambda path, size: told.append((path, size)))
    assert max(held) <= 2 * threads * BLOCK
    assert np.array_equal(np.concatenate(made), np.concatenate([fill(e).reshape(-1) for e in plan]))
    assert [path for path, _ in itertools.groupby(told, lambda t: t[0])] == [f"w{n}" for n in range(9) if n != 2]
    assert sum(size for _, size in told) == sum(e.spec.nbytes for e in plan)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_number_of_threads_does_not_change_a_model(threads):
    model = large_model()
    plan = sb.plan(model, recipe=RECIPE, seed=5)
    sb.materialize(plan, model, threads=threads)
    held = dict(model.named_parameters())
    for entry in plan:
        tensor = held[entry.spec.path].detach()
        there = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
        assert (bits(there.numpy()) == bits(fill(entry))).all()


def test_the_number_of_threads_does_not_change_a_file(tmp_path):
    plan = sb.plan(large_model(), recipe=RECIPE, seed=5)
    written = set()
    for threads in (1, 2, 7):
        (file,) = sb.write(plan, tmp_path / f"{threads}.safetensors", threads=threads)
        written.add(file.read_bytes())
    assert len(written) == 1


def test_a_region_far_out_is_filled_without_the_rest():
    shape = (2**20, 2**20)  # 4 TiB in float32
    region = Region((2**20 - 3, 2**20 - 5), shape)
    for start in (si.Normal(std=1.0), si.TruncatedNormal(std=1.0), EVERY["Mixture"][0], EVERY["Custom"][0]):
        values = fill(planned(start, shape), region)
        rows = [fill(planned(start, shape), Region((r, 2**20 - 5), (r + 1, 2**20))) for r in range(2**20 - 3, 2**20)]
        assert (bits(values) == bits(np.concatenate(rows))).all()
        assert (values != fill(planned(start, shape), Region((0, 0), (3, 5)))).any()
