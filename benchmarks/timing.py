"""How a figure is taken: the best of many short repetitions, in bursts, in turns with its peers."""

import ctypes
import os
import time
from dataclasses import dataclass

import seedbed as sb
from seedbed import engine
from seedbed.fill import fill
from seedbed.region import Region

CACHE, MEMORY = {"float32": (512, 256), "bfloat16": (512, 512)}, {"float32": (4096, 4096), "bfloat16": (8192, 4096)}
"""Half a MB, which a processor's own cache holds, and 64 MB, which none does."""


@dataclass(frozen=True)
class Row:
    """Seconds that the same job took here and there, for so many values."""

    where: str
    filled: str
    ours: float
    peer: str
    theirs: float
    count: int


def best(jobs, seconds=0.6, least=3):
    """The shortest time of each job, all taken in turns of four, so that each finds its own data in cache.

    A job of more than a tenth of the time is not repeated within its turn.
    """
    times = [float("inf")] * len(jobs)
    end, turn = time.perf_counter() + seconds, 0
    while turn < least or time.perf_counter() < end:
        for number, job in enumerate(jobs):
            for _ in range(4):
                begin = time.perf_counter()
                job()
                took = time.perf_counter() - begin
                if turn:  # the first turn compiles, allocates and warms up
                    times[number] = min(times[number], took)
                if took > seconds / 10:
                    break
        turn += 1
    return times


def compare(where, filled, job, peers, count, seconds=0.6, least=3):
    """Rows of one job beside each of its peers, a mapping of names to jobs."""
    ours, *theirs = best([job, *peers.values()], seconds, least)
    return [Row(where, filled, ours, name, took, count) for name, took in zip(peers, theirs, strict=True)]


def entry(start, shape, dtype="float32"):
    (made,) = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=shape, dtype=dtype, axes=("out", "in")),)), recipe=start)
    return made


def ours(start, shape, dtype="float32", isa=None):
    """A job that fills one array, by one instruction set."""
    made = entry(start, shape, dtype)
    out = fill(made, Region.whole(shape))
    fastest = (engine.names() or ["numpy"])[0]

    def job():
        os.environ["SEEDBED_ENGINE"] = isa or fastest
        fill(made, out=out)

    return job


def memset(array):
    """A job that writes zeros as the C library does."""
    function = ctypes.CDLL(None).memset
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    return lambda: function(array.ctypes.data, 0, array.nbytes)
