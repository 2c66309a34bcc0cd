"""The main job, on three networks: plan, start, write, open again, check. Takes a folder to write to."""

import resource
import sys
import time
from pathlib import Path

import gpt2
import lenet
import mlp
import torch
from safetensors.torch import load_model

import seedbed as sb

JOBS = (
    ("The chapters' MLP: output sizes only", mlp.net, (2, 20), "he"),
    ("LeNet: its dense layers' sizes depend on the image", lenet.net, (1, 1, 28, 28), "xavier"),
    ("GPT-2, 124 million parameters, unmodified", gpt2.net, sb.Input((1, 16), "int64"), "gpt2"),
)


def resident():
    """The most memory this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(title, make, given, recipe, folder):
    print(f"\n=== {title}\n")
    with torch.device("meta"):  # its parameters have no memory yet
        net = make()
    before, clock = resident(), time.perf_counter()
    plan = sb.plan(net, given, recipe=recipe, seed=0)
    took, grew = time.perf_counter() - clock, resident() - before
    print(plan)
    print(f"planned in {took:.2f} s; memory grew by {grew / 1e6:.1f} MB\n")

    clock = time.perf_counter()
    sb.materialize(plan, net, progress=True)
    print(f"started in {time.perf_counter() - clock:.2f} s: {sb.check(net, plan)}")

    file = folder / f"{make.__module__}.safetensors"
    (file,) = sb.write(plan, file, replace=True, progress=True)
    print(f"wrote {file} ({file.stat().st_size:,} bytes) without the network")

    again = sb.initialize(make(), given, seed=1)  # a network with other values, to load into
    load_model(again, file)
    equal = all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    print(f"opened by safetensors into a new network: {'equal to the one started here' if equal else 'DIFFERENT'}")
    findings = sb.check(file, plan)
    print(f"checked from disk: {findings}")
    return equal and bool(findings)


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output")
    out.mkdir(exist_ok=True)
    good = [run(*job, out) for job in JOBS]
    print(f"\n{sum(good)} of {len(good)} networks planned, started, written, opened again and equal bit for bit.")
    sys.exit(not all(good))
