"""Flax: how long a model's start takes, compiling included, beside Flax's own; `python benchmarks/flax_starts.py [file.md]`.

Each figure of a whole start is of a process of its own, because what is compiled once stays compiled.
"""

import platform
import subprocess
import sys
import time
from pathlib import Path

WIDTHS = (8192, 8192, 8192, 8192, 1024)
"""Of a multilayer perceptron of 217 million parameters, on 8192 features but the first layer's 1024."""
STARTS = {
    "linen, jax.jit(net.init)": "jax.block_until_ready(jax.jit(net.init)(jax.random.key(0), x))",
    "linen, net.init": "jax.block_until_ready(net.init(jax.random.key(0), x))",
    "linen, seedbed": "import seedbed as sb; jax.block_until_ready(sb.initialize(net, (1, 1024)))",
    "nnx, constructor": "jax.block_until_ready(nnx.state(Net(nnx.Rngs(0)), nnx.Param))",
    "nnx, nnx.jit(constructor)": "jax.block_until_ready(nnx.state(nnx.jit(lambda: Net(nnx.Rngs(0)))(), nnx.Param))",
    "nnx, seedbed": (
        "import seedbed as sb; made = nnx.eval_shape(lambda: Net(nnx.Rngs(0)));"
        " jax.block_until_ready(nnx.state(sb.initialize(made), nnx.Param))"
    ),
}
PROGRAM = """
import time, resource
import jax, jax.numpy as jnp
from flax import linen as nn, nnx
WIDTHS = {widths}
net = nn.Sequential([nn.Dense(n) for n in WIDTHS])
class Net(nnx.Module):
    def __init__(self, rngs):
        sizes = (1024, *WIDTHS)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in zip(sizes, WIDTHS)])
x = jnp.ones((1, 1024))
begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{act}
print(time.perf_counter() - begin, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def starts(times=3):
    """The shortest time and the least memory of several processes of each start, taken in turns."""
    found = {name: [] for name in STARTS}
    for _ in range(times):
        for name, act in STARTS.items():
            program = PROGRAM.format(widths=WIDTHS, act=act)
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603 -- itself
            found[name].append(tuple(map(float, done.stdout.split())))
    return {name: (min(t for t, _ in taken), min(m for _, m in taken)) for name, taken in found.items()}


def normals():
    """Elements a second of the twin and of JAX's own, compiled, on one array of 64 MB."""
    import jax
    import numpy as np

    from seedbed.frameworks.flax import numbers
    from seedbed.initializers import Normal, TruncatedNormal, Uniform

    shape = (4096, 4096)
    key, words = jax.random.key(0), np.array([1, 2, 3, 4], np.uint32)
    theirs = {
        "normal": jax.jit(lambda k: jax.random.normal(k, shape) * 0.02),
        "truncated normal": jax.jit(lambda k: jax.random.truncated_normal(k, -2, 2, shape) * 0.02),
        "uniform": jax.jit(lambda k: jax.random.uniform(k, shape, minval=-0.02, maxval=0.02)),
    }
    ours = {
        "normal": Normal(std=0.02),
        "truncated normal": TruncatedNormal(std=0.02),
        "uniform": Uniform(low=-0.02, high=0.02),
    }
    for name, law in ours.items():
        jobs = [
            lambda law=law: numbers.values(law, "float32", words, shape).block_until_ready(),
            lambda name=name: theirs[name](key).block_until_ready(),
        ]
        times = [float("inf")] * 2
        for turn in range(6):
            for number, job in enumerate(jobs):
                begin = time.perf_counter()
                job()
                if turn:
                    times[number] = min(times[number], time.perf_counter() - begin)
        yield name, *(shape[0] * shape[1] / t / 1e6 for t in times)


def main(place=None):
    lines = [
        "# Flax",
        "",
        f"{platform.machine()}, Python {platform.python_version()}. The best of three processes.",
        "",
    ]
    lines += ["A perceptron of 217 million parameters, from nothing to values:", ""]
    lines += ["| start | seconds | memory above what was held, MB |", "|---|---:|---:|"]
    for name, (seconds, memory) in starts().items():
        lines.append(f"| {name} | {seconds:.2f} | {memory:.0f} |")
        print(lines[-1], flush=True)
    lines += ["", "The numbers inside a program (`jax.numpy` under `jit`), compiled before, 16.8 million float32:", ""]
    lines += ["| values | seedbed, million a second | jax.random | times |", "|---|---:|---:|---:|"]
    for name, ours, theirs in normals():
        lines.append(f"| {name} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} |")
        print(lines[-1], flush=True)
    if place:
        Path(place).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
