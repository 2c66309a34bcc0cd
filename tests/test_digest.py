"""The fingerprint of values: the same for every layout and order, and for nothing else."""

import hashlib
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import misaligned, using
from tests.strategies import memory
from torch import nn

import seedbed as sb
from seedbed import digest, engine
from seedbed.check import Findings
from seedbed.initializers import Normal, Ones, Orthogonal
from seedbed.materialize import BLOCK, SHARE, processors
from seedbed.region import Region
from seedbed.shard import Shard

WORD = 2**64
ENGINES = ["numpy", *engine.names()]
DTYPES = [
    "bool",
    "int8",
    "float16",
    "uint16",
    ">u2",
    "float32",
    "int32",
    ">f4",
    "float64",
    "int64",
    "complex64",
    "complex128",
]


def mixed(x):
    """The definition, in whole numbers."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> shift)) * factor % WORD
    return x ^ (x >> 31)


class Held:
    """An array, or what a shard has of it."""

    def __init__(self, array, shard=None):
        self.dtype, self.shape, self.shard = str(array.dtype), array.shape, shard
        places = [np.concatenate([np.arange(*run) for run in runs]) for runs in shard.runs] if shard else []
        self.array = array[np.ix_(*places)] if shard else array


def plan_of(shape, path="weight", dtype="float32"):
    return sb.plan(sb.Specs((sb.ParamSpec(path=path, shape=shape, dtype=dtype),)), recipe=Ones())


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "bool", "complex64", "complex128"])
def test_the_sum_is_the_one_that_is_written_down(dtype, name):
    values = (np.random.default_rng(0).normal(size=(7, 37)) * 9).astype(dtype)
    key = int.from_bytes(hashlib.blake2b(b"a.weight", digest_size=8).digest(), "little")
    parts = values.view(np.float64) if dtype == "complex128" else values
    bits = [int.from_bytes(v.tobytes(), "little") for v in parts.reshape(-1)]
    expected = sum(mixed(mixed((key + i) % WORD) ^ b) for i, b in enumerate(bits)) % WORD
    plan = plan_of((7, 37), "a.weight", dtype)
    with using(name):
        assert digest.sums(plan, {"a.weight": Held(values)})["a.weight"].total == expected


@st.composite
def boxes(draw):
    """The shape of a whole of up to 2**61 elements, and a box inside it of up to some thousands."""
    sizes = draw(
        st.lists(st.one_of(st.integers(1, 5), st.integers(1, 70)), max_size=4).filter(lambda s: np.prod(s) < 9000)
    )
    wholes = [n + draw(st.sampled_from([0, 0, 1, 1000, 2**13])) for n in sizes]
    starts = [draw(st.integers(0, whole - n)) for n, whole in zip(sizes, wholes, strict=True)]
    return tuple(wholes), Region(tuple(starts), tuple(a + n for a, n in zip(starts, sizes, strict=True)))


@settings(deadline=None, max_examples=400, derandomize=True)
@given(st.data(), boxes(), st.sampled_from(DTYPES), st.integers(0, WORD - 1))
def test_every_engine_gives_the_sum_that_numpy_gives(data, box, dtype, key):
    shape, region = box
    owner, values = data.draw(memory(region.shape, np.dtype(dtype)))
    raw = np.random.default_rng(key).integers(0, 256, owner.nbytes, dtype=np.uint8)
    owner.reshape(-1).view(np.uint8)[...] = raw
    with using("numpy"):
        expected = digest.total(key, shape, region, values)
    for name in engine.names():
        with using(name):
            assert digest.total(key, shape, region, values) == expected
            assert digest.total(key, shape, region, misaligned(values)) == expected
            assert values.itemsize > 8 or engine.total(key, shape, region.start, values) == expected, "left to NumPy"


@pytest.mark.skipif(not engine.names(), reason="the C engine was not built: no compiler at install")
def test_c_leaves_to_numpy_what_it_cannot_read():
    for values in (np.zeros(3, object), np.zeros(3, "S3"), np.zeros(0, np.float32)):
        assert engine.total(1, values.shape, (0,), values) is None
    deep = np.broadcast_to(np.float32(1), (1,) * 31 + (2,))[..., ::-1]
    assert engine.total(1, deep.shape, (0,) * 32, deep) is not None, "axes of one element are none"


@pytest.mark.parametrize("name", ENGINES)
def test_large_parameters_are_summed_up_in_blocks_and_told(name, monkeypatch):
    """Blocks of a plan's values, of an array in rows, in columns and every other of them, and of shards."""
    shape = (2, BLOCK // 1000, 1100)
    plan = sb.plan(sb.Specs((sb.ParamSpec(path="weight", shape=shape),)), recipe=Normal(std=1.0))
    values = digest.fill(plan["weight"])
    wide = np.repeat(values, 2, axis=2)[..., ::2]
    told = []
    monkeypatch.setattr(digest, "PART", BLOCK // 3)
    with using("numpy"):
        expected = digest.sums(plan, {"weight": Held(values)})
    with using(name):
        assert digest.sums(plan, progress=lambda path, nbytes: told.append(nbytes)) == expected
        assert len(told) > 2
        assert sum(told) == values.nbytes
        for held in (np.asfortranarray(values), wide, values[::-1].copy()[::-1]):
            assert digest.sums(plan, {"weight": Held(held)}) == expected
        shards = [Shard.whole(shape).cut(2, 3, n) for n in range(3)]
        parts = [digest.sums(plan, {"weight": Held(values, shard)})["weight"].total for shard in shards]
    assert sum(parts) % WORD == expected["weight"].total


def test_what_is_made_whole_is_summed_up_whole():
    plan = sb.plan(sb.Specs((sb.ParamSpec(path="weight", shape=(40, 30), axes=("out", "in")),)), recipe=Orthogonal())
    assert digest.sums(plan) == digest.sums(plan, {"weight": Held(digest.fill(plan["weight"]))})


ALIVE = weakref.WeakSet()


class Far:
    """An array on a device: fetched whenever it is asked for."""

    dtype, shape, fetched = "float32", (SHARE + 1, 1), 0

    @property
    def array(self):
        made = np.ones(self.shape, np.float32).view(Fetched)
        ALIVE.add(made)
        self.fetched += 1
        return made


class Fetched(np.ndarray):
    """An array that weak references can be made to."""

    __hash__ = object.__hash__


def test_what_is_on_a_device_is_fetched_once_and_not_kept():
    held = {f"w{n}": Far() for n in range(6 * processors() + 9)}
    plan = sb.plan(sb.Specs(tuple(sb.ParamSpec(path=path, shape=Far.shape) for path in held)), recipe=Ones())
    most = 0

    def look(path, nbytes):
        nonlocal most
        most = max(most, len(ALIVE))

    assert digest.sums(plan, held, look) == digest.sums(plan)
    assert {one.fetched for one in held.values()} == {1}
    assert most <= 2 * processors() + 3 < len(held)


def test_both_halves_of_a_complex128_count():
    values = np.array([1 + 2j, 3 - 1j])
    plan = plan_of((2,), dtype="complex128")
    one = digest.sums(plan, {"weight": Held(values)})
    for other in (np.array([1 + 5j, 3 - 1j]), np.array([7 + 2j, 3 - 1j])):
        assert digest.sums(plan, {"weight": Held(other)}) != one


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_shards_together_give_what_the_whole_gives(data):
    shape = tuple(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    cuts = [(data.draw(st.integers(0, len(shape) - 1)), n, data.draw(st.integers(1, 3))) for n in sizes]
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    plan, said = plan_of(shape), {}
    for rank, place in enumerate(np.ndindex(*sizes)):
        shard = Shard.whole(shape)
        for (axis, parts, pieces), which in zip(cuts, place, strict=True):
            shard = shard.cut(axis, parts, which, pieces=pieces)
        said[rank] = digest.sums(plan, {"weight": Held(values, shard)})
    texts = {rank: digest.to_text(found) for rank, found in reversed(said.items())}
    whole = digest.together({0: digest.sums(plan, {"weight": Held(values)})})
    assert digest.together({rank: digest.from_text(text) for rank, text in texts.items()}) == whole


def test_a_value_that_moves_or_changes_place_or_name_is_seen():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    swapped, changed = values.copy(), values.copy()
    swapped[0, 0], swapped[2, 3] = values[2, 3], values[0, 0]
    changed[1, 1] = np.nextafter(values[1, 1], np.float32(9))
    found = {
        digest.together({0: digest.sums(plan, {path: Held(array)})})
        for plan, path, array in (
            (plan_of((3, 4)), "weight", values),
            (plan_of((3, 4)), "weight", swapped),
            (plan_of((3, 4)), "weight", changed),
            (plan_of((4, 3)), "weight", values.reshape(4, 3)),
            (plan_of((3, 4), "other"), "other", values),
            (plan_of((3, 4)), "weight", values.view(np.int32)),
        )
    }
    assert len(found) == 6


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("mask", torch.ones(3), persistent=False)
        self.half = nn.Linear(4, 3, dtype=torch.bfloat16)


def test_plan_model_state_and_file_have_one(tmp_path):
    net = Tied()
    plan = sb.plan(net, recipe=Normal(std=1.0), seed=3)
    sb.write(plan, tmp_path / "a.safetensors", model=net)
    sb.materialize(plan, net)
    found = {sb.fingerprint(plan, held) for held in (net, net.state_dict(), str(tmp_path / "a.safetensors"))}
    assert len(found) == 1
    assert plan.fingerprint() not in found
    assert sb.fingerprint(sb.plan(nn.Linear(3, 2), seed=1)) != sb.fingerprint(sb.plan(nn.Linear(3, 2), seed=2))


def test_the_fingerprint_of_a_start_is_known_before_it():
    plan = sb.plan(nn.Sequential(nn.Linear(300, 400), nn.Linear(400, 5)), recipe="he")
    net = nn.Sequential(nn.Linear(300, 400), nn.Linear(400, 5))
    assert sb.fingerprint(plan) == sb.fingerprint(plan, sb.materialize(plan, net))


def test_findings_of_other_ranks_count():
    here = Findings((sb.Finding(path="a", verdict="equal"),))
    there = Findings((sb.Finding(path="a", verdict="moved", detail="1 of 3 values"),))
    assert here
    assert there.line == "a moved: 1 of 3 values"
    both = Findings(here.findings, elsewhere=((3, there.line),))
    assert not both
    assert str(both).endswith("\nrank 3: a moved: 1 of 3 values")
