"""The networks of the contract in MXNet Gluon, and how their values are read."""

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, nn, rnn

import seedbed as sb
from seedbed.frameworks.gluon.blocks import BFLOAT16, blocks, parameters

name = "gluon"


class Wired(HybridBlock):
    """Layers by name, in the order in which they are called, and how a call goes through them."""

    def __init__(self, call, **layers):
        super().__init__()
        for key, layer in layers.items():
            setattr(self, key, layer)
        self.call = call

    def hybrid_forward(self, F, *inputs):
        return self.call(self, F, *inputs)


def chain(*layers):
    net = nn.HybridSequential()
    net.add(*layers)
    return net


def mlp(dtype="float32"):
    kind = BFLOAT16 if dtype == "bfloat16" else dtype
    net = chain(nn.Dense(256, dtype=kind), nn.Activation("relu"), nn.Dense(10, dtype=kind))
    return net, [sb.Input((2, 20), dtype)]


def named(*names):
    """Layers of 8 units under these names, one after the other."""

    def call(self, F, x):
        for key in names:
            x = getattr(self, key)(x)
        return x

    return Wired(call, **{key: nn.Dense(8) for key in names}), [(2, 8)]


def large():
    """More than half a gigabyte of parameters; their gradients, as much again, are left out."""
    net = chain(nn.Dense(8192), nn.Activation("relu"), nn.Dense(8192), nn.Dense(8192))
    net.collect_params().setattr("grad_req", "null")
    return net, [(2, 1024)]


def tied():
    """One layer called twice, under two names."""
    layer = nn.Dense(8)
    return chain(layer, nn.Activation("relu"), layer), [(2, 8)]


def lenet():
    net = chain(
        nn.Conv2D(6, 5, padding=2, activation="sigmoid"), nn.AvgPool2D(2), nn.Conv2D(16, 5, activation="sigmoid"),
        nn.AvgPool2D(2), nn.Dense(120, activation="sigmoid"), nn.Dense(84, activation="sigmoid"), nn.Dense(10),
    )  # fmt: skip
    return net, [(2, 1, 28, 28)]


def resnet_block():
    def call(self, F, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))

    net = Wired(
        call,
        conv1=nn.Conv2D(16, 3, padding=1, strides=2),
        norm1=nn.BatchNorm(),
        conv2=nn.Conv2D(16, 3, padding=1),
        norm2=nn.BatchNorm(),
        shortcut=nn.Conv2D(16, 1, strides=2),
    )
    return net, [(2, 8, 8, 8)]


def lstm():
    return Wired(lambda self, F, x: self.rnn(x), rnn=rnn.LSTM(16, layout="NTC")), [(2, 5, 8)]


def gru():
    return Wired(lambda self, F, x: self.rnn(x), rnn=rnn.GRU(16, layout="NTC")), [(2, 5, 8)]


def encoder_block():
    """Gluon has no layer of attention: queries, keys and values are three layers of their own."""

    def heads(F, x):
        return F.reshape(F.transpose(F.reshape(x, shape=(0, 0, 4, -1)), axes=(0, 2, 1, 3)), shape=(-3, 0, 0))

    def call(self, F, x):
        q, k, v = (heads(F, layer(x)) for layer in (self.query, self.key, self.value))
        weights = F.softmax(F.batch_dot(q, k, transpose_b=True) / 2)  # the square root of 4 per head
        mixed = F.reshape(F.batch_dot(weights, v), shape=(-4, -1, 4, 0, 0))
        mixed = F.reshape(F.transpose(mixed, axes=(0, 2, 1, 3)), shape=(0, 0, -3))
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))

    net = Wired(
        call,
        query=nn.Dense(16, flatten=False),
        key=nn.Dense(16, flatten=False),
        value=nn.Dense(16, flatten=False),
        out=nn.Dense(16, flatten=False),
        norm1=nn.LayerNorm(),
        linear1=nn.Dense(32, flatten=False),
        linear2=nn.Dense(16, flatten=False),
        norm2=nn.LayerNorm(),
    )
    return net, [(2, 5, 16)]


def embedding():
    return chain(nn.Embedding(50, 16), nn.Dense(4, flatten=False)), [sb.Input((2, 7), "int64")]


def arrays(started):
    """Every parameter and buffer, by path, as NumPy has it; bfloat16 as its bits."""
    found = {held.path: held.parameter.data().asnumpy() for held in parameters(started)}
    return {p: a.view(np.int16) if a.dtype == BFLOAT16 else a for p, a in found.items()}


def forward(net, started, x):
    """The network's answer, in evaluation; images are (batch, channels, height, width)."""
    return started(mx.nd.array(x, dtype=x.dtype)).asnumpy()


def state(net):
    """All of a network that tracing must leave as it is."""
    layers = [
        (
            id(b),
            b.prefix,
            len(b._forward_hooks),
            len(b._forward_pre_hooks),
            sorted(vars(b)),
            getattr(b, "_cached_graph", 0),
        )
        for _, b in blocks(net)
    ]
    held = [
        (h.path, id(h.parameter), h.parameter._shape, h.parameter._var, h.parameter._deferred_init, h.parameter._data)
        for h in parameters(net)
    ]
    return repr(net), layers, held, dict(mx.name.NameManager._current.value._counter)


def wished(net, recipe, seed, x):
    """Started by its first call, after a wish without sizes."""
    sb.initialize(net, recipe=recipe, seed=seed)(mx.nd.array(x))
    return net
