"""Whole models from their configuration, built and started: their own way, and deferred; takes a file for the table.

Each way runs in a process of its own, several times, and gives its shortest time. Memory is that of the first time, beyond
the libraries'.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

WAYS = ("own", "deferred")
ROUNDS = 5


def models():
    import transformers as t

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    vit, gpt = t.ViTModel, t.GPT2LMHeadModel  # imported here, before the clock starts
    return {
        "ViT-L/16": lambda: vit(t.ViTConfig(**large)),
        "GPT-2 medium": lambda: gpt(t.GPT2Config(n_embd=1024, n_layer=24, n_head=16)),
    }


def memory():
    """Bytes resident now, and at most so far."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(status[k].split()[0]) * 1024 for k in ("VmRSS", "VmHWM"))


def once(make, way):
    """Builds and starts a model; the times of its parts."""
    import seedbed as sb

    begin = time.perf_counter()
    if way == "own":
        model, parts = make(), {}
    else:
        with sb.deferred():
            model = make()
        built = time.perf_counter()
        plan = sb.plan(model)
        planned = time.perf_counter()
        sb.materialize(plan, model, progress=False)
        parts = {"built": built - begin, "planned": planned - built, "started": time.perf_counter() - planned}
    return model, {"took": time.perf_counter() - begin, **parts}


def measure(name, way):
    import torch

    import seedbed as sb
    from seedbed import fill, materialize  # noqa: F401 -- imported before the clock starts

    make = models()[name]
    torch.nn.Linear(1, 1)
    with sb.deferred():
        warm = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    sb.initialize(warm)
    before, _ = memory()
    model, best = once(make, way)
    peak = memory()[1] - before
    size = sum(t.nbytes for t in {id(t): t for t in [*model.parameters(), *model.buffers()]}.values())
    del model  # its memory goes back to the system, which need not find it anew
    for _ in range(ROUNDS):
        best = min(best, once(make, way)[1], key=lambda m: m["took"])
    return {"size": size, "peak": peak, **best}


def table():
    lines = [
        "| model | own constructor, s | deferred, s | of that built, planned, started | times faster | peak memory / parameters |",
        "|---|---|---|---|---|---|",
    ]
    for name in models():
        own, ours = (
            json.loads(subprocess.check_output([sys.executable, __file__, name, way], text=True).splitlines()[-1])  # noqa: S603
            for way in WAYS
        )
        parts = ", ".join(f"{ours[k]:.2f}" for k in ("built", "planned", "started"))
        lines.append(
            f"| {name}, {ours['size'] / 1e6:.0f} MB | {own['took']:.2f} | {ours['took']:.2f} | {parts} |"
            f" {own['took'] / ours['took']:.1f} | {ours['peak'] / ours['size']:.2f} (own {own['peak'] / own['size']:.2f}) |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        text = table()
        print(text)
        if len(sys.argv) > 1:
            Path(sys.argv[1]).write_text(text)
