"""The C engine without Python, here and on aarch64: NEON gives the bits of the reference."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.cases import GUARD, SOURCES, draw_case, summed, using

from seedbed import engine
from seedbed.fill import fill

BARE = Path(__file__).with_name("bare")
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
CROSS, OBJDUMP = "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objdump"
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
needs_cross = pytest.mark.skipif(not shutil.which(CROSS), reason=f"needs {CROSS}, a compiler for another machine")


class Recorder:
    """In the place of the extension: notes each call, fills nothing and sums nothing up."""

    def __init__(self):
        self.calls, self.sums = [], []

    def names(self):
        return ["baseline"]

    def fill(self, *arguments):
        self.calls.append(arguments)

    def sum(self, *arguments):
        self.sums.append(arguments)
        return 0


def jobs(count, seed, monkeypatch):
    """What the engine is asked for in random cases, all memory as NumPy leaves it, and NumPy's sum of the region."""
    rng, recorder, made = np.random.default_rng(seed), Recorder(), []
    monkeypatch.setattr(engine, "_engine", recorder)
    while len(made) < count:
        case, before = draw_case(rng), len(recorder.calls)
        if case.entry.start.whole:  # computed from what the engine leaves, which is nothing here
            continue
        with using("c"):
            fill(case.entry, case.region, case.out)
        if len(recorder.calls) != before + 1:  # several, for an overlay; none, for what NumPy alone fills
            continue
        case.owner.reshape(-1).view(np.uint8)[...] = GUARD
        with using("c"):
            summed(case, case.out)
        with using("numpy"):
            fill(case.entry, case.region, case.out)
            total = summed(case, case.out)
        _, key, parts, mixture, kind, first, axes, _, address = recorder.calls[-1]
        sized = b"".join((key, parts, axes))
        numbers = [int(mixture), kind, first, address - case.owner.ctypes.data, case.owner.nbytes]
        made.append(struct.pack("<3Q", len(key), len(parts), len(axes)) + sized + struct.pack("<5Q", *numbers))
        _, item, place, steps, _ = recorder.sums[-1]
        made[-1] += struct.pack("<4Q", item, place, len(steps), total) + steps + case.owner.tobytes()
    table = engine._table().tobytes()
    return struct.pack("<Q", len(table)) + table + struct.pack("<Q", count) + b"".join(made)


def compiled(compiler, folder, *flags):
    part, program = folder / "bare.o", folder / "bare"
    included = [word for source in SOURCES for word in ("-include", source)]
    command = [compiler, "-std=gnu11", *flags, f"-I{BARE}", *included, "-c", BARE / "main.c", "-o", part]
    subprocess.run(command, check=True)
    subprocess.run([compiler, "-static", part, "-o", program], check=True)  # with no flag that changes arithmetic
    return program


def outcome(command, given):
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode().split("\n")


@needs_cc
def test_without_python_the_engine_gives_the_references_bits(tmp_path, monkeypatch):
    program = compiled("cc", tmp_path, "-O1", *WARNINGS)
    names = engine.names() or ["baseline"]
    assert outcome([program, *names], jobs(300, 0, monkeypatch)) == [*names, "300 jobs give the bits expected", ""]


@needs_cross
def test_it_compiles_for_aarch64_without_a_warning_and_uses_its_vectors(tmp_path):
    compiled(CROSS, tmp_path, "-O3", *WARNINGS)
    listing = subprocess.run([OBJDUMP, "-d", tmp_path / "bare.o"], capture_output=True, check=True).stdout.decode()
    lines = [line.split("\t")[2:] for line in listing.split("\n")]
    for what, lanes in (("add", ".4s"), ("eor", ".16b"), ("scvtf", ".4s"), ("fmul", ".4s")):
        assert any(line[:1] == [what] and lanes in line[1] for line in lines), f"no {what} of vectors"


@needs_cross
@pytest.mark.skipif(not QEMU, reason="needs qemu-aarch64, which runs programs of that machine")
@pytest.mark.parametrize("flags", ["-O3", "-O0", "-O3 -ffast-math", "-O3 -ffp-contract=fast"])
def test_neon_gives_the_references_bits(flags, tmp_path, monkeypatch):
    program = compiled(CROSS, tmp_path, *flags.split())
    count = 300 if flags == "-O3" else 60
    given = jobs(count, 1, monkeypatch)
    assert outcome([QEMU, program, "baseline"], given) == ["baseline", f"{count} jobs give the bits expected", ""]
