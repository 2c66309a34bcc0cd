"""What is asked wrongly ends in a sentence or in the right values: never in a crash, and never in other values."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.cases import BUILDS, GUARD, build, preloaded, using
from torch import nn

import seedbed as sb
from seedbed import engine
from seedbed import initializers as i
from seedbed.errors import InitializerError, PlanError, RegionError, SeedbedError
from seedbed.fill import fill, storage_dtype
from seedbed.region import Region
from seedbed.threefry import normal as standard
from seedbed.threefry import runs, scaled

CALLS = Path(__file__).parent / "hostile" / "calls.py"
EVERY = ["numpy", *engine.names()]
needs_c = pytest.mark.skipif(not engine.names(), reason="the C engine was not built: no compiler at install")
each = pytest.mark.parametrize("name", EVERY)


def entry_of(shape, dtype="float32", start=None):
    spec = sb.ParamSpec(path="w", shape=shape, dtype=dtype)
    (entry,) = sb.plan(sb.Specs((spec,)), recipe=start or i.Normal(std=1.0))
    return entry


# Shapes


@pytest.mark.parametrize(
    "shape",
    [
        (-1, 3), (None, -2), (2.5,), (2.0,), ("a",), (True, 2), (float("nan"),), (None, "x"), "ab", 5, None, (2, (3,)),
        (2**40, 2**40), (2**63,), (2**62, 2), (2**62, 3), (2**70,), (0, 2**70), (None, 10**5000), (-(10**5000),),
        (np.int64(2**40), np.int64(2**40)), (np.float32(3),),
    ],
)  # fmt: skip
def test_shapes_that_no_parameter_can_have_are_refused(shape):
    with pytest.raises(PlanError, match=r"^w: ") as caught:
        sb.ParamSpec(path="w", shape=shape)
    assert caught.value.path == "w"
    assert len(str(caught.value)) < 400


def test_sizes_become_plain_numbers_which_do_not_overflow():
    spec = sb.ParamSpec(path="w", shape=[np.int32(2**16), np.int64(2**20), None])
    assert spec.shape == (2**16, 2**20, None)
    assert all(type(n) is int for n in spec.shape[:2])
    assert hash(spec) == hash(sb.ParamSpec(path="w", shape=(2**16, 2**20, None)))


@each
@pytest.mark.parametrize("shape", [(2**63 - 1,), (2**31, 2**32 - 1), (3, 2**61), (2**20, 7, 2**40)])
def test_the_last_elements_of_the_largest_parameters_are_theirs(shape, name):
    """Written out element by element: the number, its block, its word."""
    entry = entry_of(shape)
    region = Region(tuple(max(0, n - 3) for n in shape), shape)
    with using(name):
        got = fill(entry, region)
    for place in np.ndindex(*region.shape):
        at, number = [a + b for a, b in zip(region.start, place, strict=True)], 0
        for size, n in zip(shape, at, strict=True):
            number = number * size + n
        word = runs(entry.key, 0, np.array([number // 4 * 4]), 4)[0][number % 4 : number % 4 + 1]
        assert got[place] == scaled(standard(word), 1.0, 0.0)[0]


@each
@pytest.mark.parametrize("dtype", engine.TYPES)
@pytest.mark.parametrize("start", [2**34, 2**36, 2**44, 2**60])
def test_counters_past_32_bits_are_the_same_on_every_engine(start, dtype, name):
    """Across the place where the high half of the block's number changes, and there other than at the beginning."""
    entry = entry_of((2**62,), dtype)
    near, across = Region((start - 9,), (start + 9,)), Region((0,), (9,))
    with using("numpy"):
        expected, first = fill(entry, near), fill(entry, across)
    with using(name):
        assert fill(entry, near).tobytes() == expected.tobytes()
    assert expected[9:].tobytes() != first.tobytes()


@each
@pytest.mark.parametrize("dtype", [*engine.TYPES, "float8_e5m2", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 2**40), (1, 1, 1), (1,) * 40])
def test_parameters_without_axes_or_elements(shape, dtype, name):
    start = i.Ones() if dtype in ("int64", "bool") else i.Normal(std=1.0)
    with using(name):
        values = fill(entry_of(shape, dtype, start))
    assert values.shape == shape
    assert values.dtype == storage_dtype(dtype)
    if values.size:
        with using("numpy"):
            assert values.reshape(-1).tobytes() == fill(entry_of((1,), dtype, start)).tobytes()


# Regions


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        ((0.5, 0), (2, 2)),
        ((0, 0), (2.0, 2)),
        (("a", 0), (2, 2)),
        (None, None),
        (0, 1),
        ((0, 0), "xy"),
        ((0, None), (1, 1)),
    ],
)
def test_regions_of_what_are_no_whole_numbers_are_refused(start, stop):
    with pytest.raises(
        RegionError, match=r"^Region: `(start|stop)` must be a tuple of whole numbers, one per axis, got "
    ):
        Region(start, stop)


@each
@pytest.mark.parametrize(
    "region",
    [
        Region((0, 0), (5, 6)), Region((-1, 0), (2, 2)), Region((3, 0), (2, 6)), Region((0,), (4,)), Region((), ()),
        Region((0,), (2, 2)), Region((0, 0), (2**70, 6)), Region((-(2**63), 0), (1, 1)), Region((4, 7), (4, 7)),
        Region((0, 0), (10**5000, 1)), slice(0, 2), (), "x", ((0, 0), (1, 1)), 0,
    ],
)  # fmt: skip
def test_regions_outside_and_what_is_no_region_are_refused_and_write_nothing(region, name):
    out = np.full((4, 6), 7, np.float32)
    with using(name), pytest.raises(RegionError, match=r"^w: (region|`region`) ") as caught:
        fill(entry_of((4, 6)), region, out)
    assert (out == 7).all()
    assert len(str(caught.value)) < 600
    assert caught.value.path == "w"


def test_regions_of_numpys_numbers_and_of_lists_are_regions():
    plain = Region((1, 2), (3, 4))
    assert Region(np.array([1, 2]), [np.int32(3), np.uint64(4)]) == plain
    assert hash(Region([1, 2], [3, 4])) == hash(plain)


@pytest.mark.parametrize("shape", [(2**31, 2**31), (0, 2**62), (1,) * 65])
def test_a_region_that_no_array_can_hold_is_refused(shape):
    with pytest.raises(RegionError, match=r"^w: no array can have the shape "):
        fill(entry_of(shape, "float64"))


# Destinations


@each
@pytest.mark.parametrize("dtype", engine.TYPES)
def test_memory_that_cannot_hold_the_values_is_refused_and_left_alone(dtype, name):
    entry, held = entry_of((4, 6), dtype), storage_dtype(dtype)
    wrong = [
        np.zeros((6, 4), held), np.zeros(24, held), np.zeros((4, 6, 1), held), np.zeros((), held), np.zeros((4, 5), held),
        np.zeros((4, 6), held.newbyteorder()), np.zeros((4, 6), object), np.zeros((4, 6), f"V{held.itemsize}"),
        np.zeros((4, 6), f"S{held.itemsize}"), np.zeros((4, 6), f"i{held.itemsize}"), np.zeros((4, 6), "complex128"),
        np.zeros((4, 6), [("a", held)]),
    ]  # fmt: skip
    for out in wrong:
        before = out.tobytes()
        with using(name), pytest.raises(RegionError, match=r"^w: `out` must be "):
            fill(entry, out=out)
        assert out.tobytes() == before
    for out in ([[0.0] * 6] * 4, "x", 3, memoryview(bytearray(96)), held):
        with using(name), pytest.raises(RegionError, match=r"^w: `out` must be "):
            fill(entry, out=out)


@each
def test_memory_that_is_not_ours_to_write_is_refused(name):
    text = bytes(96)  # Python shares it with whoever has the same bytes
    constant = np.broadcast_to(np.float32(0), (4, 6))
    for out in (np.frombuffer(text, np.float32).reshape(4, 6), constant):
        with using(name):
            with pytest.raises(RegionError, match=r"^w: `out` is read-only\.$"):
                fill(entry_of((4, 6)), out=out)
            entry = entry_of((4, 6))
            assert not engine.fill(entry.start, "float32", entry.key, (4, 6), (0, 0), out)
    assert text == bytes(96)


@each
@pytest.mark.parametrize("dtype", engine.TYPES)
@pytest.mark.parametrize("offset", range(1, 8))
def test_memory_that_is_misaligned_gets_the_right_values_and_nothing_beside_it(offset, dtype, name):
    entry, held = entry_of((4, 6), dtype), storage_dtype(dtype)
    owner = np.full(24 * held.itemsize + 16, GUARD, np.uint8)
    out = owner[offset : offset + 24 * held.itemsize].view(held).reshape(4, 6)
    with using(name):
        fill(entry, out=out)
    with using("numpy"):
        assert out.tobytes() == fill(entry).tobytes()
    assert (owner[:offset] == GUARD).all()
    assert (owner[offset + 24 * held.itemsize :] == GUARD).all()


@each
def test_kinds_of_arrays_are_written_as_the_memory_they_are(name, tmp_path):
    entry = entry_of((4, 6))
    masked = np.ma.masked_array(np.zeros((4, 6), np.float32), mask=np.eye(4, 6))
    mapped = np.memmap(tmp_path / "values", np.float32, "w+", shape=(4, 6))
    record = np.zeros((4, 6), [("a", np.uint8), ("b", np.float32)])["b"]
    with using("numpy"):
        expected = fill(entry)
    for out in (masked, mapped, np.zeros((4, 6), np.float32).view(np.recarray), record):
        with using(name):
            assert fill(entry, out=out) is out
        assert (np.asarray(out) == expected).all()
    assert masked.mask.sum() == 4


@needs_c
def test_the_engine_leaves_to_numpy_what_is_not_the_dtypes_memory():
    """It is given addresses: an array of objects would hold floats in place of pointers."""
    entry = entry_of((4, 6))
    for out in (np.empty((4, 6), object), np.zeros((4, 6), np.uint16), np.zeros((4, 6), "f8"), np.zeros((0, 6), "f4")):
        before = out.tobytes()
        assert not engine.fill(entry.start, "float32", entry.key, (4, 6), (0, 0), out)
        assert out.tobytes() == before
    assert not engine.fill(entry.start, "bfloat16", entry.key, (4, 6), (0, 0), np.zeros((4, 6), np.float16))


# Arguments of initializers, plans and models

NONSENSE = [
    float("nan"),
    float("inf"),
    float("-inf"),
    1e39,
    -1e39,
    10**400,
    "x",
    None,
    True,
    1j,
    np.float64("nan"),
    [1.0],
]


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
@pytest.mark.parametrize(
    "make",
    [
        lambda x: i.Normal(std=x), lambda x: i.Normal(mean=x, std=1), lambda x: i.Uniform(low=x, high=1),
        lambda x: i.Uniform(low=0, high=x), lambda x: i.TruncatedNormal(std=x), lambda x: i.TruncatedNormal(std=1, cut=x),
        lambda x: i.TruncatedNormal(mean=x, std=1), lambda x: i.Constant(value=x), lambda x: i.VarianceScaling(scale=x),
        lambda x: i.HeNormal(fan=x), lambda x: i.Orthogonal(gain=x), lambda x: i.Identity(gain=x),
        lambda x: i.Sparse(sparsity=x), lambda x: i.Sparse(sparsity=0.5, std=x), lambda x: i.XavierUniform(gain=x),
        lambda x: i.Mixture([(x, i.Zeros()), (0.5, i.Ones())]), i.Mixture,
    ],
)  # fmt: skip
def test_arguments_that_are_no_numbers_are_refused(make, value):
    with pytest.raises(InitializerError):
        make(value)


@pytest.mark.parametrize(
    "seed", [-1, 2**64, 1.5, "0", None, True, float("nan"), 10**5000, [0], np.float64(1)], ids=range(10)
)
@pytest.mark.parametrize("verb", [sb.plan, sb.initialize])
def test_seeds_that_are_none_are_refused_and_change_nothing(verb, seed):
    layer = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(PlanError, match=r"^seed: must be a whole number from 0 to 2\*\*64 - 1, got "):
        verb(layer, recipe=i.Ones(), seed=seed)
    assert all((before[name] == value).all() for name, value in layer.state_dict().items())


@pytest.mark.parametrize(
    "inputs",
    [
        ((2, -1),),
        ((2, 2.5),),
        ((2, "x"),),
        ((True, 3),),
        (5,),
        ("2x3",),
        ((2, 10**5000),),
        ((2**40, 2**40),),
        ((2**63, 0),),
    ],
)
@pytest.mark.parametrize("verb", [sb.plan, sb.initialize])
def test_inputs_that_are_none_are_refused_and_change_nothing(verb, inputs):
    layer = nn.LazyLinear(2)
    with pytest.raises(SeedbedError):
        verb(layer, *inputs, recipe=i.Ones())
    assert isinstance(layer, nn.LazyLinear)


# The extension itself, and hostile calls by the thousand


@needs_c
def test_the_extension_refuses_structures_of_the_wrong_size():
    out, table = np.zeros(4, np.float32), engine._table()
    part, axis = engine._part(i.Normal(std=1.0), engine.ALWAYS), np.array([4, 1, 4], np.int64).tobytes()
    good = ["baseline", bytes(16), part, False, 0, 0, axis, table.ctypes.data, out.ctypes.data]
    wrong = {
        0: ["avx1024", "", "a\0b"],
        1: [b"", bytes(15), bytes(17)],
        2: [b"", part[:-1], part + b"\0", part * 17],
        4: [-1, 4, 2**31 - 1, 2**31],
        5: [2**63, -(2**63) - 1],
        6: [b"", axis[:-1], axis * 33, np.array([0, 1, 4]).tobytes(), np.array([-1, 1, 4]).tobytes()],
        7: [0],
        8: [0],
    }
    for place, values in wrong.items():
        for value in values:
            arguments = [*good[:place], value, *good[place + 1 :]]
            with pytest.raises(OverflowError if type(value) is int and abs(value) >= 2**31 else ValueError):
                engine._engine.fill(*arguments)
            with pytest.raises(TypeError):
                engine._engine.fill(*[*good[:place], None, *good[place + 1 :]] if place != 3 else [])
    assert not out.any()
    engine._engine.fill(*good)
    assert out.all()


def hostile_calls(calls, seed, *more, **environment):
    command = [sys.executable, "-X", "faulthandler", CALLS, str(calls), str(seed), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("call_c done " if engine.names() else "call_engine ")
    return done.stdout


def test_hostile_calls_raise_or_succeed_and_write_nowhere_else():
    hostile_calls(6000, 0)


@needs_c
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_hostile_calls_of_the_sanitized_build(tmp_path):
    made = build(BUILDS["sanitized"], tmp_path)
    hostile_calls(3000, 1, str(made), **preloaded(BUILDS["sanitized"]))
