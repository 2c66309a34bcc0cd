"""How fast parameters are filled, beside torch, NumPy, JAX and memset, in one process.

    python benchmarks/fills.py [FILE] [--large]

prints a table, and writes it to FILE. `--large` adds orthogonal matrices of 4096 x 4096, which take minutes.
"""

import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from matrices import orthogonal, sparse, threadpool_limits
from peers import CONSTANT, STARTS, in_jax, in_numpy, in_torch, jax
from timing import CACHE, MEMORY, Row, best, compare, entry, memset, ours

import seedbed as sb
from seedbed import engine
from seedbed.fill import fill
from seedbed.frameworks.torch.place import Memory
from seedbed.materialize import run
from seedbed.region import Region

ALL = os.cpu_count() or 1
NORMAL = STARTS["Normal"]


def in_cache():
    torch.set_num_threads(1)
    rows = []
    for dtype, shape in CACHE.items():
        tensor, array = torch.empty(shape, dtype=getattr(torch, dtype)), np.empty(shape, np.float32)
        for name, start in STARTS.items():
            found = [in_torch(name, tensor), in_jax(name, shape, dtype)]
            if dtype == "float32":
                found.insert(1, in_numpy(name, array))
                found += [("memset", memset(array))] if name in CONSTANT else []
            peers = dict(peer for peer in found if peer)
            rows += compare("in cache", f"{name}, {dtype}", ours(start, shape, dtype), peers, tensor.numel())
    return rows


def instruction_sets():
    torch.set_num_threads(1)
    rows, tensor = [], torch.empty(CACHE["float32"])
    for name in ("Uniform", "Normal", "TruncatedNormal", "Mixture of three"):
        for isa in (*engine.names(), "numpy"):
            job, peers = ours(STARTS[name], CACHE["float32"], isa=isa), dict([in_torch(name, tensor)])
            rows += compare("in cache", f"{name}, float32, {isa}", job, peers, tensor.numel(), 0.4)
    return rows


def layouts():
    """Part of the columns of a matrix, and a destination whose axes are the other way around."""
    torch.set_num_threads(1)
    os.environ["SEEDBED_ENGINE"] = (engine.names() or ["numpy"])[0]
    rows = []
    for dtype, held in (("float32", np.float32), ("bfloat16", np.uint16)):
        wide, square = entry(NORMAL, (4096, 4096), dtype), entry(NORMAL, (256, 256), dtype)
        shard, plain, turned = np.empty((1024, 64), held), np.empty((256, 256), held), np.empty((256, 256), held).T
        corner, tensor = Region((0, 128), (1024, 192)), torch.empty((256, 256), dtype=getattr(torch, dtype))
        jobs = [
            lambda: fill(wide, corner, shard),  # noqa: B023 -- timed at once
            lambda: fill(square, out=turned),  # noqa: B023
            lambda: fill(square, out=plain),  # noqa: B023
            lambda: tensor.normal_(0, 0.02),  # noqa: B023
        ]
        columns, across, whole, theirs = best(jobs)
        for name, took in (("64 columns of 4096", columns), ("transposed destination", across)):
            for peer, other in (("seedbed, whole rows", whole), ("torch normal_, whole rows", theirs)):
                rows.append(Row("in cache", f"Normal, {dtype}, {name}", took, peer, other, 256 * 256))
    return rows


def to_memory(threads):
    os.environ["SEEDBED_ENGINE"] = (engine.names() or ["numpy"])[0]
    torch.set_num_threads(threads)
    rows, where = [], f"to memory, {threads} thread{'s'[: threads > 1]}"
    for dtype, shape in MEMORY.items():
        warm = torch.zeros(shape, dtype=getattr(torch, dtype))
        array = np.zeros(shape, np.float32)
        for name in ("Uniform", "Normal", "TruncatedNormal", "Mixture of three", "Zeros"):
            place = [(entry(STARTS[name], shape, dtype), Memory(warm, dtype))]
            found = [in_torch(name, warm) if name != "Zeros" else None]
            if threads == 1:
                found.append(in_numpy(name, array) if dtype == "float32" else None)
                found.append(in_jax(name, shape, dtype))
            peers = dict(peer for peer in found if peer)
            peers[f"torch zero_, {threads} thread{'s'[: threads > 1]}"] = warm.zero_
            job = lambda place=place: run(place, threads=threads)  # noqa: E731
            rows += compare(where, f"{name}, {dtype}", job, peers, warm.numel(), 1.5)
    return rows


def table(rows, took):
    names = Path("/proc/cpuinfo").read_text().split("\n") if Path("/proc/cpuinfo").exists() else []
    processor = next((x.split(":")[1].strip() for x in names if "model name" in x), platform.processor())
    engines = ", ".join(engine.names()) or "numpy"
    jax_version = f", JAX {jax.__version__}" if jax else ""
    yield (
        f"{processor}, {ALL} threads, {platform.system()}; seedbed {sb.__version__}, engine {engines}; "
        f"torch {torch.__version__}, NumPy {np.__version__}{jax_version}; {took:.0f} seconds."
    )
    yield ""
    yield "Ratio is the other's time divided by seedbed's: above 1, seedbed is faster. In cache, all have one thread."
    yield "JAX is compiled, has one thread, and makes a new array each time: to memory, that is new memory."
    if not jax:
        yield "JAX is not installed, so it is not in the table."
    if not threadpool_limits:
        yield "threadpoolctl is not installed, so orthogonal matrices are not in the table."
    yield from ("", "| where | filled | ns a value | beside | ns a value | ratio |", "|---|---|---|---|---|---|")
    for row in rows:
        a, b = row.ours / row.count * 1e9, row.theirs / row.count * 1e9
        yield f"| {row.where} | {row.filled} | {a:.2f} | {row.peer} | {b:.2f} | {b / a:.2f} |"


def main():
    words = [word for word in sys.argv[1:] if word != "--large"]
    sizes = (1024, 2048, 4096) if "--large" in sys.argv else (1024, 2048)
    begin = time.perf_counter()
    rows = [*in_cache(), *instruction_sets(), *layouts()]
    for threads in dict.fromkeys((1, ALL)):
        rows += to_memory(threads)
    rows += [*(orthogonal(sizes) if threadpool_limits else []), *sparse()]
    text = "\n".join(table(rows, time.perf_counter() - begin)) + "\n"
    print(text)
    if words:
        Path(words[0]).write_text(text)


if __name__ == "__main__":
    main()
