"""Large networks of Gluon started: by Gluon itself, and by seedbed; takes a file for the table.

Gluon's way is `net.initialize()` and the first forward, which is when it fills what was deferred; seedbed's is
`initialize` with the shape of the input, or without it and then the same first forward. Each way runs in a process of
its own, several times, and gives its shortest time, by the clock and of the processors. All make room for gradients.
Memory is that of the first time, beyond the libraries'.
"""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

WAYS = ("Gluon: initialize, first forward", "seedbed: from the shape", "seedbed: at the first forward")
ROUNDS = 5


def mlp(nn):
    net = nn.HybridSequential()
    net.add(nn.Dense(8192, activation="relu"), nn.Dense(8192, activation="relu"), nn.Dense(10))
    return net, (2, 4096)


def resnet(nn):
    from mxnet.gluon.model_zoo import vision

    return vision.resnet152_v2(), (1, 3, 224, 224)


MODELS = {"MLP 4096-8192-8192-10": mlp, "ResNet-152": resnet}


def memory():
    """Bytes resident now, and at most so far."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(status[k].split()[0]) * 1024 for k in ("VmRSS", "VmHWM"))


def once(name, way):
    """Builds and starts a network; the time, and its parameters' bytes."""
    import mxnet as mx
    from mxnet.gluon import nn

    import seedbed as sb

    net, shape = MODELS[name](nn)
    x = mx.nd.ones(shape)
    mx.nd.waitall()
    begin, worked = time.perf_counter(), time.process_time()
    if way == WAYS[0]:
        net.initialize()
    else:
        sb.initialize(net, *([shape] if way == WAYS[1] else []), progress=False)
    if way != WAYS[1]:
        net(x)
    mx.nd.waitall()
    took = time.perf_counter() - begin, time.process_time() - worked
    return took, sum(p.data().size * 4 for p in net.collect_params().values())


def measure(name, way):
    import mxnet as mx

    import seedbed as sb

    sb.initialize(mx.gluon.nn.Dense(3), (2, 4))  # imports
    before, _ = memory()
    took, size = once(name, way)
    peak = memory()[1] - before
    for _ in range(ROUNDS):
        took = tuple(map(min, took, once(name, way)[0]))
    return {"size": size, "peak": peak, "took": took}


def table():
    lines = [
        "| network | way | s | of the processors, s | times faster, by both | peak memory / parameters |",
        "|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        found = [
            json.loads(subprocess.check_output([sys.executable, __file__, name, way], text=True).splitlines()[-1])  # noqa: S603
            for way in WAYS
        ]
        for way, one in zip(WAYS, found, strict=True):
            clock, worked = one["took"]
            faster = ", ".join(f"{a / b:.1f}" for a, b in zip(found[0]["took"], one["took"], strict=True))
            size = f"{one['size'] / 1e6:.0f} MB"
            lines.append(
                f"| {name}, {size} | {way} | {clock:.2f} | {worked:.2f} | {faster} | {one['peak'] / one['size']:.2f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) == 3:
        warnings.simplefilter("ignore", DeprecationWarning)  # MXNet asks for names that NumPy was about to drop
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        text = table()
        print(text)
        if len(sys.argv) > 1:
            Path(sys.argv[1]).write_text(text)
