"""The C engine gives the bits of the reference: on every instruction set, build, dtype, region and layout."""

import importlib.util
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.cases import BUILDS, build, difference, draw_case

import seedbed as sb
from seedbed import engine
from seedbed import initializers as i
from seedbed.errors import EngineError, RegionError
from seedbed.fill import fill
from seedbed.region import Region

SCRIPT = Path(__file__).parents[1] / "scripts" / "same_bits.py"
needs_c = pytest.mark.skipif(not engine.names(), reason="the C engine was not built: no compiler at install")
needs_compiler = pytest.mark.skipif(not (engine.names() and shutil.which("cc")), reason="needs a C compiler")


def first_difference(cases, seed):
    """A sentence on the first case that the C engine fills otherwise than NumPy, on any instruction set."""
    rng = np.random.default_rng(seed)
    return next(filter(None, (difference(draw_case(rng)) for _ in range(cases))), "")


@needs_c
def test_every_instruction_set_gives_the_references_bits():
    assert first_difference(600, 0) == ""


@needs_compiler
@pytest.mark.parametrize("name", [name for name in BUILDS if name != "sanitized"])
def test_no_way_of_compiling_changes_a_bit(name, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("_engine", build(BUILDS[name], tmp_path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(engine, "_engine", module)
    assert first_difference(200, 1) == ""


@needs_compiler
def test_the_script_compares_the_sanitized_build():
    """In a process that ends at the first access outside what the engine was given."""
    command = [sys.executable, SCRIPT, "200", "2", "--build", "sanitized"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("sanitized: 200 cases of seed 2 give NumPy's bits on every instruction set; calls: ")


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


def test_threads_that_begin_together_are_given_one_table(monkeypatch):
    plain, barrier, found = engine.threefry.table, threading.Barrier(8), []

    def slow():
        time.sleep(0.05)
        return plain()

    def first():
        barrier.wait()
        found.append(engine._table_address())

    monkeypatch.setattr(engine.threefry, "table", slow)
    engine._made_table.cache_clear()
    engine._table_address.cache_clear()
    threads = [threading.Thread(target=first) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {engine._address(engine._table())}, "an address of memory that is freed"
