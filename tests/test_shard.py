"""What a device owns: cut as PyTorch cuts, in boxes that are it and nothing else."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seedbed.shard import Shard

torch = pytest.importorskip("torch")

SHAPES = st.lists(st.integers(0, 13), min_size=1, max_size=3).map(tuple)


@st.composite
def cuts(draw, most=1):
    """A shape, and cuts of it: axis, parts, which of them, pieces."""
    shape = draw(SHAPES)
    made = []
    for _ in range(draw(st.integers(0, 3))):
        parts = draw(st.integers(1, 6))
        axis = draw(st.integers(0, len(shape) - 1))
        made.append((axis, parts, draw(st.integers(0, parts - 1)), draw(st.integers(1, most))))
    return shape, made


def places(shape):
    return torch.arange(math.prod(shape)).reshape(shape)


def chunk(tensor, axis, parts, which):
    """A part as torch.chunk has it, which leaves out empty ones."""
    found = torch.chunk(tensor, parts, axis)
    return found[which] if which < len(found) else tensor.narrow(axis, 0, 0)


def held(shard, pairs=None):
    """The places that a device holds, as boxes of the whole put into boxes of its memory; each is written once."""
    memory = np.full(shard.shape, -1)
    for there, here in shard.boxes() if pairs is None else pairs:
        assert there.shape == here.shape
        assert (memory[here.slices] == -1).all()
        memory[here.slices] = np.ravel_multi_index(np.mgrid[there.slices], held.whole)
    assert (memory >= 0).all()
    return memory


def cut(shape, made):
    shard = Shard.whole(shape)
    for axis, parts, which, pieces in made:
        shard = shard.cut(axis, parts, which, pieces=pieces)
    held.whole = shape
    return shard


@given(cuts())
def test_a_cut_is_what_torch_chunk_gives(case):
    shape, made = case
    expected = places(shape)
    for axis, parts, which, _ in made:
        expected = chunk(expected, axis, parts, which)
    shard = cut(shape, made)
    assert shard.shape == tuple(expected.shape)
    assert shard.count == expected.numel()
    assert np.array_equal(held(shard), expected)


@given(cuts(most=5))
@example(((9, 2), [(0, 4, 1, 2)]))
@example(((50257, 1), [(0, 8, 7, 2)]))
def test_a_cut_of_pieces_is_what_a_strided_shard_of_torch_gives(case):
    kinds = pytest.importorskip("torch.distributed.tensor.placement_types")
    shape, made = case
    expected = places(shape)
    for axis, parts, which, pieces in made:
        split = kinds._StridedShard(axis, split_factor=pieces)._split_tensor
        expected = split(expected, parts, with_padding=False, contiguous=True)[0][which]
    shard = cut(shape, made)
    assert shard.shape == tuple(expected.shape)
    assert np.array_equal(held(shard), expected)


@given(cuts(most=5), st.integers(1, 40))
def test_blocks_are_the_boxes_in_small(case, most):
    shard = cut(*case)
    pairs = list(shard.blocks(most))
    assert all(0 < math.prod(there.shape) <= most for there, _ in pairs)
    assert np.array_equal(held(shard, pairs), held(shard))


@given(SHAPES, st.integers(0, 2), st.integers(1, 6), st.integers(1, 5))
def test_all_parts_are_the_whole_and_no_more(shape, axis, parts, pieces):
    axis %= len(shape)
    shards = [Shard.whole(shape).cut(axis, parts, n, pieces=pieces) for n in range(parts)]
    held.whole = shape
    assert sorted(itertools.chain.from_iterable(held(s).flat for s in shards)) == list(range(math.prod(shape)))


def test_a_shard_in_one_piece_has_one_box():
    assert len(list(Shard.whole((6, 5)).cut(0, 3, 1).cut(1, 2, 0).boxes())) == 1
    assert len(list(Shard.whole((6, 5)).cut(0, 2, 1, pieces=1).boxes())) == 1
    assert len(list(Shard.whole((8, 5)).cut(0, 2, 1, pieces=2).boxes())) == 2


def test_a_scalar_is_held_whole():
    (pair,) = Shard.whole(()).boxes()
    assert [box.shape for box in pair] == [(), ()]
    assert list(Shard.whole(()).blocks(4)) == [pair]
