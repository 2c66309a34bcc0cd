"""One shard of Llama 3 70B, built, laid out, planned, started and checked in little more memory than it takes.

    python scripts/evidence/seventy.py [--processes 512] [--rank 37] [--layers 80] [--spare 512] [--page]

One process stands in for one of many: the process group sends nothing. After the imports its address space is limited
(RLIMIT_AS) to what is mapped then, the shard, and `--spare` MB; nothing after that may map more. `--page` writes
docs/evidence/seventy.md.
"""

import argparse
import itertools
import json
import resource
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaConfig, LlamaForCausalLM

import seedbed as sb
import seedbed.fill  # NumPy and the engine are imports too

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "seventy.md"
MB = 1_000_000
CONFIG = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
HEAD = """# One shard of 70B parameters

Made by `python scripts/evidence/seventy.py --page`. One process, two threads, stands in for one of {processes}: the model is
built in `deferred()`, every layer and the root are given to `fully_shard`, `sb.plan` and its `materialize` start the shard,
`sb.check` reads it. From the imports on the address space is limited to what was mapped, the shard and {spare} MB.

| | |
|---|---|
"""


def status(name: str) -> int:
    """A figure of this process in /proc, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().split("\n") if line.startswith(name))
    return 1024 * int(line.split()[1])


def shard_bytes(layers: int, processes: int) -> int:
    """What one process holds in bfloat16, from the sizes alone."""
    wide, inner, words = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    layer = wide * (2 * wide + 2 * wide // 8 + 3 * inner + 2)
    return 2 * (layers * layer + 2 * words * wide + wide) // processes


def limited(size: int) -> None:
    """Let this process map no more than `size` bytes beyond what it has mapped."""
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + size,) * 2)


def refused(size: int) -> bool:
    """Whether the limit holds: memory of this size is not to be had."""
    try:
        torch.empty(size, dtype=torch.uint8)
    except (RuntimeError, MemoryError):
        return True
    return False


def measure(asked: argparse.Namespace) -> dict[str, float]:
    """Start the shard; what it took."""
    expected = shard_bytes(asked.layers, asked.processes)
    held, spare = status("VmRSS"), asked.spare * MB
    dist.init_process_group("fake", rank=asked.rank, world_size=asked.processes, store=FakeStore())
    limited(expected + spare)
    assert refused(expected + spare + MB)
    torch.set_default_dtype(torch.bfloat16)
    times = [time.perf_counter()]
    with sb.deferred():
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=asked.layers, **CONFIG))
    times.append(time.perf_counter())
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    times.append(time.perf_counter())
    plan = sb.plan(model)
    times.append(time.perf_counter())
    before = status("VmRSS")
    plan.materialize(model, threads=2)
    times.append(time.perf_counter())
    after, most = status("VmRSS"), status("VmHWM")
    findings = sb.check(model, plan)
    times.append(time.perf_counter())
    built, sharded, planned, started, checked = (b - a for a, b in itertools.pairwise(times))
    return {
        "parameters": sum(e.spec.count for e in plan if e.spec.kind == "parameter"),
        "whole, MB": sum(e.spec.nbytes for e in plan) / MB,
        "shard, MB": sum(p.to_local().nbytes for p in model.parameters()) / MB,
        "spare, MB": spare / MB,
        "resident, more than after the imports, before the start, MB": (before - held) / MB,
        "resident, more than before the start, after it, MB": (after - before) / MB,
        "most resident, more than before the start, MB": (most - before) / MB,
        "built, s": built,
        "sharded, s": sharded,
        "planned, s": planned,
        "started, s": started,
        "checked, s": checked,
        "equal to the plan": sum(f.verdict == "equal" for f in findings),
        "not equal": len(findings.different),
    }


def main() -> None:
    """Print what was measured, as a line of JSON, or as the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("processes", 512), ("rank", 37), ("layers", 80), ("spare", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    found = measure(asked)
    print(json.dumps(found))
    if asked.page:
        rows = [f"| {k} | {v:,.{0 if v == int(v) else 1}f} |" for k, v in found.items()]
        PAGE.write_text(HEAD.format(processes=asked.processes, spare=asked.spare) + "\n".join(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main()
