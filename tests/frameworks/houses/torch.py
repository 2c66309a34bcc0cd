"""The networks of the contract in PyTorch, and how their values are read."""

import torch
from torch import nn

import seedbed as sb

name = "torch"


class Wired(nn.Module):
    """Layers by name, in the order in which they are called, and how a call goes through them."""

    def __init__(self, call, **layers):
        super().__init__()
        for key, layer in layers.items():
            setattr(self, key, layer)
        self.call = call

    def forward(self, *inputs):
        return self.call(self, *inputs)


def mlp(dtype="float32"):
    kind = getattr(torch, dtype)
    net = nn.Sequential(nn.LazyLinear(256, dtype=kind), nn.ReLU(), nn.LazyLinear(10, dtype=kind))
    return net, [sb.Input((2, 20), dtype)]


def named(*names):
    """Layers of 8 units under these names, one after the other."""
    net = nn.Sequential()
    for key in names:
        net.add_module(key, nn.LazyLinear(8))
    return net, [(2, 8)]


def large():
    """More than half a gigabyte of parameters."""
    return nn.Sequential(nn.LazyLinear(8192), nn.ReLU(), nn.LazyLinear(8192), nn.LazyLinear(8192)), [(2, 1024)]


def tied():
    """One layer called twice, under two names where the framework has two."""
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(8))
    net[2] = net[0]
    return net, [(2, 8)]


def lenet():
    net = nn.Sequential(
        nn.LazyConv2d(6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2), nn.LazyConv2d(16, 5), nn.Sigmoid(),
        nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(120), nn.Sigmoid(), nn.LazyLinear(84), nn.Sigmoid(),
        nn.LazyLinear(10),
    )  # fmt: skip
    return net, [(2, 1, 28, 28)]


def resnet_block():
    def call(self, x):
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))

    net = Wired(
        call,
        conv1=nn.LazyConv2d(16, 3, padding=1, stride=2),
        norm1=nn.LazyBatchNorm2d(),
        conv2=nn.LazyConv2d(16, 3, padding=1),
        norm2=nn.LazyBatchNorm2d(),
        shortcut=nn.LazyConv2d(16, 1, stride=2),
    )
    return net, [(2, 8, 8, 8)]


def lstm():
    return Wired(lambda self, x: self.rnn(x)[0], rnn=nn.LSTM(8, 16, batch_first=True)), [(2, 5, 8)]


def gru():
    return Wired(lambda self, x: self.rnn(x)[0], rnn=nn.GRU(8, 16, batch_first=True)), [(2, 5, 8)]


def encoder_block():
    def call(self, x):
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        return self.norm2(x + self.linear2(torch.relu(self.linear1(x))))

    net = Wired(
        call,
        attention=nn.MultiheadAttention(16, 4, batch_first=True),
        norm1=nn.LayerNorm(16),
        linear1=nn.LazyLinear(32),
        linear2=nn.LazyLinear(16),
        norm2=nn.LayerNorm(16),
    )
    return net, [(2, 5, 16)]


def embedding():
    net = nn.Sequential(nn.Embedding(50, 16), nn.LazyLinear(4))
    return net, [sb.Input((2, 7), "int64")]


def arrays(started):
    """Every parameter and buffer, by path, as NumPy has it; bfloat16 as its bits."""
    found = {**dict(started.named_parameters()), **dict(started.named_buffers())}
    return {p: (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).detach().numpy() for p, t in found.items()}


def forward(net, started, x):
    """The network's answer, in evaluation; images are (batch, channels, height, width)."""
    return started.eval()(torch.from_numpy(x)).detach().numpy()


def state(net):
    """All of a network that tracing must leave as it is."""
    return repr(net), torch.get_rng_state().tolist(), [id(p) for p in net.parameters()], net.training


def wished(net, recipe, seed, x):
    """Started by its first call, after a wish without sizes."""
    sb.initialize(net, recipe=recipe, seed=seed)(torch.from_numpy(x))
    return net
