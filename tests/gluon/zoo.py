"""Models in the style of Gluon's examples, small: each a function that makes one, and what it is called on."""

import mxnet as mx
import numpy as np
from mxnet import gluon, nd
from mxnet.gluon import nn, rnn

ZOO = {}


def zoo(make):
    ZOO[make.__name__] = make
    return make


def img(*shape):
    return nd.array(np.random.default_rng(0).random(shape, dtype=np.float32))


def ids(*shape, n=20):
    return nd.array(np.random.default_rng(0).integers(0, n, shape).astype("float32"))


@zoo
def mlp():
    n = nn.HybridSequential()
    n.add(nn.Dense(8, activation="relu"), nn.BatchNorm(), nn.Dropout(0.5), nn.Dense(3))
    return n, [img(2, 5)]


@zoo
def lstm():
    return rnn.LSTM(6, 2, bidirectional=True), [img(5, 2, 4)]


@zoo
def lm():
    class RNNModel(gluon.Block):
        def __init__(self, v, e, h, n, **k):
            super().__init__(**k)
            with self.name_scope():
                self.drop = nn.Dropout(0.5)
                self.encoder = nn.Embedding(v, e, weight_initializer=mx.init.Uniform(0.1))
                self.rnn = rnn.LSTM(h, n, dropout=0.5, input_size=e)
                self.decoder = nn.Dense(v, in_units=h, params=self.encoder.params, flatten=False)

        def forward(self, x):
            return self.decoder(self.rnn(self.encoder(x)))

    return RNNModel(20, 6, 6, 2), [ids(5, 2)]


@zoo
def cells():
    s = rnn.HybridSequentialRNNCell()
    [
        s.add(c)
        for c in (
            rnn.LSTMCell(4),
            rnn.DropoutCell(0.2),
            rnn.ResidualCell(rnn.GRUCell(4)),
            rnn.ZoneoutCell(rnn.RNNCell(4)),
        )
    ]

    class N(gluon.HybridBlock):
        def __init__(self, **k):
            super().__init__(**k)
            with self.name_scope():
                self.c = s
                self.o = nn.Dense(3)

        def hybrid_forward(self, F, x):
            o, _ = self.c.unroll(3, x, layout="NTC", merge_outputs=True)
            return self.o(o)

    return N(), [img(2, 3, 4)]


@zoo
def bicells():
    b = rnn.BidirectionalCell(rnn.LSTMCell(4), rnn.LSTMCell(4))

    class N(gluon.Block):
        def __init__(self, **k):
            super().__init__(**k)
            with self.name_scope():
                self.c = b
                self.o = nn.Dense(3)

        def forward(self, x):
            o, _ = self.c.unroll(3, x, layout="NTC", merge_outputs=True)
            return self.o(o)

    return N(), [img(2, 3, 4)]


@zoo
def constant_param():
    class N(gluon.HybridBlock):
        def __init__(self, **k):
            super().__init__(**k)
            with self.name_scope():
                self.c = self.params.get_constant("c", nd.array([[1.0, 2.0], [3, 4]]))
                self.w = self.params.get("w", shape=(2, 0), init=mx.init.Xavier(), allow_deferred_init=True)
                self.d = nn.Dense(2)

        def hybrid_forward(self, F, x, c, w):
            return F.dot(self.d(x), c)

    class M(gluon.HybridBlock):
        def __init__(self, **k):
            super().__init__(**k)
            with self.name_scope():
                self.c = self.params.get_constant("c", nd.array([[1.0, 2.0], [3, 4]]))
                self.scale = self.params.get("scale", shape=(1,), init=mx.init.Constant(20))
                self.d = nn.Dense(2)

        def hybrid_forward(self, F, x, c, scale):
            return F.broadcast_mul(F.dot(self.d(x), c), scale)

    return M(), [img(2, 5)]


@zoo
def shared():
    n = nn.HybridSequential(prefix="s_")
    a = nn.Dense(5, activation="relu")
    n.add(a, nn.Dense(5, params=a.params, activation="relu"), nn.Dense(3))
    return n, [img(2, 5)]


@zoo
def convs():
    n = nn.HybridSequential()
    n.add(
        nn.Conv2D(8, 3, groups=1),
        nn.Conv2D(8, 3, groups=4, padding=1),
        nn.Conv2DTranspose(4, 3, strides=2),
        nn.PReLU(),
        nn.InstanceNorm(),
        nn.GroupNorm(2),
        nn.GlobalAvgPool2D(),
        nn.Flatten(),
        nn.LayerNorm(),
        nn.SELU(),
        nn.Swish(),
        nn.GELU(),
        nn.Dense(2),
    )
    return n, [img(2, 3, 10, 10)]


@zoo
def contrib():
    from mxnet.gluon.contrib import nn as cnn

    n = nn.HybridSequential()
    c = cnn.HybridConcurrent(axis=1)
    c.add(nn.Conv2D(4, 1), nn.Conv2D(2, 3, padding=1), cnn.Identity())
    n.add(c, cnn.PixelShuffle2D(1), nn.Flatten(), nn.Dense(2))
    return n, [img(2, 3, 6, 6)]


@zoo
def contrib_rnn():
    from mxnet.gluon.contrib import rnn as crnn

    class N(gluon.HybridBlock):
        def __init__(self, **k):
            super().__init__(**k)
            with self.name_scope():
                self.c = crnn.Conv2DLSTMCell((3, 8, 8), 4, 3, 3, i2h_pad=1)

        def hybrid_forward(self, F, x):
            o, _ = self.c.unroll(3, x, layout="NTC", merge_outputs=True)
            return o

    return N(), [img(2, 3, 3, 8, 8)]


@zoo
def lambda_blocks():
    n = nn.HybridSequential()
    n.add(
        nn.HybridLambda(lambda F, x: F.expand_dims(x, 1)),
        nn.Conv1D(4, 2),
        nn.HybridLambda("relu"),
        nn.Flatten(),
        nn.Dense(2),
    )
    return n, [img(2, 7)]


@zoo
def ssd_like():
    class SSD(gluon.Block):
        def __init__(self, **k):
            super().__init__(**k)
            for i in range(3):
                setattr(self, f"blk_{i}", self.blk(4 * (i + 1)))
                setattr(self, f"cls_{i}", nn.Conv2D(6, 3, padding=1))
                setattr(self, f"box_{i}", nn.Conv2D(8, 3, padding=1))

        def blk(self, c):
            b = nn.HybridSequential()
            for _ in range(2):
                b.add(nn.Conv2D(c, 3, padding=1), nn.BatchNorm(in_channels=c), nn.Activation("relu"))
            b.add(nn.MaxPool2D(2))
            return b

        def forward(self, X):
            outs = []
            for i in range(3):
                X = getattr(self, f"blk_{i}")(X)
                a = nd.contrib.MultiBoxPrior(X, sizes=(0.2, 0.3), ratios=(1, 2))
                outs.append((a, getattr(self, f"cls_{i}")(X), getattr(self, f"box_{i}")(X)))
            return nd.concat(*[nd.flatten(nd.transpose(o[1], (0, 2, 3, 1))) for o in outs], dim=1)

    return SSD(), [img(2, 3, 32, 32)]


@zoo
def symbolblock():
    x = mx.sym.var("data")
    y = mx.sym.FullyConnected(x, num_hidden=5, name="fc1")
    y = mx.sym.Activation(y, act_type="relu")
    y = mx.sym.BatchNorm(y, name="bn")
    y = mx.sym.FullyConnected(y, num_hidden=3, name="fc2")
    return gluon.SymbolBlock(y, x), [img(2, 4)]


@zoo
def attention_block():
    class DPA(gluon.Block):
        def __init__(self, u, h, **k):
            super().__init__(**k)
            self.h = h
            self.W_q = nn.Dense(u, use_bias=False, flatten=False)
            self.W_k = nn.Dense(u, use_bias=False, flatten=False)
            self.W_v = nn.Dense(u, use_bias=False, flatten=False)
            self.W_o = nn.Dense(u, use_bias=False, flatten=False)

        def forward(self, q, k, v):
            q, k, v = self.W_q(q), self.W_k(k), self.W_v(v)
            s = nd.batch_dot(q, k, transpose_b=True) / (q.shape[-1] ** 0.5)
            return self.W_o(nd.batch_dot(nd.softmax(s), v))

    return DPA(8, 2), [img(2, 5, 6)] * 3
