"""The networks of the contract in flax.nnx, and how their values are read."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import seedbed as sb

name = "nnx"


class Wired(nnx.Module):
    """Layers by name, in the order in which they are called, and how a call goes through them."""

    def __init__(self, call, **layers):
        for key, layer in layers.items():
            setattr(self, key, layer)
        self.call = call

    def __call__(self, *inputs):
        return self.call(self, *inputs)


def linear(size, **options):
    return sb.lazy(nnx.Linear, sb.dim(-1), size, rngs=nnx.Rngs(0), **options)


def conv(channels, window, **options):
    return sb.lazy(nnx.Conv, sb.dim(-1), channels, window, rngs=nnx.Rngs(0), **options)


def norm():
    return sb.lazy(nnx.BatchNorm, sb.dim(-1), rngs=nnx.Rngs(0))


def mlp(dtype="float32"):
    kind = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    return nnx.Sequential(linear(256, **kind), nnx.relu, linear(10, **kind)), [sb.Input((2, 20), dtype)]


def named(*names):
    def call(self, x):
        for key in names:
            x = getattr(self, key)(x)
        return x

    return Wired(call, **{key: linear(8) for key in names}), [(2, 8)]


def large():
    return nnx.Sequential(linear(8192), nnx.relu, linear(8192), linear(8192)), [(2, 1024)]


def tied():
    shared = linear(8)
    return nnx.Sequential(shared, nnx.relu, shared), [(2, 8)]


def flat(x):
    """In PyTorch's order, channels first, so that the next kernel has PyTorch's rows."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def pool(x):
    return nnx.avg_pool(x, (2, 2), (2, 2))


def lenet():
    net = nnx.Sequential(
        conv(6, (5, 5), padding=2), nnx.sigmoid, pool, conv(16, (5, 5), padding=0), nnx.sigmoid, pool,
        flat, linear(120), nnx.sigmoid, linear(84), nnx.sigmoid, linear(10),
    )  # fmt: skip
    return net, [(2, 28, 28, 1)]


def resnet_block():
    def call(self, x):
        y = self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x)))))
        return nnx.relu(y + self.shortcut(x))

    net = Wired(
        call,
        conv1=conv(16, (3, 3), strides=2, padding=1),
        norm1=norm(),
        conv2=conv(16, (3, 3), padding=1),
        norm2=norm(),
        shortcut=conv(16, (1, 1), strides=2),
    )
    return net, [(2, 8, 8, 8)]


def lstm():
    return nnx.RNN(nnx.OptimizedLSTMCell(8, 16, rngs=nnx.Rngs(0))), [(2, 5, 8)]


def gru():
    return nnx.RNN(nnx.GRUCell(8, 16, rngs=nnx.Rngs(0))), [(2, 5, 8)]


def encoder_block():
    def call(self, x):
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.linear2(nnx.relu(self.linear1(x))))

    net = Wired(
        call,
        attention=nnx.MultiHeadAttention(4, 16, decode=False, rngs=nnx.Rngs(0)),
        norm1=nnx.LayerNorm(16, epsilon=1e-5, rngs=nnx.Rngs(0)),
        linear1=linear(32),
        linear2=linear(16),
        norm2=nnx.LayerNorm(16, epsilon=1e-5, rngs=nnx.Rngs(0)),
    )
    return net, [(2, 5, 16)]


def embedding():
    return nnx.Sequential(nnx.Embed(50, 16, rngs=nnx.Rngs(0)), linear(4)), [sb.Input((2, 7), "int32")]


def arrays(started):
    """Every variable, by path, as NumPy has it; bfloat16 as its bits. State of random numbers is left out."""
    found = {}
    for keys, variable in nnx.to_flat_state(nnx.state(started, nnx.Not(nnx.RngState))):
        held = np.asarray(variable.get_value())
        found[".".join(map(str, keys))] = held.view(np.int16) if held.dtype == jnp.bfloat16 else held
    return found


def forward(net, started, x):
    """The network's answer, in evaluation; images are (batch, channels, height, width)."""
    started.eval()
    x = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
    answer = np.asarray(started(jnp.asarray(x)))
    return answer.transpose(0, 3, 1, 2) if answer.ndim == 4 else answer


def state(net):
    graphdef, held = nnx.split(net)
    leaves = [
        jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in jax.tree.leaves(held)
    ]
    return repr(graphdef), [np.asarray(v).tobytes() for v in leaves], [id(m) for _, m in nnx.iter_modules(net)]


def wished(net, recipe, seed, x):
    """Started by its first call, after a wish without sizes."""
    sb.initialize(net, recipe=recipe, seed=seed)(jnp.asarray(x))
    return net
