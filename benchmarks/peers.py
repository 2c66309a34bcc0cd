"""The same starts in torch, NumPy and JAX: for each, functions that fill what is there, or make it anew."""

import math
import os

import numpy as np
from torch.nn import init

os.environ.setdefault("NPROC", "1")  # JAX takes as many threads as this says, when it starts
try:
    import jax
    from jax import numpy as jnp
except ImportError:
    jax = None

from seedbed import initializers as i

STD = 0.02
MIXTURE = i.Mixture([(0.25, i.Uniform(low=5, high=10)), (0.5, i.Zeros()), (0.25, i.Uniform(low=-10, high=-5))])
STARTS = {
    "Uniform": i.Uniform(low=-0.5, high=0.5),
    "Uniform, shifted": i.Uniform(low=1, high=2),
    "Normal": i.Normal(std=STD),
    "Normal, mean 0.5": i.Normal(std=STD, mean=0.5),
    "TruncatedNormal": i.TruncatedNormal(std=STD),
    "TruncatedNormal, mean 0.5": i.TruncatedNormal(std=STD, mean=0.5),
    "XavierUniform": i.XavierUniform(),
    "XavierNormal": i.XavierNormal(),
    "HeUniform": i.HeUniform(),
    "HeNormal": i.HeNormal(),
    "LecunNormal": i.LecunNormal(),
    "Mixture of three": MIXTURE,
    "Constant": i.Constant(value=42),
    "Zeros": i.Zeros(),
    "Ones": i.Ones(),
}
UNIFORM = {"Uniform": (-0.5, 0.5), "Uniform, shifted": (1.0, 2.0)}
NORMAL = {"Normal": 0.0, "Normal, mean 0.5": 0.5}
TRUNCATED = {"TruncatedNormal": 0.0, "TruncatedNormal, mean 0.5": 0.5}
CONSTANT = {"Constant": 42.0, "Zeros": 0.0, "Ones": 1.0}


def in_torch(name, w):
    """The name of a function and a job that fills a tensor in place."""
    if name in UNIFORM:
        return "torch uniform_", lambda: w.uniform_(*UNIFORM[name])
    if name in NORMAL:
        return "torch normal_", lambda: w.normal_(NORMAL[name], STD)
    if name in TRUNCATED:
        mean = TRUNCATED[name]
        return "torch trunc_normal_", lambda: init.trunc_normal_(w, mean, STD, mean - 2 * STD, mean + 2 * STD)
    if name == "Mixture of three":
        return "torch, a mask", lambda: w.uniform_(-10, 10).mul_(w.abs() >= 5)
    if name in CONSTANT:
        return ("torch zero_", w.zero_) if name == "Zeros" else ("torch fill_", lambda: w.fill_(CONSTANT[name]))
    if name == "LecunNormal":
        std = 1 / math.sqrt(w.shape[1])
        return "torch normal_", lambda: init.normal_(w, 0, std)
    relu = {"nonlinearity": "relu"}
    function, given = {
        "XavierUniform": (init.xavier_uniform_, {}),
        "XavierNormal": (init.xavier_normal_, {}),
        "HeUniform": (init.kaiming_uniform_, relu),
        "HeNormal": (init.kaiming_normal_, relu),
    }[name]
    return f"torch {function.__name__}", lambda: function(w, **given)


def in_numpy(name, w):
    """As `in_torch`, for a float32 array; None where NumPy's Generator has no such values."""
    generator = np.random.default_rng(0)

    def uniform(low, high):
        generator.random(out=w, dtype=np.float32)
        np.multiply(w, np.float32(high - low), out=w)
        np.add(w, np.float32(low), out=w)

    def normal(mean, std):
        generator.standard_normal(out=w, dtype=np.float32)
        np.multiply(w, np.float32(std), out=w)
        if mean:
            np.add(w, np.float32(mean), out=w)

    def mixture():
        uniform(-10, 10)
        np.multiply(w, np.abs(w) >= 5, out=w)

    if name in UNIFORM:
        return "NumPy random", lambda: uniform(*UNIFORM[name])
    if name in NORMAL:
        return "NumPy standard_normal", lambda: normal(NORMAL[name], STD)
    if name == "Mixture of three":
        return "NumPy, a mask", mixture
    if name in CONSTANT:
        return "NumPy fill", lambda: w.fill(CONSTANT[name])
    return None


def in_jax(name, shape, dtype):
    """As `in_torch`, compiled; it makes a new array, as JAX does. None without JAX."""
    if jax is None:
        return None
    kind, key, made = getattr(jnp, dtype), jax.random.key(0), jax.nn.initializers

    def mixture(key):
        w = jax.random.uniform(key, shape, kind, -10, 10)
        return w * (abs(w) >= 5)

    given = {
        "XavierUniform": made.glorot_uniform(in_axis=1, out_axis=0),
        "XavierNormal": made.variance_scaling(1.0, "fan_avg", "normal", in_axis=1, out_axis=0),
        "HeUniform": made.he_uniform(in_axis=1, out_axis=0),
        "HeNormal": made.variance_scaling(2.0, "fan_in", "normal", in_axis=1, out_axis=0),
        "LecunNormal": made.variance_scaling(1.0, "fan_in", "normal", in_axis=1, out_axis=0),
    }
    if name in UNIFORM:
        called, function = "uniform", lambda key: jax.random.uniform(key, shape, kind, *UNIFORM[name])
    elif name in NORMAL:
        called, function = "normal", lambda key: jax.random.normal(key, shape, kind) * STD + NORMAL[name]
    elif name in TRUNCATED:
        called = "truncated_normal"
        function = lambda key: jax.random.truncated_normal(key, -2, 2, shape, kind) * STD + TRUNCATED[name]  # noqa: E731
    elif name == "Mixture of three":
        called, function = "uniform, a mask", mixture
    elif name in CONSTANT:
        called, function = "full", lambda _: jnp.full(shape, CONSTANT[name], kind)
    else:
        called, function = "initializer", lambda key: given[name](key, shape, kind)
    compiled = jax.jit(function)
    return f"JAX {called}", lambda: compiled(key).block_until_ready()
