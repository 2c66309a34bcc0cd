"""The numbers of each initializer against plain definitions, one element at a time, and against PyTorch."""

import dataclasses
import hashlib
import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import (
    bits,
    each_engine,  # noqa: F401 -- pytest runs it around every test here
    elementwise,
    mixtures,
    planned,
    regions,
    shapes,
)

import seedbed as sb
from seedbed import initializers as si
from seedbed.errors import InitializerError, PlanError, RegionError, UnknownSizeError
from seedbed.fill import fill, pieces, storage_dtype
from seedbed.region import Region, blocks
from seedbed.threefry import lowest_within, table, threefry4x32

usual = settings(max_examples=300, deadline=None, derandomize=True)
F32 = np.float32


# The contract, one element at a time, in Python's own numbers.


def word(entry, draw, i):
    digest = hashlib.blake2b(digest_size=16)
    parts = [part.encode() for part in entry.stream.split(".")]
    digest.update(entry.seed.to_bytes(8, "little") + len(parts).to_bytes(8, "little"))
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    raw = digest.digest()
    key = tuple(int.from_bytes(raw[n : n + 4], "little") for n in (0, 4, 8, 12))
    block = i // 4
    return int(threefry4x32(key, (block % 2**32, block // 2**32, draw, 0))[i % 4][0])


def scaled_by_hand(value, factor, shift):
    by, to = float(F32(factor)), float(F32(shift))
    return F32(value * by) if to == 0 else F32(value * by + to)  # both products are exact in float64


def standard_by_hand(w, lowest):
    m = w % 2**31
    m = lowest + (m * (2**31 - lowest) // 2**31) if lowest else m
    a, b = table()
    row, t = 0, 0
    if m:
        fraction, exponent = math.frexp(float(F32(m)))
        digits = int(fraction * 2**21) - 2**20  # 8 for the segment, 12 for the place in it
        row, t = 1 + 256 * (exponent - 1) + digits // 2**12, digits % 2**12
    z = float(F32(float(a[row]) + float(b[row]) * t))
    return -z if w >= 2**31 else z


def value_by_hand(start, w):
    if isinstance(start, si.Uniform):
        s = (2 * (w >> 8) - (2**24 - 1)) / 2**24
        value = scaled_by_hand(s, (start.high - start.low) / 2, (start.high + start.low) / 2)
        least, bound = F32(start.low), F32(start.high)
        return least if least >= bound else min(max(value, least), np.nextafter(bound, least))
    if isinstance(start, si.Normal):
        return scaled_by_hand(standard_by_hand(w, 0), start.std, start.mean)
    if isinstance(start, si.TruncatedNormal):
        return scaled_by_hand(standard_by_hand(w, lowest_within(start.cut)), start.std, start.mean)
    return F32({si.Zeros: 0, si.Ones: 1}[type(start)] if not isinstance(start, si.Constant) else start.value)


def element_by_hand(entry, i):
    start = entry.start
    if not isinstance(start, si.Mixture):
        return value_by_hand(start, word(entry, 0, i))
    choice, total = word(entry, 0, i), 0.0
    chosen = start.parts[-1][1]
    for probability, part in start.parts[:-1]:
        total += probability
        if choice < round(total * 2**32):
            chosen = part
            break
    return value_by_hand(chosen, word(entry, 1, i))


eighths = mixtures().map(lambda m: si.Mixture([(1 / 8, m.parts[0][1]), (0, si.Ones()), (7 / 8, m.parts[1][1])]))


@usual
@given(data=st.data(), start=st.one_of(elementwise, eighths), seed=st.integers(0, 2**64 - 1))
def test_values_follow_the_contract_one_by_one(data, start, seed):
    shape = data.draw(shapes(2, 4, 2**12).filter(all))
    entry = planned(start, shape, seed=seed)
    place = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    got = fill(entry, Region(place, tuple(p + 1 for p in place)))
    expected = element_by_hand(entry, int(np.ravel_multi_index(place, shape)))
    assert got.item() == expected


def test_mixture_chooses_with_draw_0_and_takes_values_from_draw_1():
    parts = [(0.25, si.Uniform(low=5, high=10)), (0.5, si.Zeros()), (0.25, si.Uniform(low=-10, high=-5))]
    entry = planned(si.Mixture(parts), (10, 10))
    values = fill(entry).reshape(-1)
    for i in range(100):
        part = parts[0 if word(entry, 0, i) < 2**30 else 1 if word(entry, 0, i) < 3 * 2**30 else 2][1]
        assert values[i] == value_by_hand(part, word(entry, 1, i))


@pytest.mark.parametrize("certain", [0, 1, 2])
def test_mixture_with_one_certain_part_is_that_part(certain):
    parts = [(float(n == certain), si.Constant(value=n)) for n in range(3)]
    assert (fill(planned(si.Mixture(parts), (300, 300))) == certain).all()


# Constants and places


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"])
def test_constants_of_whole_dtypes_are_exact(dtype):
    largest = np.iinfo(dtype).max
    assert (fill(planned(si.Constant(value=int(largest)), (3,), dtype)) == largest).all()
    assert fill(planned(si.Ones(), (3,), dtype)).tolist() == [1, 1, 1]
    assert fill(planned(si.Constant(value=7.0), (3,), dtype)).tolist() == [7, 7, 7]


def test_constants_of_bool_and_complex_dtypes():
    assert fill(planned(si.Ones(), (2,), "bool")).tolist() == [True, True]
    assert fill(planned(si.Zeros(), (2,), "bool")).tolist() == [False, False]
    assert fill(planned(si.Constant(value=2), (2,), "complex64")).tolist() == [2 + 0j, 2 + 0j]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        *itertools.product([0, 1, 19, -3, 448], ["float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float64"]),
        *itertools.product([0.1, -1e-7, 65504.0], ["bfloat16", "float16", "float64"]),
    ],
)
def test_constants_are_rounded_to_float32_and_then_as_torch_does(value, dtype):
    values = fill(planned(si.Constant(value=value), (3,), dtype))
    theirs = torch.full((3,), value, dtype=torch.float32).to(getattr(torch, dtype))
    held = theirs if dtype in ("float64", "float16") else theirs.view(getattr(torch, str(storage_dtype(dtype))))
    assert (bits(values) == bits(held.numpy())).all()


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3), (1, 7), (7, 1)])
def test_identity_equals_torch(shape):
    expected = torch.nn.init.eye_(torch.empty(shape)).numpy()
    assert (fill(planned(si.Identity(), shape)) == expected).all()
    assert (fill(planned(si.Identity(gain=0.3), shape)) == expected * F32(0.3)).all()


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("shape", [(6, 3, 3), (6, 2, 4), (6, 1, 1), (6, 6, 2, 3), (6, 4, 3, 3), (6, 3, 2, 3, 4)])
def test_dirac_equals_torch(shape, groups):
    expected = torch.nn.init.dirac_(torch.empty(shape), groups).numpy()
    assert (fill(planned(si.Dirac(groups=groups), shape)) == expected).all()
    assert (fill(planned(si.Dirac(groups=groups), shape, "int64")) == expected).all()


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_identity_of_float8_is_one_and_not_its_smallest_bit(dtype):
    values = torch.from_numpy(fill(planned(si.Identity(), (3, 3), dtype))).view(getattr(torch, dtype))
    assert (values.float() == torch.eye(3)).all()


# Whole matrices


@pytest.mark.parametrize("shape", [(20, 20), (8, 30), (30, 8), (1, 9), (9, 1), (6, 4, 3, 2), (40, 2, 3)])
@pytest.mark.parametrize("gain", [1.0, 1.5, -2.0])
def test_orthogonal_has_orthonormal_rows_or_columns(shape, gain):
    q = fill(planned(si.Orthogonal(gain=gain), shape)).astype(float).reshape(shape[0], -1)
    gram = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
    assert np.abs(gram - gain**2 * np.eye(len(gram))).max() < 2e-6


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 5), (300, 140), (140, 300), (260, 260)])
def test_orthogonal_is_the_product_of_reflections_that_its_definition_names(shape):
    z = fill(planned(si.Normal(std=1.0), shape)).astype(float)
    z = z if shape[0] >= shape[1] else z.T
    rows, columns = z.shape
    q = np.eye(rows)
    signs = np.ones(columns)
    for j in range(columns):
        x = np.zeros(rows)
        x[j:] = z[j:, j]
        signs[j] = 1 if x[j] < 0 else -1
        v = x - signs[j] * np.linalg.norm(x) * np.eye(rows)[j]
        q = q @ (np.eye(rows) - 2 * np.outer(v, v) / (v @ v))
    expected = q[:, :columns] * signs
    got = fill(planned(si.Orthogonal(gain=1.0), shape))
    np.testing.assert_allclose(got, expected if shape[0] >= shape[1] else expected.T, rtol=0, atol=1.2e-7)


def test_orthogonal_has_the_same_bits_whatever_the_number_of_threads():
    code = (
        "import hashlib, seedbed as sb; from seedbed.fill import fill; specs = sb.Specs((sb.ParamSpec(path='w', shape=(700, 700)),));"
        "print(hashlib.sha256(fill(sb.plan(specs, recipe=sb.initializers.Orthogonal())['w']).tobytes()).hexdigest())"
    )
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    made = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | dict.fromkeys(names, threads),
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "3")
    ]
    assert len(made[0]) == 65
    assert made == made[:1] * 3


def test_orthogonal_is_one_matrix_for_each_place_of_stack_axes():
    specs = sb.Specs((sb.ParamSpec(path="w", shape=(3, 4, 6), axes=("stack", "out", "in")),))
    q = fill(sb.plan(specs, recipe=si.Orthogonal())["w"]).astype(float)
    assert np.abs(q @ q.transpose(0, 2, 1) - np.eye(4)).max() < 1e-6
    assert np.abs(q[0] - q[1]).max() > 0.1


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(10, 30), (7, 5), (1, 4)])
def test_sparse_has_so_many_zeros_in_each_column(shape, sparsity):
    values = fill(planned(si.Sparse(sparsity=sparsity, std=1.0), shape))
    assert ((values == 0).sum(axis=0) == math.ceil(sparsity * shape[0])).all()


def test_sparse_keeps_the_values_of_the_normal():
    sparse, normal = (fill(planned(i, (40, 30))) for i in (si.Sparse(sparsity=0.3, std=0.5), si.Normal(std=0.5)))
    assert (sparse[sparse != 0] == normal[sparse != 0]).all()


def test_sparse_gives_zeros_to_the_smallest_words_of_draw_1():
    entry = planned(si.Sparse(sparsity=0.5, std=1.0), (6, 4))
    order = np.array([word(entry, 1, i) for i in range(24)]).reshape(6, 4).argsort(axis=0, kind="stable")
    values = fill(entry)
    assert (np.take_along_axis(values, order[:3], axis=0) == 0).all()
    assert (np.take_along_axis(values, order[3:], axis=0) != 0).all()


# Overlays

ROW = ((0, 1), (0, 6))


def overlay(base, *boxes):
    return si.Overlay(base=base, boxes=tuple(boxes))


def test_overlay_leaves_the_rest_as_it_is_and_later_boxes_win():
    first, second = (((0, 3), (0, 3)), si.Ones()), (((2, 4), (2, 4)), si.Constant(value=2))
    base = fill(planned(si.Normal(std=1.0), (5, 5)))
    values = fill(planned(overlay(si.Normal(std=1.0), first, second), (5, 5)))
    expected = base.copy()
    expected[:3, :3], expected[2:4, 2:4] = 1, 2
    assert (values == expected).all()


def test_overlay_counts_places_in_the_whole_parameter():
    box = ((2, 4), (0, 6))
    values = fill(planned(overlay(si.Zeros(), (box, si.Normal(std=1.0))), (5, 6)))
    assert (values[2:4] == fill(planned(si.Normal(std=1.0), (5, 6)))[2:4]).all()


@usual
@given(data=st.data(), shape=shapes(1, 3))
def test_a_box_starts_the_same_whatever_its_base(data, shape):
    box = data.draw(regions(shape))
    pair = (tuple(zip(box.start, box.stop, strict=True)), si.Uniform(low=0, high=1))
    a, b = (fill(planned(overlay(base, pair), shape)) for base in (si.Zeros(), si.Normal(std=1.0)))
    assert (a[box.slices] == b[box.slices]).all()


@pytest.mark.parametrize("scaled", [si.HeNormal(), overlay(si.HeNormal()), overlay(si.Ones(), (ROW, si.HeNormal()))])
def test_what_holds_no_numbers_is_refused_and_never_fills_nan(scaled):
    entry = dataclasses.replace(planned(si.Zeros(), (4, 6)), start=scaled)
    with pytest.raises(InitializerError, match=r"HeNormal\(\): holds no numbers of its own"):
        fill(entry)


# Custom


def test_custom_draws_are_the_draws_of_the_contract():
    seen = {}

    def function(draw, spec):
        seen["bits"], seen["uniform"], seen["normal"] = draw.bits(), draw.uniform(-1, 1), draw.normal(std=0.5)
        return seen["normal"]

    entry = planned(si.Custom(function), (5, 4))
    values = fill(entry, Region((1, 1), (3, 4)))
    places = [row * 4 + column for row in (1, 2) for column in (1, 2, 3)]
    assert seen["bits"].reshape(-1).tolist() == [word(entry, 0, i) for i in places]
    for n, i in enumerate(places):
        assert seen["uniform"].reshape(-1)[n] == value_by_hand(si.Uniform(low=-1, high=1), word(entry, 1, i))
        assert values.reshape(-1)[n] == value_by_hand(si.Normal(std=0.5), word(entry, 2, i))


def test_custom_sees_where_it_is():
    def function(draw, spec):
        assert spec.path == "fc.weight"
        assert draw.shape == draw.region.shape
        return 100 * draw.index(0) + draw.index(-1)

    values = fill(planned(si.Custom(function), (4, 6)), Region((1, 2), (3, 5)))
    assert values.tolist() == [[102, 103, 104], [202, 203, 204]]


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (lambda draw: np.zeros(3), r"float64\(3,\)"),
        (lambda draw: 1.0, r"float64\(\)"),
        (lambda draw: np.full(draw.shape, "a"), r"<U1\(4, 6\)"),
        (lambda draw: np.zeros(draw.shape, complex), r"complex128\(4, 6\)"),
    ],
)
def test_custom_that_returns_something_else_is_refused(returned, got):
    with pytest.raises(InitializerError, match=got) as caught:
        fill(planned(si.Custom(lambda draw, spec: returned(draw)), (4, 6)))
    assert caught.value.path == "fc.weight"


# Regions


def test_region_arithmetic():
    a, b = Region((1, 2), (4, 6)), Region((3, 0), (9, 3))
    assert a.shape == (3, 4)
    assert a.slices == (slice(1, 4), slice(2, 6))
    assert a.shared(b) == b.shared(a) == Region((3, 2), (4, 3))
    assert a.shared(Region((4, 0), (9, 9))) is None
    assert a.moved((1, 1)) == Region((0, 1), (3, 5))
    assert Region.whole((2, 3)) == Region((0, 0), (2, 3))


@pytest.mark.parametrize(
    "region",
    [
        Region((0, 0), (4, 7)),
        Region((-1, 0), (2, 2)),
        Region((3, 0), (2, 6)),
        Region((0,), (4,)),
        Region((0, 0, 0), (1, 1, 1)),
    ],
)
def test_regions_outside_their_parameter_are_refused(region):
    with pytest.raises(RegionError, match=r"fc\.weight: region .* reaches outside \(4, 6\)"):
        fill(planned(si.Zeros(), (4, 6)), region)


@pytest.mark.parametrize("out", [np.empty((4, 5), np.float32), np.empty((4, 6)), np.empty(24, np.float32)])
def test_memory_of_another_shape_or_dtype_is_refused(out):
    with pytest.raises(RegionError, match=r"fc\.weight: `out` must be float32\(4, 6\)"):
        fill(planned(si.Zeros(), (4, 6)), out=out)


def test_kept_values_are_not_filled():
    (entry,) = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=(2,)),)), recipe=si.Keep(values=True))
    with pytest.raises(PlanError, match="keeps the values that are there"):
        fill(entry)


def test_unknown_sizes_are_not_filled():
    (entry,) = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=(2, None)),)), recipe=si.Zeros())
    with pytest.raises(UnknownSizeError):
        fill(entry)


@usual
@given(shape=shapes(0, 4), most=st.integers(1, 50))
def test_blocks_are_contiguous_in_order_and_not_too_large(shape, most):
    count = math.prod(shape)
    order = np.arange(count).reshape(shape)
    found = [order[region.slices].reshape(-1) for region in blocks(shape, most)]
    assert all(0 < len(block) <= most for block in found)
    assert list(itertools.chain.from_iterable(found)) == list(range(count))


@pytest.mark.parametrize(
    "start",
    [
        si.Orthogonal(),
        si.Sparse(sparsity=0.5),
        overlay(si.Orthogonal(), (ROW, si.Ones())),
        overlay(si.Zeros(), (ROW, si.Sparse(sparsity=0.5))),
    ],
)
def test_what_needs_the_whole_array_comes_in_one_piece(start):
    assert list(pieces(planned(start, (4, 6)), 6)) == [(Region.whole((4, 6)),) * 2]


def test_what_fills_one_by_one_comes_in_pieces():
    assert len(list(pieces(planned(overlay(si.Normal(std=1.0), (ROW, si.Ones())), (4, 6)), 6))) == 4
