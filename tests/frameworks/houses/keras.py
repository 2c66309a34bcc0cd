"""The networks of the contract in Keras, on the backend that the process has, and how their values are read."""

import random

import keras
import numpy as np
from keras import layers as kl
from keras.src.backend.common import global_state

import seedbed as sb
from seedbed.frameworks.keras import walk

name = "keras"


class Wired(keras.Model):
    """Layers by name, in the order in which they are called, and how a call goes through them."""

    def __init__(self, through, **layers):
        super().__init__()
        for key, layer in layers.items():
            setattr(self, key, layer)
        self.through = through

    def call(self, x):
        return self.through(self, x)


def mlp(dtype="float32"):
    net = keras.Sequential([kl.Dense(256, dtype=dtype), kl.ReLU(dtype=dtype), kl.Dense(10, dtype=dtype)])
    return net, [sb.Input((2, 20), dtype)]


def named(*names):
    """Layers of 8 units under these names, one after the other."""
    return keras.Sequential([kl.Dense(8, name=key) for key in names]), [(2, 8)]


def large():
    """More than half a gigabyte of parameters."""
    return keras.Sequential([kl.Dense(8192), kl.ReLU(), kl.Dense(8192), kl.Dense(8192)]), [(2, 1024)]


def tied():
    """One layer called twice, under two names."""
    shared = kl.Dense(8)
    net = Wired(lambda self, x: self.last(keras.ops.relu(self.first(x))), first=shared, last=shared)
    return net, [(2, 8)]


def lenet():
    """Images are (batch, height, width, channels), and are flattened as PyTorch flattens them."""
    net = keras.Sequential([
        kl.Conv2D(6, 5, padding="same", activation="sigmoid"), kl.AveragePooling2D(2),
        kl.Conv2D(16, 5, activation="sigmoid"), kl.AveragePooling2D(2), kl.Permute((3, 1, 2)), kl.Flatten(),
        kl.Dense(120, activation="sigmoid"), kl.Dense(84, activation="sigmoid"), kl.Dense(10),
    ])  # fmt: skip
    return net, [(2, 28, 28, 1)]


def resnet_block():
    def through(self, x):
        y = self.norm1(self.conv1(self.pad(x)))
        y = self.norm2(self.conv2(keras.ops.relu(y)))
        return keras.ops.relu(y + self.shortcut(x))

    net = Wired(
        through,
        pad=kl.ZeroPadding2D(1),  # PyTorch pads both sides alike, which "same" does not for strides of 2
        conv1=kl.Conv2D(16, 3, strides=2),
        norm1=kl.BatchNormalization(epsilon=1e-5),
        conv2=kl.Conv2D(16, 3, padding="same"),
        norm2=kl.BatchNormalization(epsilon=1e-5),
        shortcut=kl.Conv2D(16, 1, strides=2),
    )
    return net, [(2, 8, 8, 8)]


def lstm():
    return Wired(lambda self, x: self.rnn(x), rnn=kl.LSTM(16, return_sequences=True)), [(2, 5, 8)]


def gru():
    return Wired(lambda self, x: self.rnn(x), rnn=kl.GRU(16, return_sequences=True)), [(2, 5, 8)]


def encoder_block():
    def through(self, x):
        x = self.norm1(x + self.attention(x, x))
        return self.norm2(x + self.linear2(keras.ops.relu(self.linear1(x))))

    net = Wired(
        through,
        attention=kl.MultiHeadAttention(4, 4),
        norm1=kl.LayerNormalization(epsilon=1e-5),
        linear1=kl.Dense(32),
        linear2=kl.Dense(16),
        norm2=kl.LayerNormalization(epsilon=1e-5),
    )
    return net, [(2, 5, 16)]


def embedding():
    return keras.Sequential([kl.Embedding(50, 16), kl.Dense(4)]), [sb.Input((2, 7), "int32")]


def arrays(started):
    """Every parameter and buffer, by path, as NumPy has it; bfloat16 as its bits."""
    found = {place.path: keras.ops.convert_to_numpy(place.variable.value) for place in walk.held(started)}
    return {p: a.view(np.int16) if str(a.dtype) == "bfloat16" else a for p, a in found.items()}


def forward(net, started, x):
    """The network's answer, in evaluation; images are (batch, channels, height, width)."""
    answer = keras.ops.convert_to_numpy(started(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x, training=False))
    return answer.transpose(0, 3, 1, 2) if answer.ndim == 4 else answer


def state(net):
    """All of a network, and of the process, that tracing must leave as it is."""
    layers = [(layer.name, layer.built, sorted(vars(layer))) for layer in walk.layers(net)]
    values = [(id(v), id(v._value)) for v in net.variables]
    counts = dict(global_state.get_global_attribute("object_name_uids"))
    return layers, values, random.getstate(), np.random.get_state()[1].tolist(), counts


def wished(net, recipe, seed, x):
    """Started by its first call, after a wish without sizes."""
    sb.initialize(net, recipe=recipe, seed=seed)(x)
    return net
