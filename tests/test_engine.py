"""The C engine gives the bits of the reference: on every instruction set, build, dtype, region and layout."""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import seedbed as sb
from seedbed import engine
from seedbed import initializers as i
from seedbed.errors import EngineError, RegionError
from seedbed.fill import Region, fill

SOURCE = Path(engine.__file__).with_name("_engine.c")
SHAPES = [(7,), (64, 33), (3, 5, 7), (100, 1000), (1,), (2**20, 2**20), (50257, 768), (2**31, 5, 3), (12, 4096), ()]
needs_c = pytest.mark.skipif(not engine.names(), reason="the C engine was not built: no compiler at install")


def draw_initializer(rng):
    mean, std = float(rng.choice([0, 0, 0.5, -3, 1e-3])), float(rng.choice([0.02, 1, 3.7, 0, 1e-30, 1e30]))
    low, high = sorted(rng.normal(size=2) * float(rng.choice([1, 1e-6, 1e5])))
    simple = [
        i.Normal(mean=mean, std=std), i.Uniform(low=float(low), high=float(high)), i.Uniform(low=-float(high**2), high=float(high**2)),
        i.TruncatedNormal(mean=mean, std=std, cut=float(rng.choice([0.5, 1, 2, 3, 7]))), i.Constant(value=mean),
        i.Uniform(low=0.0, high=1.0), i.Uniform(low=5.0, high=10.0), i.Zeros(),
    ]  # fmt: skip
    if rng.random() < 0.6:
        return simple[rng.integers(len(simple))]
    return i.Mixture(
        [(float(p), simple[rng.integers(len(simple))]) for p in rng.dirichlet(np.ones(rng.integers(1, 5)))]
    )


def draw_case(rng):
    """An entry, a region of it, and memory of some layout for it."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    spec = sb.ParamSpec(path="w", shape=shape, dtype=str(rng.choice(list(engine.TYPES))))
    (entry,) = sb.plan(sb.Specs((spec,)), recipe=draw_initializer(rng), seed=int(rng.integers(2**63)))
    start, stop, budget = [], [], 20_000
    for size in shape[::-1]:
        length = int(rng.integers(1, min(size, max(1, min(budget, 300))) + 1))
        budget //= length
        first = int(rng.integers(0, size - length + 1))
        start.insert(0, first)
        stop.insert(0, first + length)
    region = Region(tuple(start), tuple(stop))
    dtype = fill(entry, Region(region.start, region.start)).dtype
    layout = rng.integers(4) if shape else 0
    if layout == 1:
        return entry, region, np.empty(region.shape[::-1], dtype).T
    if layout == 2:
        return entry, region, np.empty([2 * n for n in region.shape], dtype)[tuple(slice(None, None, 2) for _ in shape)]
    return entry, region, np.empty(region.shape, dtype)[::-1] if layout == 3 else np.empty(region.shape, dtype)


def differing(cases, seed, monkeypatch):
    """How many cases the C engine fills otherwise than NumPy, on any instruction set."""
    rng, count = np.random.default_rng(seed), 0
    for _ in range(cases):
        entry, region, out = draw_case(rng)
        monkeypatch.setenv("SEEDBED_ENGINE", "numpy")
        expected = fill(entry, region).tobytes()
        for name in engine.names():
            monkeypatch.setenv("SEEDBED_ENGINE", name)
            count += fill(entry, region, out).tobytes() != expected
    return count


@needs_c
def test_every_instruction_set_gives_the_references_bits(monkeypatch):
    assert differing(600, 0, monkeypatch) == 0


@needs_c
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize("flags", ["-O0", "-O3 -ffast-math -march=native", "-O3 -ffp-contract=fast -march=native"])
def test_no_way_of_compiling_changes_a_bit(flags, tmp_path, monkeypatch):
    part, made = tmp_path / "_engine.o", tmp_path / "_engine.so"
    include = sysconfig.get_paths()["include"]
    subprocess.run(["cc", *flags.split(), "-std=gnu11", "-fPIC", f"-I{include}", "-c", SOURCE, "-o", part], check=True)
    # Linked without the flags: linked with -ffast-math, a library makes its whole process flush subnormal numbers to 0.
    subprocess.run(["cc", "-shared", part, "-o", made], check=True)
    spec = importlib.util.spec_from_file_location("_engine", made)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(engine, "_engine", module)
    assert differing(200, 1, monkeypatch) == 0


@needs_c
def test_the_c_engine_is_the_one_in_use(monkeypatch):
    monkeypatch.delenv("SEEDBED_ENGINE", raising=False)
    assert engine.chosen() == engine.names()[0] != "numpy"
    (entry,) = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=(4,)),)), recipe=i.Normal(std=1.0))
    assert engine.fill(entry.start, "float32", entry.key, (4,), (0,), np.empty(4, np.float32))
    monkeypatch.setenv("SEEDBED_ENGINE", "numpy")
    assert not engine.fill(entry.start, "float32", entry.key, (4,), (0,), np.empty(4, np.float32))


def test_an_engine_that_is_not_here_is_an_error(monkeypatch):
    monkeypatch.setenv("SEEDBED_ENGINE", "quantum")
    with pytest.raises(EngineError, match=r"^SEEDBED_ENGINE=quantum: this engine is not here"):
        engine.chosen()


def test_without_the_c_file_numpy_is_in_use(monkeypatch):
    monkeypatch.delenv("SEEDBED_ENGINE", raising=False)
    monkeypatch.setattr(engine, "_engine", None)
    assert engine.chosen() == "numpy"
    monkeypatch.setenv("SEEDBED_ENGINE", "c")
    with pytest.raises(EngineError):
        engine.chosen()


def entry_of(shape, dtype="float32"):
    (entry,) = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=shape, dtype=dtype),)), recipe=i.Normal(std=1.0))
    return entry


def test_memory_that_is_read_only_is_refused_and_left_alone():
    out = np.zeros((4, 3), np.float32)
    out.flags.writeable = False
    with pytest.raises(RegionError, match="read-only"):
        fill(entry_of((4, 3)), out=out)
    assert not out.any()


def test_memory_that_is_misaligned_or_of_foreign_byte_order_gets_the_right_values():
    entry = entry_of((4, 3))
    expected = fill(entry)
    odd = np.zeros(49, np.uint8)[1:].view(np.float32).reshape(4, 3)
    assert (fill(entry, out=odd) == expected).all()
    with pytest.raises(RegionError):
        fill(entry, out=np.empty((4, 3), ">f4" if sys.byteorder == "little" else "<f4"))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 5), (1, 1, 1)])
def test_parameters_without_axes_or_elements_are_filled(shape):
    assert fill(entry_of(shape)).shape == shape


def test_counters_past_32_bits_are_their_own(monkeypatch):
    """The high word of a block counts: 2**34 elements on, the numbers are others."""
    entry, step = entry_of((2**36,)), 2**34
    pieces = [fill(entry, Region((n * step,), (n * step + 9,))) for n in range(4)]
    assert len({p.tobytes() for p in pieces}) == 4
    monkeypatch.setenv("SEEDBED_ENGINE", "numpy")
    assert all((fill(entry, Region((n * step,), (n * step + 9,))) == p).all() for n, p in enumerate(pieces))
