"""How fast parameters are filled, beside torch, NumPy and memset, in one process; takes a file for the table.

Each figure is the best of many short repetitions, taken in turns with its peer, so that a busy machine slows both.
"""

import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

import seedbed as sb
from seedbed import engine
from seedbed import initializers as i
from seedbed.fill import Region, fill
from seedbed.frameworks.torch.place import Memory
from seedbed.materialize import run

CACHE, MEMORY = (512, 256), (8192, 8192)
B4 = i.Mixture([(0.25, i.Uniform(low=5, high=10)), (0.5, i.Zeros()), (0.25, i.Uniform(low=-10, high=-5))])


def best(jobs, seconds=1.5):
    """The shortest time of each job, all taken in turns of four, so that each finds its own data in cache."""
    times = [float("inf")] * len(jobs)
    for job in jobs:
        job()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for number, job in enumerate(jobs):
            for _ in range(4):
                begin = time.perf_counter()
                job()
                times[number] = min(times[number], time.perf_counter() - begin)
    return times


def entry(start, shape, dtype="float32"):
    (made,) = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=shape, dtype=dtype),)), recipe=start)
    return made


def ours(start, shape=CACHE, dtype="float32", isa=None):
    made = entry(start, shape, dtype)
    out = fill(made, Region.whole(shape))

    def job():
        os.environ["SEEDBED_ENGINE"] = isa or engine.names()[0]
        fill(made, out=out)

    return job


def b4_by_masks(w):
    w.uniform_(-10, 10)
    w *= w.abs() >= 5


def in_cache(rows):
    torch.set_num_threads(1)
    wide, half, generator = torch.empty(CACHE), torch.empty(CACHE, dtype=torch.bfloat16), np.random.default_rng()
    numbers, same = np.empty(CACHE, np.float32), np.empty(CACHE, np.float32)
    normal, cut, flat = i.Normal(std=0.02), i.TruncatedNormal(std=0.02), i.Uniform(low=-0.5, high=0.5)
    init = torch.nn.init
    pairs = [
        ("normal float32", ours(normal), "torch normal_", lambda: wide.normal_(0, 0.02)),
        ("normal float32, AVX2", ours(normal, isa="avx2"), "torch normal_", lambda: wide.normal_(0, 0.02)),
        ("normal float32, baseline", ours(normal, isa="baseline"), "torch normal_", lambda: wide.normal_(0, 0.02)),
        ("normal float32, NumPy engine", ours(normal, isa="numpy"), "torch normal_", lambda: wide.normal_(0, 0.02)),
        (
            "normal float32",
            ours(normal),
            "NumPy standard_normal",
            lambda: generator.standard_normal(out=numbers, dtype=np.float32),
        ),
        ("normal bfloat16", ours(normal, dtype="bfloat16"), "torch normal_ bfloat16", lambda: half.normal_(0, 0.02)),
        ("normal float16", ours(normal, dtype="float16"), "torch normal_ bfloat16", lambda: half.normal_(0, 0.02)),
        (
            "truncated normal, 2 std",
            ours(cut),
            "torch trunc_normal_",
            lambda: init.trunc_normal_(wide, std=0.02, a=-0.04, b=0.04),
        ),
        ("uniform float32", ours(flat), "torch uniform_", lambda: wide.uniform_(-0.5, 0.5)),
        ("mixture of three", ours(B4), "torch, masks", lambda: b4_by_masks(wide)),
        ("constant", ours(i.Ones()), "memset", lambda: same.fill(0)),
    ]
    for name, job, peer, other in pairs:
        a, b = best([job, other])
        rows.append(("in cache, 1 thread", name, a, peer, b, CACHE[0] * CACHE[1]))


def layouts(rows):
    made, count = entry(i.Normal(std=0.02), (4096, 4096)), 64 * 1024
    shard, square = np.empty((1024, 64), np.float32), np.empty((256, 256), np.float32)
    turned = np.empty((256, 256), np.float32).T
    whole = entry(i.Normal(std=0.02), (256, 256))
    corner = Region((0, 128), (1024, 192))
    os.environ["SEEDBED_ENGINE"] = engine.names()[0]
    a, b, c = best(
        [lambda: fill(made, corner, shard), lambda: fill(whole, out=square), lambda: fill(whole, out=turned)]
    )
    rows.append(("in cache, 1 thread", "64 columns of 4096", a, "whole rows", b, count))
    rows.append(("in cache, 1 thread", "transposed destination", c, "whole rows", b, count))


def to_memory(rows):
    os.environ["SEEDBED_ENGINE"] = engine.names()[0]
    torch.set_num_threads(os.cpu_count() or 1)
    warm = torch.zeros(MEMORY)
    for threads in (1, os.cpu_count() or 1):
        jobs = []
        for start in (i.Normal(std=0.02), i.Uniform(low=-0.5, high=0.5)):
            made = entry(start, MEMORY)
            jobs.append(lambda made=made: run([(made, Memory(warm, "float32"))], threads=threads))  # noqa: B023 -- run at once
        times = best([*jobs, warm.zero_, lambda: warm.normal_(0, 0.02)], 12)
        for name, took in zip(("normal float32", "uniform float32"), times, strict=False):
            rows.append(
                (f"to memory, {threads} threads", name, took, "torch zero_, all threads", times[2], warm.numel())
            )
        rows.append(
            (f"to memory, {threads} threads", "normal float32", times[0], "torch normal_", times[3], warm.numel())
        )


def main():
    rows = []
    for part in (in_cache, layouts, to_memory):
        part(rows)
    processor = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().split("\n") if "model name" in x), "?"
    )
    versions = f"seedbed {sb.__version__}, engine {', '.join(engine.names())}; torch {torch.__version__}, NumPy {np.__version__}"
    lines = [
        f"{processor}, {os.cpu_count()} threads, {platform.system()}; {versions}.",
        "",
        "| where | filled | ns a value | against | ns a value | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for where, name, a, peer, b, count in rows:
        lines.append(f"| {where} | {name} | {a / count * 1e9:.2f} | {peer} | {b / count * 1e9:.2f} | {b / a:.2f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text)


if __name__ == "__main__":
    main()
