"""How fast a start is streamed to disk, beside `pwrite` of the same bytes from memory, in one process.

    python benchmarks/disk.py [FILE] [FOLDER]

prints a table, and writes it to FILE; a checkpoint of one gigabyte goes to FOLDER again and again. Both reserve the
file first and end with fsync. `pwrite` has one thread, and all bytes at hand before it begins.
"""

import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import Row

import seedbed as sb
from seedbed.fill import fill
from seedbed.initializers import Normal

ALL = os.cpu_count() or 1
BLOCK, TURNS = 8 << 20, 7
SHAPES = {"float32": (4_000_000, 4), "bfloat16": (8_000_000, 4)}


def plan_of(dtype):
    specs = (sb.ParamSpec(path=f"h.{n}.w", shape=SHAPES[dtype], dtype=dtype, axes=("out", "in")) for n in range(16))
    return sb.plan(sb.Specs(tuple(specs)), recipe=Normal(std=0.02))


def pwrite(data, path, early):
    """A job that writes bytes that are there; `early` has the system begin with the disk at once."""

    def job():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.posix_fallocate(descriptor, 0, data.nbytes)
        for place in range(0, data.nbytes, BLOCK):
            os.pwrite(descriptor, data[place : place + BLOCK], place)
            if early:
                os.posix_fadvise(descriptor, place, BLOCK, os.POSIX_FADV_DONTNEED)
        os.fsync(descriptor)
        os.close(descriptor)

    return job


def taken(jobs, folder):
    """The shortest time of each job, in turns; what it wrote is removed in between, and not timed."""
    times = [float("inf")] * len(jobs)
    for _ in range(TURNS):
        for number, job in enumerate(jobs):
            (folder / "out").mkdir()
            begin = time.perf_counter()
            job()
            times[number] = min(times[number], time.perf_counter() - begin)
            shutil.rmtree(folder / "out")
    return times


def rows(folder):
    for dtype in SHAPES:
        plan = plan_of(dtype)
        data = np.concatenate([fill(entry).reshape(-1).view(np.uint8) for entry in plan])
        files = {"one file": "5GB", "files of 200 MB": "200MB"}
        out = folder / "out" / "x"
        jobs = [lambda size=size: sb.write(plan, out, shard_size=size) for size in files.values()]  # noqa: B023 -- at once
        times = taken([*jobs, pwrite(data, out, early=False), pwrite(data, out, early=True)], folder)
        peers = dict(zip(("pwrite", "pwrite, disk begun early"), times[len(files) :], strict=True))
        for name, took in zip(files, times, strict=False):
            for peer, other in peers.items():
                yield Row("disk", f"Normal, {dtype}, {name}", took, peer, other, data.nbytes)


def system_of(folder):
    """The kind of file system that a folder is on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [m for m in mounts if folder.resolve().is_relative_to(m[1])]
    return max(holding, key=lambda m: len(m[1]))[2]


def table(found, folder, took):
    names = Path("/proc/cpuinfo").read_text().split("\n")
    processor = next((x.split(":")[1].strip() for x in names if "model name" in x), platform.processor())
    yield f"{processor}, {ALL} threads, {platform.system()}, {system_of(folder)}; seedbed {sb.__version__}; {took:.0f} seconds."
    yield ""
    yield "Ratio is the other's time divided by seedbed's: above 1, seedbed is faster though it has to make the bytes first."
    yield from ("", "| written | GB/s | beside | GB/s | ratio |", "|---|---|---|---|---|")
    for row in found:
        a, b = row.count / row.ours / 1e9, row.count / row.theirs / 1e9
        yield f"| {row.filled} | {a:.2f} | {row.peer} | {b:.2f} | {a / b:.2f} |"


def main():
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as name:
        folder = Path(name)
        found = list(rows(folder))
        text = "\n".join(table(found, folder, time.perf_counter() - begin)) + "\n"
    print(text)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text)


if __name__ == "__main__":
    main()
