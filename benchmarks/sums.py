"""How fast values are summed up to a fingerprint, beside reading the same bytes, in one process.

    python benchmarks/sums.py [FILE]

prints a table, and writes it to FILE. A file of the values is read from the system's cache, and not from the disk.
"""

import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from timing import MEMORY, Row, best, entry

import seedbed as sb
from seedbed import digest, engine
from seedbed.fill import fill, storage_dtype
from seedbed.initializers import Normal
from seedbed.materialize import BLOCK, processors
from seedbed.region import Region
from seedbed.store import load
from seedbed.store.load import Tensor

ALL = os.cpu_count() or 1
SHAPES = MEMORY | {"float64": (2048, 4096)}
BUFFER = 8 << 20
SECONDS = 5


def using(job, isa, threads=1):
    """A job by one engine, on so many threads."""

    def run():
        os.environ["SEEDBED_ENGINE"], os.environ["LOCAL_WORLD_SIZE"] = isa, str(ALL // threads)
        job()

    return run


def summing(plan, array, isa, threads=1):
    """A job that sums up an array, which is there already, or makes and sums up what is planned."""
    held = None if array is None else {"w": Tensor(plan["w"].spec.dtype, array.shape, array)}
    return using(lambda: digest.sums(plan, held), isa, threads)


def reading(array, pool, threads):
    """A job that only reads: the sum of the bytes, eight at a time."""
    parts = np.array_split(array.reshape(-1).view(np.uint64), threads * 8)
    return lambda: list(pool.map(np.sum, parts))


def through(path):
    """A job that reads a file into a buffer."""
    buffer = bytearray(BUFFER)

    def job():
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    return job


def rows(pool, threads, isa, folder):
    where = f"{threads} thread{'s'[: threads > 1]}"
    for dtype, shape in SHAPES.items():
        made = entry(Normal(std=0.02), shape, dtype)
        plan, array, out = sb.Plan((made,), made.seed), fill(made), fill(made)
        (file,) = sb.write(plan, folder / f"{dtype}.safetensors")
        wide = np.zeros((shape[0], 2 * shape[1]), storage_dtype(dtype))
        wide[:, : shape[1]] = array
        read = "np.sum, as uint64", reading(array, pool, threads)
        kinds = [
            ("in memory", summing(plan, array, isa, threads), *read),
            ("half the columns", summing(plan, wide[:, : shape[1]], isa, threads), *read),
        ]
        if threads == 1:
            others = [name for name in (*engine.names(), "numpy") if name != isa]
            kinds += [(f"in memory, {name}", summing(plan, array, name), *read) for name in others]
            alone = using(lambda made=made, out=out: filled(made, out), isa)
            kinds.append(("as planned", summing(plan, None, isa), "filled alone", alone))
            summed = using(lambda plan=plan, file=file: digest.sums(plan, load(file)), isa)
            kinds.append(("from a file", summed, "read into a buffer", through(file)))
        times = best([job for _, job, *_ in kinds] + [other for *_, other in kinds], SECONDS)
        for (name, _, peer, _), ours, theirs in zip(kinds, times, times[len(kinds) :], strict=False):
            yield Row(where, f"{dtype}, {name}", ours, peer, theirs, array.nbytes)


def filled(made, out):
    """All of an entry, in the blocks in which it is summed up."""
    high = max(1, BLOCK // out.shape[1])
    for first in range(0, out.shape[0], high):
        fill(made, Region((first, 0), (min(first + high, out.shape[0]), out.shape[1])), out[first : first + high])


def table(found, took):
    names = Path("/proc/cpuinfo").read_text().split("\n") if Path("/proc/cpuinfo").exists() else []
    processor = next((x.split(":")[1].strip() for x in names if "model name" in x), platform.processor())
    engines = ", ".join(engine.names()) or "numpy"
    yield f"{processor}, {ALL} threads, {platform.system()}; seedbed {sb.__version__}, engine {engines}; {took:.0f} seconds."
    yield ""
    yield "Ratio is the other's time divided by seedbed's: 0.5 is twice as long as only reading, or filling, takes."
    yield "The engine is the first unless another is named. All of 64 MB, which no processor's own cache holds."
    yield from ("", "| threads | summed up | GB/s | beside | GB/s | ratio |", "|---|---|---|---|---|---|")
    for row in found:
        a, b = row.count / row.ours / 1e9, row.count / row.theirs / 1e9
        yield f"| {row.where} | {row.filled} | {a:.2f} | {row.peer} | {b:.2f} | {a / b:.2f} |"


def main():
    begin, isa, found = time.perf_counter(), (engine.names() or ["numpy"])[0], []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(processors()) as pool:
        for threads in dict.fromkeys((1, ALL)):
            found += rows(pool, threads, isa, Path(folder))
    text = "\n".join(table(found, time.perf_counter() - begin)) + "\n"
    print(text)
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(text)


if __name__ == "__main__":
    main()
