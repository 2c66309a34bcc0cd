"""A Keras MLP of 200 million parameters, started Keras's way and seedbed's; takes a file for the table.

The backend is the one that KERAS_BACKEND names: rows of others that the file has stay. Each way runs in a
process of its own, several times, and gives its shortest time. Memory is that of the first time, beyond the
libraries'.
"""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

WAYS = ("build", "seedbed")
ROUNDS = 5
WIDTHS = (8192, 8192, 8192)
INPUT = 8192
HEAD = (
    "| backend | `build`, Keras's own start, s (processor) | `seedbed.initialize`, the same start, s (processor) |"
    " of that planned | times faster (processor) | peak memory / parameters |\n|---|---|---|---|---|---|"
)


def memory():
    """Bytes resident now, and at most so far."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(status[k].split()[0]) * 1024 for k in ("VmRSS", "VmHWM"))


def mlp(widths):
    import keras

    return keras.Sequential([keras.layers.Dense(w, activation="relu") for w in widths])


def once(way, widths, width):
    """Starts a model; the times of its parts."""
    import seedbed as sb

    gc.collect()  # models refer to themselves, and the memory of the last one is to be had again
    net = mlp(widths)
    begin, busy = time.perf_counter(), time.process_time()
    planned = begin
    if way == "build":
        net.build((None, width))
    else:
        plan = sb.plan(net, (2, width))
        planned = time.perf_counter()
        sb.materialize(plan, net, progress=False)
    for variable in net.variables:  # some backends answer before they are done
        wait = getattr(variable.value, "block_until_ready", None)
        if wait:
            wait()
    return net, time.perf_counter() - begin, time.process_time() - busy, planned - begin


def measure(way):
    once(way, (8, 8), 8)  # what libraries make once
    held, _ = memory()
    net, *first = once(way, WIDTHS, INPUT)
    _, most = memory()
    size = sum(4 * v.shape[0] * (v.shape[1] if len(v.shape) > 1 else 1) for v in net.variables)
    del net
    times = [tuple(first), *(once(way, WIDTHS, INPUT)[1:] for _ in range(ROUNDS - 1))]
    took, busy, planned = (min(column) for column in zip(*times, strict=True))
    return {"took": took, "busy": busy, "planned": planned, "memory": (most - held) / size, "size": size}


def main():
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2])))
        return
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    found = {}
    for way in WAYS:
        run = [sys.executable, __file__, "--one", way]
        done = subprocess.run(run, capture_output=True, text=True, check=True)  # noqa: S603 -- this very script
        found[way] = json.loads(done.stdout.splitlines()[-1])
    own, ours = found["build"], found["seedbed"]
    row = (
        f"| {backend} | {own['took']:.2f} ({own['busy']:.2f}) | {ours['took']:.2f} ({ours['busy']:.2f}) |"
        f" {ours['planned']:.2f} | {own['took'] / ours['took']:.1f} ({own['busy'] / ours['busy']:.1f}) | {ours['memory']:.2f} (own {own['memory']:.2f}) |"
    )
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    rows = file.read_text().splitlines()[2:] if file and file.exists() else []
    rows = sorted([r for r in rows if not r.startswith(f"| {backend} ")] + [row])
    table = "\n".join([HEAD, *rows]) + "\n"
    print(table)
    if file:
        file.write_text(table)


if __name__ == "__main__":
    main()
