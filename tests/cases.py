"""Random parameters, regions of them and memory for these, drawn alike by tests and `scripts/same_bits.py`."""

import contextlib
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

import seedbed as sb
from seedbed import digest, engine
from seedbed import initializers as i
from seedbed.fill import fill, storage_dtype
from seedbed.region import Region

SOURCES = [Path(engine.__file__).with_name(name) for name in ("_engine.c", "_sums.c")]
SHAPES = [(7,), (64, 33), (3, 5, 7), (100, 1000), (1,), (2**20, 2**20), (50257, 768), (2**31, 5, 3), (12, 4096), ()]
BUILDS = {
    "unoptimized": "-O0",
    "fast-math": "-O3 -ffast-math -march=native",
    "contracting": "-O3 -ffp-contract=fast -march=native",
    "sanitized": "-O0 -g -fsanitize=address,undefined -fno-sanitize-recover=all",
}
"""Ways of compiling that change what floating-point code gives, and one that ends the process at a fault."""
GUARD = 0xA5
"""What memory around a region holds, before and after."""


class Case(NamedTuple):
    """An entry, a region of it, and memory for it inside more memory."""

    entry: sb.Entry
    region: Region
    owner: np.ndarray
    out: np.ndarray

    def __str__(self):
        spec, box = self.entry.spec, self.region
        where = f"[{', '.join(f'{a}:{b}' for a, b in zip(box.start, box.stop, strict=True))}]"
        seed = self.entry.seed
        return f"{self.entry.start!r}, {spec.dtype}{spec.shape}{where}, strides {self.out.strides}, seed {seed}"


def same(draw, spec):
    """For `Custom`: the words as they are, and places."""
    return draw.normal(std=0.5) * draw.uniform(1, 3) + draw.index(0) % 2


def simple_initializers(rng):
    """Every elementwise initializer but mixtures, its arguments drawn anew."""
    mean, std = float(rng.choice([0, 0, 0.5, -3, 1e-3])), float(rng.choice([0.02, 1, 3.7, 0, 1e-30, 1e30, 1e-42]))
    low, high = sorted(rng.normal(size=2) * float(rng.choice([1, 1e-6, 1e5, 1e-40])))
    return [
        i.Normal(mean=mean, std=std),
        i.Normal(std=std),
        i.Uniform(low=float(low), high=float(high)),
        i.Uniform(low=-float(high**2), high=float(high**2)),
        i.TruncatedNormal(mean=mean, std=std, cut=float(rng.choice([0.5, 1, 2, 3, 7]))),
        i.TruncatedNormal(std=std, cut=float(rng.uniform(0.01, 7))),
        i.Constant(value=mean),
        i.Uniform(low=0.0, high=1.0),
        i.Uniform(low=5.0, high=10.0),
        i.Zeros(),
        i.Ones(),
    ]


def draw_initializer(rng, shape=()):
    """Any elementwise one or a mixture; now and then one that needs fans, places or the whole array."""
    simple = simple_initializers(rng)
    kind = rng.random()
    if kind < 0.55:
        return simple[rng.integers(len(simple))]
    if kind < 0.85 or len(shape) != 2:
        weights = rng.dirichlet(np.ones(rng.integers(1, 5)))
        return i.Mixture([(float(p), simple[rng.integers(len(simple))]) for p in weights])
    fan, law = str(rng.choice(["in", "out", "avg"])), str(rng.choice(["normal", "truncated_normal", "uniform"]))
    others = [
        i.VarianceScaling(scale=float(rng.choice([1, 2, 1 / 3])), fan=fan, distribution=law),
        i.HeNormal(fan=fan), i.HeUniform(fan=fan), i.LecunNormal(), i.LecunUniform(),
        i.XavierNormal(), i.XavierUniform(gain=5 / 3),
        i.Identity(gain=0.3),
        i.Custom(same),
    ]  # fmt: skip
    if np.prod(shape, dtype=float) <= 3000:
        rows, columns = (sorted(rng.integers(0, n + 1, 2).tolist()) for n in shape)
        box = (tuple(rows), tuple(columns))
        others += [i.Orthogonal(gain=1.5), i.Sparse(sparsity=float(rng.random()), std=0.1)]
        others += [i.Overlay(base=simple[0], boxes=((box, simple[2]), ((*box[:1], (0, 1)), simple[-1])))] * 2
    return others[rng.integers(len(others))]


def draw_shape(rng):
    """One of `SHAPES`, or any small one."""
    if rng.random() < 0.7:
        return SHAPES[rng.integers(len(SHAPES))]
    return tuple(rng.integers(1, 40, rng.integers(1, 5)).tolist())


def draw_case(rng):
    """A parameter, a region of it, and memory of some layout for it."""
    shape = draw_shape(rng)
    axes = ("out", "in") if len(shape) == 2 else ()
    spec = sb.ParamSpec(path="w", shape=shape, axes=axes, dtype=str(rng.choice(list(engine.TYPES))))
    (entry,) = sb.plan(sb.Specs((spec,)), recipe=draw_initializer(rng, shape), seed=int(rng.integers(2**63)))
    start, stop, budget, longest = [], [], 20_000, int(rng.choice([300, 300, 20_000]))
    for size in shape[::-1]:
        most = min(size, max(1, min(budget, longest)))
        length = most if rng.random() < 0.2 else int(rng.integers(1, most + 1))  # whole axes lie together
        budget //= length
        first = int(rng.integers(0, size - length + 1))
        start.insert(0, first)
        stop.insert(0, first + length)
    region = Region(tuple(start), tuple(stop))
    return Case(entry, region, *draw_memory(rng, region.shape, storage_dtype(spec.dtype)))


def draw_memory(rng, shape, dtype):
    """All of some memory, and an array inside it: contiguous, transposed, strided, backwards or all of these."""
    layout = rng.integers(5)
    order = rng.permutation(len(shape)) if layout in (1, 4) else np.arange(len(shape))
    steps = [int(rng.choice([1, 2, 3, -1, -2])) if layout >= 2 else 1 for _ in shape]
    if layout == 3:
        steps = [int(rng.choice([1, -1])) for _ in shape]
    margin = int(rng.integers(3))
    owner = np.full([shape[a] * abs(steps[a]) + margin for a in order], GUARD, np.uint8)
    owner = np.repeat(owner, dtype.itemsize, axis=-1) if shape else np.full(dtype.itemsize, GUARD, np.uint8)
    owner = owner.view(dtype) if shape else owner.view(dtype).reshape(())
    view = owner.transpose(np.argsort(order)) if shape else owner
    view = view[tuple(slice(margin, None) for _ in shape)] if shape else view
    return owner, view[tuple(slice(None, None, s) for s in steps)] if shape else owner


def guarded(case):
    """Whether all memory around the region holds what it held; the region's own is overwritten."""
    case.out[...] = np.full(case.out.itemsize, GUARD, np.uint8).view(case.out.dtype)[0]
    return bool((np.ascontiguousarray(case.owner).reshape(-1).view(np.uint8) == GUARD).all())


@contextlib.contextmanager
def using(name):
    """An engine, by the name `SEEDBED_ENGINE` has for it."""
    before = os.environ.get("SEEDBED_ENGINE")
    os.environ["SEEDBED_ENGINE"] = name
    try:
        yield
    finally:
        os.environ.pop("SEEDBED_ENGINE")
        if before is not None:
            os.environ["SEEDBED_ENGINE"] = before


def summed(case, values):
    """The sum of a region, by the engine in use."""
    return digest.total(2**64 - 9, case.entry.spec.sizes, case.region, values)


def misaligned(values):
    """The same values at an address that is a multiple of nothing."""
    return np.frombuffer(b"x" + values.tobytes(), values.dtype, offset=1).reshape(values.shape)


def difference(case):
    """A sentence on how a C engine differs from NumPy; empty when all give the same bits and write nowhere else."""
    with using("numpy"):
        values = fill(case.entry, case.region)
        total = summed(case, values)
    for name in engine.names():
        with using(name):
            got = fill(case.entry, case.region, case.out).tobytes()
            found = {summed(case, case.out), summed(case, misaligned(case.out))}
        if got != values.tobytes():
            return f"{name} differs from NumPy: {case}."
        if found != {total}:
            return f"{name} sums up otherwise than NumPy: {case}."
        if not guarded(case):
            return f"{name} writes outside the region: {case}."
    return ""


def build(flags, folder):
    """The C engine compiled with `flags`: an extension of its own."""
    parts, made = [Path(folder) / f"{source.stem}.o" for source in SOURCES], Path(folder) / "_engine.so"
    command = ["cc", *flags.split(), "-std=gnu11", "-fPIC", f"-I{sysconfig.get_paths()['include']}"]
    for source, part in zip(SOURCES, parts, strict=True):
        subprocess.run([*command, "-c", source, "-o", part], check=True)
    # Linked without the flags: linked with -ffast-math, a library makes its whole process flush subnormal numbers to 0.
    linked = [flag for flag in flags.split() if "sanitize" in flag]
    subprocess.run(["cc", "-shared", *linked, *parts, "-o", made], check=True)
    return made


def preloaded(flags):
    """What the environment needs for an extension of these flags: Python itself is not built with a sanitizer."""
    if "sanitize" not in flags:
        return {}
    files = [
        subprocess.run(["cc", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True)
        for name in ("asan", "ubsan")
    ]
    # Python keeps memory until it ends, which is no leak of ours; too much memory is Python's error to raise.
    options = "detect_leaks=0:allocator_may_return_null=1"
    return {"LD_PRELOAD": " ".join(f.stdout.strip() for f in files), "ASAN_OPTIONS": options}
