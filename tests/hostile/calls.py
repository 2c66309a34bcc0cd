"""Thousands of hostile calls of what fills memory: every one succeeds rightly or raises, and writes nowhere else.

    python tests/hostile/calls.py [calls] [seed] [file of the engine]

Run in a process of its own, best with an engine that ends it at the first access out of bounds.
"""

import importlib.util
import math
import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.cases import GUARD, draw_memory, simple_initializers, using

import seedbed as sb
from seedbed import engine
from seedbed import initializers as i
from seedbed.errors import SeedbedError
from seedbed.fill import fill, storage_dtype
from seedbed.region import Region

NAN, INF = float("nan"), float("inf")
ODD = [
    None, True, -1, 0, 1, 2, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 2**70, -(2**63), 0.5, NAN, INF,
    "x", b"x", "", (), [1], np.int64(5), np.uint8(3), np.float32(2), np.array([1, 2]), object(), 10**5000,
]  # fmt: skip
PYTHONS = (TypeError, ValueError, OverflowError, struct.error, AttributeError, KeyError)
"""What functions that are not for users may raise; the rest is a `SeedbedError`."""
STEP = 50_000
"""Elements that are filled; regions beyond need more memory than there is."""


def odd(rng, usual, often=0.05):
    return ODD[rng.integers(len(ODD))] if rng.random() < often else usual


def sizes_of(rng):
    if rng.random() < 0.1:
        return tuple(int(2 ** rng.integers(0, 63)) for _ in range(rng.integers(0, 4)))
    return tuple(odd(rng, int(rng.integers(0, 9))) for _ in range(70 if rng.random() < 0.01 else rng.integers(0, 5)))


def box_of(rng, sizes):
    """Any numbers, most often ones inside, now and then of another count of axes."""
    ends = []
    for size in sizes:
        usual = type(size) is int and 0 <= size < 2**63
        pair = sorted(int(x) for x in rng.integers(0, size, 2, endpoint=True)) if usual else (0, 1)
        first = min(pair[0], 2**63 - 4)
        ends.append((odd(rng, first, 0.02), odd(rng, min(pair[1], first + 3), 0.02)))
    return tuple(a for a, _ in ends[: len(ends) - (rng.random() < 0.02)]), tuple(b for _, b in ends)


def memory_of(rng, shape, dtype):
    """All of some memory, and what is handed over: most often an array that suits."""
    if rng.random() < 0.1:
        dtype = np.dtype(str(rng.choice(["float64", "float16", "uint8", ">f4", "<f4", "object", "V2", "complex64"])))
    if rng.random() < 0.05:
        shape = tuple(rng.permutation(shape).tolist()) + (1,) * int(rng.integers(2))
    if dtype.hasobject:
        return None, np.empty(shape, dtype)
    owner, out = draw_memory(rng, shape, dtype)
    kind = rng.random()
    if kind < 0.08:
        out.flags.writeable = False
    elif kind < 0.16:  # misaligned
        owner = np.full(out.nbytes + 64, GUARD, np.uint8)
        out = owner[1 : 1 + out.nbytes].view(dtype).reshape(shape) if out.nbytes else out
    elif kind < 0.2:
        return None, odd(rng, out.tolist(), 0.5)
    elif kind < 0.24:
        return None, np.frombuffer(bytes(max(out.nbytes, dtype.itemsize)), dtype)[: out.size]  # not ours to write
    return owner, out


def outside_is_untouched(owner, out):
    if owner is None or not isinstance(out, np.ndarray):
        return True
    if out.flags.writeable and out.size:
        out[...] = np.full(out.itemsize, GUARD, np.uint8).view(out.dtype)[0]
    return bool((np.ascontiguousarray(owner).reshape(-1).view(np.uint8) == GUARD).all())


def call_fill(rng):
    """The user's way: from arguments to values."""
    shape, dtype = sizes_of(rng), str(rng.choice([*engine.TYPES, "float8_e5m2"]))
    spec = sb.ParamSpec(path="w", shape=shape, dtype=odd(rng, dtype, 0.02))
    start = simple_initializers(rng)[rng.integers(11)]
    start = i.Normal(mean=odd(rng, 0.0, 0.2), std=odd(rng, 1.0, 0.2)) if rng.random() < 0.1 else start
    (entry,) = sb.plan(sb.Specs((spec,)), recipe=start, seed=odd(rng, int(rng.integers(2**63)), 0.03))
    if rng.random() < 0.02:
        return fill(entry, odd(rng, None, 1.0))
    region = Region(*box_of(rng, spec.sizes))
    if not region.within(spec.sizes) or len(region.shape) > 64:
        return fill(entry, region)
    if max(region.shape, default=0) > STEP or math.prod(region.shape) > STEP:
        return fill(entry, region) if math.prod(region.shape) not in range(1, 2**58) else None
    owner, out = memory_of(rng, region.shape, storage_dtype(spec.dtype))
    try:
        got = fill(entry, region, out)
        with using("numpy"):
            assert got is out or out is None
            assert got.tobytes() == fill(entry, region).tobytes(), (entry, region)
    finally:
        assert outside_is_untouched(owner, out), (entry, region)
    return got


def call_engine(rng):
    """One stage further in, where arguments are not judged."""
    shape = tuple(int(n) for n in rng.integers(0, 9, rng.integers(0, 4)))
    dtype = odd(rng, str(rng.choice(list(engine.TYPES))), 0.03)
    owner, out = memory_of(rng, shape, storage_dtype(dtype) if dtype in list(engine.TYPES) else np.dtype("f4"))
    key = tuple(odd(rng, int(rng.integers(2**32)), 0.02) for _ in range(4))
    whole = tuple(odd(rng, n + 3, 0.02) for n in shape)
    corner = tuple(odd(rng, 1, 0.02) for _ in shape)
    start = simple_initializers(rng)[rng.integers(11)]
    try:
        return engine.fill(start if rng.random() < 0.95 else i.Orthogonal(), dtype, key, whole, corner, out)
    finally:
        assert outside_is_untouched(owner, out), (start, dtype, whole, corner)


def call_c(rng):
    """The extension: structures of any bytes and any length; addresses are the caller's word."""
    table, memory = engine._table(), np.full(4096 + 64, GUARD, np.uint8)

    def pick(*usual, odd):
        return int(rng.choice(odd if rng.random() < 0.06 else usual))

    parts = rng.bytes(pick(32, 64, 512, odd=[0, 5, 33, 544, 6400]))
    key = rng.bytes(pick(16, odd=[0, 15, 17, 32]))
    count = pick(1, 2, 3, odd=[0, 33])
    axes = [
        (int(rng.integers(1, 5)), int(rng.integers(-(2**40), 2**40)), int(rng.choice([8, 16, 0]))) for _ in range(count)
    ]
    if axes and rng.random() < 0.1:
        axes[rng.integers(len(axes))] = (int(rng.choice([0, -1, -(2**62)])), 1, 8)
    packed = b"".join(struct.pack("=3q", *axis) for axis in axes) + b"\0" * pick(0, odd=[3, 23])
    arguments = [
        ["avx1024", "", "a\0b", *engine.names()][pick(*range(3, 3 + len(engine.names())), odd=[0, 1, 2])], key, parts,
        bool(rng.integers(2)), pick(0, 1, 2, 3, odd=[4, -1, 2**31 - 1]), int(rng.integers(-(2**62), 2**62)), packed,
        table.ctypes.data if rng.random() < 0.95 else 0, memory.ctypes.data + 32 if rng.random() < 0.95 else 0,
    ]  # fmt: skip
    if rng.random() < 0.1:
        arguments[rng.integers(7)] = odd(rng, None, 1.0)
    if rng.random() < 0.05:
        arguments = arguments[: rng.integers(len(arguments))]
    try:
        return engine._engine.fill(*arguments)
    finally:
        assert (memory[:32] == GUARD).all()
        assert (memory[32 + 4 * 16 * 4 + 8 :] == GUARD).all()


def main(calls=3000, seed=0, file=""):
    if file:
        spec = importlib.util.spec_from_file_location("_engine", file)
        engine._engine = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(engine._engine)
    rng, done = np.random.default_rng(int(seed)), {}
    kinds = {call_fill: (SeedbedError, MemoryError), call_engine: PYTHONS}
    kinds |= {call_c: (TypeError, ValueError, OverflowError)} if engine.names() else {}
    for number in range(int(calls)):
        call = list(kinds)[number % len(kinds)]
        with using(["numpy", *engine.names()][number // 3 % (1 + len(engine.names()))]):
            try:
                call(rng)
                outcome = "done"
            except kinds[call]:
                outcome = "raised"
        done[call.__name__, outcome] = done.get((call.__name__, outcome), 0) + 1
    sys.stdout.write("; ".join(f"{name} {what} {count}" for (name, what), count in sorted(done.items())) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
