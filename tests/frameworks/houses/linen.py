"""The networks of the contract in flax.linen, and how their values are read."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import seedbed as sb

name = "linen"


class Wired(nn.Module):
    """A function that makes layers as it goes."""

    call: Callable

    @nn.compact
    def __call__(self, *inputs):
        return self.call(*inputs)


def mlp(dtype="float32"):
    kind = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    return nn.Sequential([nn.Dense(256, **kind), nn.relu, nn.Dense(10, **kind)]), [sb.Input((2, 20), dtype)]


def named(*names):
    def call(x):
        for key in names:
            x = nn.Dense(8, name=key)(x)
        return x

    return Wired(call), [(2, 8)]


def large():
    return nn.Sequential([nn.Dense(8192), nn.relu, nn.Dense(8192), nn.Dense(8192)]), [(2, 1024)]


def tied():
    shared = nn.Dense(8)
    return nn.Sequential([shared, nn.relu, shared]), [(2, 8)]


def flat(x):
    """In PyTorch's order, channels first, so that the next kernel has PyTorch's rows."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def lenet():
    net = nn.Sequential(
        [
            nn.Conv(6, (5, 5), padding=2), nn.sigmoid, lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
            nn.Conv(16, (5, 5), padding=0), nn.sigmoid, lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
            flat, nn.Dense(120), nn.sigmoid, nn.Dense(84), nn.sigmoid, nn.Dense(10),
        ]
    )  # fmt: skip
    return net, [(2, 28, 28, 1)]


def resnet_block():
    def call(x):
        y = nn.Conv(16, (3, 3), strides=2, padding=1, name="conv1")(x)
        y = nn.relu(nn.BatchNorm(use_running_average=True, name="norm1")(y))
        y = nn.BatchNorm(use_running_average=True, name="norm2")(nn.Conv(16, (3, 3), padding=1, name="conv2")(y))
        return nn.relu(y + nn.Conv(16, (1, 1), strides=2, name="shortcut")(x))

    return Wired(call), [(2, 8, 8, 8)]


def lstm():
    return nn.RNN(nn.OptimizedLSTMCell(16)), [(2, 5, 8)]


def gru():
    return nn.RNN(nn.GRUCell(16)), [(2, 5, 8)]


def encoder_block():
    def call(x):
        y = nn.MultiHeadDotProductAttention(4, qkv_features=16, name="attention")(x, x)
        x = nn.LayerNorm(epsilon=1e-5, name="norm1")(x + y)
        y = nn.Dense(16, name="linear2")(nn.relu(nn.Dense(32, name="linear1")(x)))
        return nn.LayerNorm(epsilon=1e-5, name="norm2")(x + y)

    return Wired(call), [(2, 5, 16)]


def embedding():
    return nn.Sequential([nn.Embed(50, 16), nn.Dense(4)]), [sb.Input((2, 7), "int32")]


def arrays(started):
    """Every variable, by path, as NumPy has it; bfloat16 as its bits."""
    found = {}
    for collection, tree in started.items():
        for keys, value in jax.tree_util.tree_flatten_with_path(tree)[0]:
            path = ".".join(k.key for k in keys)
            held = np.asarray(value)
            held = held.view(np.int16) if held.dtype == jnp.bfloat16 else held
            found[path if collection == "params" else f"{collection}.{path}"] = held
    return found


def forward(net, started, x):
    """The network's answer; images are (batch, channels, height, width)."""
    x = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
    answer = np.asarray(net.apply(started, x))
    return answer.transpose(0, 3, 1, 2) if answer.ndim == 4 else answer


def state(net):
    return repr(net), sorted(vars(net))


def wished(net, recipe, seed, x):
    """Started by its own `init`, after a wish without sizes."""
    return sb.initialize(net, recipe=recipe, seed=seed).init(jax.random.key(0), x)
