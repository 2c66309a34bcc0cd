"""The fingerprint of values: the same for every layout and order, and for nothing else."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import seedbed as sb
from seedbed import digest
from seedbed.check import Findings
from seedbed.initializers import Normal, Ones
from seedbed.shard import Shard

WORD = 2**64


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


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "bool", "complex64"])
def test_the_sum_is_the_one_that_is_written_down(dtype):
    values = (np.random.default_rng(0).normal(size=(3, 5)) * 9).astype(dtype)
    key = int.from_bytes(hashlib.blake2b(b"a.weight", digest_size=8).digest(), "little")
    bits = [int.from_bytes(v.tobytes(), "little") for v in values.reshape(-1)]
    expected = sum(mixed(mixed((key + i) % WORD) ^ b) for i, b in enumerate(bits)) % WORD
    plan = plan_of((3, 5), "a.weight", dtype)
    assert digest.sums(plan, {"a.weight": Held(values)})["a.weight"].total == expected


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
