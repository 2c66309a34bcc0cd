"""Models in the style of Flax's examples, small: each a function that makes one, and what it is called on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

LINEN, NNX = {}, {}


def linen(make):
    LINEN[make.__name__] = make
    return make


def module(make):
    NNX[make.__name__] = make
    return make


def rngs():
    return nnx.Rngs(params=0, dropout=1)


def img(*shape):
    return jnp.asarray(np.random.default_rng(0).random(shape, dtype=np.float32))


def ids(*shape, n=20):
    return jnp.asarray(np.random.default_rng(0).integers(0, n, shape).astype("int32"))


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))(x)
        x = nn.relu(x)
        x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.Conv(16, (3, 3))(x)
        x = x.reshape((x.shape[0], -1))
        x = nn.Dense(32)(x)
        return nn.Dense(10)(x)


@linen
def mnist():
    return CNN(), (img(2, 12, 12, 1),), {}


class ResNetBlock(nn.Module):
    filters: int
    conv: Any
    norm: Any
    act: Callable
    strides: tuple = (1, 1)

    @nn.compact
    def __call__(self, x):
        r = x
        y = self.conv(self.filters, (3, 3), self.strides)(x)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(self.filters, (3, 3))(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if r.shape != y.shape:
            r = self.conv(self.filters, (1, 1), self.strides, name="conv_proj")(r)
            r = self.norm(name="norm_proj")(r)
        return self.act(r + y)


class ResNet(nn.Module):
    sizes: Sequence[int]
    num_filters: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = True):
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, axis_name="batch"
        )
        x = conv(self.num_filters, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], name="conv_init")(x)
        x = norm(name="bn_init")(x)
        x = nn.relu(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for i, b in enumerate(self.sizes):
            for j in range(b):
                x = ResNetBlock(self.num_filters * 2**i, conv, norm, nn.relu, (2, 2) if i > 0 and j == 0 else (1, 1))(x)
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dense(10, dtype=self.dtype)(x)
        return jnp.asarray(x, self.dtype)


@linen
def resnet():
    return ResNet([2, 2]), (img(2, 32, 32, 3),), {"train": False}


class EncoderLSTM(nn.Module):
    eos_id: int = 1
    hidden: int = 6

    @functools.partial(
        nn.transforms.scan, variable_broadcast="params", in_axes=1, out_axes=1, split_rngs={"params": False}
    )
    @nn.compact
    def __call__(self, carry, x):
        lstm, done = carry
        new, y = nn.LSTMCell(features=self.hidden)(lstm, x)
        new = jax.tree_util.tree_map(lambda n, o: jnp.where(done[:, None], o, n), new, lstm)
        done = jnp.logical_or(done, x[:, self.eos_id].astype(bool))
        return (new, done), y


class Seq2seq(nn.Module):
    @nn.compact
    def __call__(self, e, d):
        b = e.shape[0]
        c = nn.LSTMCell(6, parent=None).initialize_carry(jax.random.key(0), (b, e.shape[-1]))
        (c, _), _ = EncoderLSTM()((c, jnp.zeros(b, bool)), e)
        dec = nn.RNN(nn.LSTMCell(6), name="decoder")
        y = dec(d, initial_carry=c)
        return nn.Dense(7)(y)


@linen
def seq2seq_scan():
    return Seq2seq(), (img(2, 5, 7), img(2, 4, 7)), {}


class Mlp(nn.Module):
    d: int

    @nn.compact
    def __call__(self, x, deterministic=True):
        y = nn.Dense(
            self.d, kernel_init=nn.initializers.xavier_uniform(), bias_init=nn.initializers.normal(stddev=1e-6)
        )(x)
        y = nn.gelu(y)
        y = nn.Dropout(0.1)(y, deterministic=deterministic)
        return nn.Dense(x.shape[-1])(y)


class EncBlock(nn.Module):
    d: int = 16

    @nn.compact
    def __call__(self, x, deterministic=True):
        y = nn.LayerNorm()(x)
        y = nn.MultiHeadDotProductAttention(
            num_heads=2,
            kernel_init=nn.initializers.xavier_uniform(),
            broadcast_dropout=False,
            deterministic=deterministic,
            dropout_rate=0.1,
        )(y, y)
        x = x + nn.Dropout(0.1)(y, deterministic=deterministic)
        return x + Mlp(self.d)(nn.LayerNorm()(x), deterministic)


class AddPos(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.param("pos_embedding", nn.initializers.normal(stddev=0.02), (1, x.shape[1], x.shape[2]))


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (4, 4), strides=(4, 4), padding="VALID", name="embedding")(x)
        n, h, w, c = x.shape
        x = x.reshape(n, h * w, c)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, c))
        x = jnp.concatenate([jnp.tile(cls, [n, 1, 1]), x], 1)
        x = AddPos()(x)
        for _ in range(2):
            x = EncBlock()(x, deterministic=not train)
        return nn.Dense(3, kernel_init=nn.initializers.zeros, bias_init=nn.initializers.constant(-10.0))(
            nn.LayerNorm()(x)[:, 0]
        )


@linen
def vit():
    return ViT(), (img(2, 16, 16, 3),), {}


class RematT(nn.Module):
    @nn.compact
    def __call__(self, x, det=True):
        x = nn.Embed(20, 8, embedding_init=nn.initializers.normal(1.0))(x)
        B = nn.remat(EncBlock, static_argnums=(2,))
        for i in range(2):
            x = B(name=f"b{i}")(x, det)
        return x


@linen
def remat():
    return RematT(), (ids(2, 5),), {}


class ScanT(nn.Module):
    @nn.compact
    def __call__(self, x):
        class L(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return EncBlock()(x), None

        x, _ = nn.scan(
            nn.remat(L, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=3,
        )()(x, None)
        return nn.Dense(2)(x)


@linen
def scan_layers():
    return ScanT(), (img(2, 5, 8),), {}


@linen
def vmap_ensemble():
    class M(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.vmap(CNN, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3)()(
                x
            )

    return M(), (img(2, 12, 12, 1),), {}


@linen
def share_scope():
    class D(nn.Module):
        features: int

        def setup(self):
            self.dense = nn.Dense(self.features)

        def __call__(self, x):
            return self.dense(x)

    class DL(nn.Module):
        features: int
        rank: int = 2

        def setup(self):
            self.child = nn.Dense(self.features)
            nn.share_scope(self, self.child)

        @nn.compact
        def __call__(self, x):
            a = self.param("A", nn.initializers.normal(), (x.shape[-1], self.rank))
            b = self.param("B", nn.initializers.zeros, (self.rank, self.features))
            return self.child(x) + x @ a @ b

    class M(nn.Module):
        @nn.compact
        def __call__(self, x):
            return DL(4)(x)

    return M(), (img(2, 5),), {}


@linen
def custom_param_variable():
    class M(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            w = self.param("w", lambda k, s: jax.random.normal(k, s) * 0.1 + 1.0, (x.shape[-1], 64))
            s = self.param("s", lambda rng: jnp.float32(2.6592))
            m = self.variable("batch_stats", "mean", jnp.zeros, (x.shape[-1],))
            c = self.variable("counter", "count", lambda: jnp.zeros((), jnp.int32))
            self.variable("cache", "noise", lambda: jax.random.uniform(self.make_rng("params"), (40,)))
            self.param("tree", lambda k: {"a": jax.random.uniform(k, (50,), minval=-2, maxval=3), "b": jnp.arange(4.0)})
            self.param("lin", lambda k, n: jnp.linspace(0, 1, n), 7)
            if not self.is_initializing():
                c.value += 1
            return (x - m.value) @ w * s

    return M(), (img(2, 5),), {}


@linen
def partitioned():
    class M(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(
                6,
                kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model")),
                bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
            )(x)
            w = self.param(
                "w", nn.with_logical_partitioning(nn.initializers.xavier_normal(), ("embed", "mlp")), (6, 50)
            )
            return nn.with_logical_constraint(x @ w, ("batch", "mlp"))

    return M(), (img(2, 5),), {}


@linen
def convs():
    class M(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (3, 3), feature_group_count=4)(x)
            x = nn.ConvTranspose(6, (3, 3), strides=(2, 2))(x)
            x = nn.ConvLocal(3, (2, 2), padding="VALID")(x)
            x = nn.GroupNorm(3)(x)
            x = nn.PReLU()(x)
            x = nn.InstanceNorm()(x)
            return nn.RMSNorm()(x)

    return M(), (img(2, 6, 6, 4),), {}


@linen
def weightnorm_spectral():
    class M(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.WeightNorm(nn.Dense(8))(x)
            return nn.SpectralNorm(nn.Dense(4))(x, update_stats=False)

    return M(), (img(2, 6),), {}


@linen
def tied_attend():
    class T(nn.Module):
        def setup(self):
            self.e = nn.Embed(20, 8)
            self.l = [nn.Dense(8) for _ in range(2)]
            self.d = {"a": nn.Dense(8)}

        def __call__(self, x):
            x = self.e(x)
            for layer in self.l:
                x = layer(x)
            return self.e.attend(self.d["a"](x))

    return T(), (ids(2, 5),), {}


class NnxBlock(nnx.Module):
    def __init__(self, d, *, rngs):
        self.n = nnx.LayerNorm(d, rngs=rngs)
        self.a = nnx.MultiHeadAttention(2, d, decode=False, deterministic=True, dropout_rate=0.1, rngs=rngs)
        self.m = nnx.Sequential(nnx.Linear(d, 2 * d, rngs=rngs), nnx.gelu, nnx.Linear(2 * d, d, rngs=rngs))
        self.d = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        h = self.n(x)
        x = x + self.a(h)
        return x + self.d(self.m(x))


@module
def nnx_vmapped_stack():
    class S(nnx.Module):
        def __init__(self, n, d, *, rngs):
            @nnx.split_rngs(splits=n)
            @nnx.vmap(in_axes=(0,), out_axes=0)
            def make(r):
                return NnxBlock(d, rngs=r)

            self.layers = make(rngs)
            self.n = n

        def __call__(self, x):
            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            def f(x, layer):
                return layer(x)

            return f(x, self.layers)

    return S(3, 8, rngs=rngs()), (img(2, 5, 8),)


@module
def nnx_vmapped_bn():
    class B(nnx.Module):
        def __init__(self, d, *, rngs):
            self.l = nnx.Linear(d, d, rngs=rngs)
            self.b = nnx.BatchNorm(d, rngs=rngs)
            self.d = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.d(nnx.gelu(self.b(self.l(x))))

    class M(nnx.Module):
        def __init__(self, *, rngs):
            @nnx.split_rngs(splits=4)
            @nnx.vmap
            def c(r):
                return B(6, rngs=r)

            self.layers = c(rngs)

        def __call__(self, x):
            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            def f(x, m):
                return m(x)

            return f(x, self.layers)

    return M(rngs=rngs()), (img(2, 6),)


@module
def nnx_lora():
    class L(nnx.Module):
        def __init__(self, *, rngs):
            self.a = nnx.LoRALinear(6, 50, lora_rank=3, rngs=rngs)
            self.b = nnx.LoRA(50, 3, 4, base_module=nnx.Linear(50, 4, rngs=rngs), rngs=rngs)

        def __call__(self, x):
            return self.b(self.a(x))

    return L(rngs=rngs()), (img(2, 6),)


@module
def nnx_rnns():
    class M(nnx.Module):
        def __init__(self, *, rngs):
            self.a = nnx.RNN(nnx.LSTMCell(4, 6, rngs=rngs))
            self.b = nnx.Bidirectional(
                nnx.RNN(nnx.GRUCell(6, 5, rngs=rngs)),
                nnx.RNN(nnx.OptimizedLSTMCell(6, 5, rngs=rngs), rngs=rngs)
                if False
                else nnx.RNN(nnx.OptimizedLSTMCell(6, 5, rngs=rngs)),
            )
            self.c = nnx.RNN(nnx.SimpleCell(10, 3, rngs=rngs))

        def __call__(self, x):
            return self.c(self.b(self.a(x)))

    return M(rngs=rngs()), (img(2, 5, 4),)


@module
def nnx_vae():
    class V(nnx.Module):
        def __init__(self, *, rngs):
            self.l = nnx.Linear(6, 8, rngs=rngs)
            self.m = nnx.Linear(8, 3, rngs=rngs)
            self.s = nnx.Linear(8, 3, rngs=rngs)
            self.d = nnx.Linear(3, 6, rngs=rngs)
            self.rngs = rngs

        def __call__(self, x):
            h = nnx.relu(self.l(x))
            m = self.m(h)
            return self.d(
                m + jnp.exp(self.s(h)) * jax.random.normal(self.rngs.noise() if False else self.rngs.dropout(), m.shape)
            )

    return V(rngs=rngs()), (img(2, 6),)
