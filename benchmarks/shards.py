"""How fast shards are filled: several processes beside one, columns beside rows.

    python benchmarks/shards.py [FILE]

prints a table, and writes it to FILE. Every process and every job has one thread.
"""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from timing import best, entry
from torch import nn
from torch.distributed.fsdp import fully_shard

import seedbed as sb
from seedbed import engine
from seedbed.fill import fill, pieces
from seedbed.initializers import Normal
from seedbed.materialize import BLOCK
from seedbed.shard import Shard

SIDE, LAYERS, TURNS = 4096, 16, 9
PROCESSES = 2


def cut(shard, start, dtype):
    """A job that fills a shard's memory."""
    made = entry(start, (2 * SIDE, 2 * SIDE), dtype)
    out = np.empty(shard.shape, "float32" if dtype == "float32" else "uint16")

    def job():
        for there, here in pieces(made, BLOCK, shard):
            fill(made, there, out[here.slices])

    return job


def columns():
    """Shards of one matrix by columns and both, beside as many values by rows."""
    whole, rows = Shard.whole((2 * SIDE, 2 * SIDE)), []
    for dtype in ("float32", "bfloat16"):
        for parts in (8, 64, 512):
            cuts = {
                "columns": whole.cut(1, parts, 3),
                "both": whole.cut(0, parts // 4, 1).cut(1, 4, 3),
                "strided rows": whole.cut(0, parts, 3, pieces=8),
            }
            jobs = {name: cut(shard, Normal(std=0.02), dtype) for name, shard in cuts.items()}
            by_rows, *times = best([cut(whole.cut(0, parts, 3), Normal(std=0.02), dtype), *jobs.values()], 2)
            rows += [
                (f"{name}, 1 of {parts}, {dtype}", took, "rows", by_rows, took / by_rows)
                for name, took in zip(jobs, times, strict=True)
            ]
    return rows


class Stack(nn.Module):
    """Large matrices, one after another."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(SIDE, SIDE) for _ in range(LAYERS))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def member():
    """One of the processes: fills its shard while the others fill theirs; the first then fills the whole alone."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    with sb.deferred():
        model, alone = Stack(), Stack()
    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    plan = sb.plan(model)
    plan.materialize(model, threads=1)
    shards, wholes = [], []
    for turn in range(TURNS):
        dist.barrier()
        shards.append(once(plan, model))
        dist.barrier()
        if dist.get_rank() == 0:
            wholes.append(once(plan, alone))
        if turn == 0:  # memory is touched for the first time
            shards.clear()
            wholes.clear()
    every = [None] * dist.get_world_size()
    dist.all_gather_object(every, min(shards))
    if dist.get_rank() == 0:
        sys.stdout.write("\n" + json.dumps([max(every), min(wholes)]) + "\n")
        sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()


def once(plan, model):
    """The time of one start."""
    begin = time.perf_counter()
    plan.materialize(model, threads=1)
    return time.perf_counter() - begin


def processes():
    """Several processes that fill one model together, beside one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    told = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(  # noqa: S603 -- this file
        [*command, __file__, "--member"], env=os.environ | told, stdout=subprocess.PIPE, text=True, check=True
    )
    shard, whole = json.loads(next(line for line in done.stdout.split("\n") if line.startswith("[")))
    filled = f"1 of {PROCESSES} processes, {LAYERS} x {SIDE} x {SIDE}, float32"
    return [(filled, shard, f"one process, divided by {PROCESSES}", whole / PROCESSES, shard * PROCESSES / whole)]


def main():
    if "--member" in sys.argv:
        member()
        return
    torch.set_num_threads(1)
    rows = [*processes(), *columns()]
    machine = f"{platform.machine()}, {os.cpu_count()} threads, {platform.system()}"
    text = "\n".join(
        [
            f"{machine}; seedbed {sb.__version__}, engine {', '.join(engine.names())}; torch {torch.__version__}.",
            "",
            "Every process has one thread. Ratio is the time of what is filled divided by that of what is beside it.",
            f"The matrix of the cuts is {2 * SIDE} x {2 * SIDE}.",
            "",
            "| filled | ms | beside | ms | ratio |",
            "|---|---|---|---|---|",
            *(
                f"| {filled} | {took * 1e3:.2f} | {beside} | {other * 1e3:.2f} | {ratio:.2f} |"
                for filled, took, beside, other, ratio in rows
            ),
            "",
        ]
    )
    print(text)
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(text)


if __name__ == "__main__":
    main()
