"""Models in the style of keras.io's examples, small: each a function that makes one, and what it is called on."""

import keras
import numpy as np
from keras import layers as L
from keras import ops

ZOO = {}


def zoo(make):
    ZOO[make.__name__] = make
    return make


def img(*shape):
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def ids(*shape, n=20):
    return np.random.default_rng(0).integers(0, n, shape).astype("int32")


@zoo
def mnist_convnet_unbuilt():
    return keras.Sequential(
        [L.Conv2D(8, 3, activation="relu"), L.MaxPooling2D(), L.Conv2D(16, 3), L.Flatten(), L.Dropout(0.5), L.Dense(10)]
    ), (img(2, 28, 28, 1),)


class Patches(L.Layer):
    def __init__(self, patch_size):
        super().__init__()
        self.patch_size = patch_size

    def call(self, images):
        s = ops.shape(images)
        p = self.patch_size
        x = ops.image.extract_patches(images, size=p)
        return ops.reshape(x, (s[0], (s[1] // p) * (s[2] // p), p * p * s[3]))


class PatchEncoder(L.Layer):
    def __init__(self, n, d):
        super().__init__()
        self.num_patches = n
        self.projection = L.Dense(units=d)
        self.position_embedding = L.Embedding(n, d)

    def call(self, patch):
        pos = ops.expand_dims(ops.arange(0, self.num_patches, 1), 0)
        return self.projection(patch) + self.position_embedding(pos)


def mlp(x, units, rate):
    for u in units:
        x = L.Dropout(rate)(L.Dense(u, activation=keras.activations.gelu)(x))
    return x


@zoo
def vit():
    i = keras.Input((16, 16, 3))
    p = Patches(4)(i)
    e = PatchEncoder(16, 8)(p)
    for _ in range(2):
        x1 = L.LayerNormalization(epsilon=1e-6)(e)
        a = L.MultiHeadAttention(num_heads=2, key_dim=8, dropout=0.1)(x1, x1)
        x2 = L.Add()([a, e])
        x3 = L.LayerNormalization()(x2)
        x3 = mlp(x3, [16, 8], 0.1)
        e = L.Add()([x3, x2])
    r = L.Flatten()(L.LayerNormalization()(e))
    return keras.Model(i, L.Dense(10)(mlp(r, [32], 0.5))), (img(2, 16, 16, 3),)


class TransformerBlock(L.Layer):
    def __init__(self, embed_dim, num_heads, ff_dim, rate=0.1):
        super().__init__()
        self.att = L.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential([L.Dense(ff_dim, activation="relu"), L.Dense(embed_dim)])
        self.layernorm1 = L.LayerNormalization(epsilon=1e-6)
        self.layernorm2 = L.LayerNormalization(epsilon=1e-6)
        self.dropout1 = L.Dropout(rate)
        self.dropout2 = L.Dropout(rate)

    def call(self, inputs):
        a = self.dropout1(self.att(inputs, inputs))
        o = self.layernorm1(inputs + a)
        return self.layernorm2(o + self.dropout2(self.ffn(o)))


class TokenAndPositionEmbedding(L.Layer):
    def __init__(self, maxlen, vocab, d):
        super().__init__()
        self.token_emb = L.Embedding(vocab, d)
        self.pos_emb = L.Embedding(maxlen, d)

    def call(self, x):
        return self.token_emb(x) + self.pos_emb(ops.arange(0, ops.shape(x)[-1], 1))


@zoo
def text_transformer():
    i = keras.Input((12,))
    x = TokenAndPositionEmbedding(12, 20, 8)(i)
    x = TransformerBlock(8, 2, 16)(x)
    x = L.GlobalAveragePooling1D()(x)
    return keras.Model(i, L.Dense(2)(L.Dropout(0.1)(x))), (ids(2, 12),)


@zoo
def bilstm_imdb():
    i = keras.Input((None,), dtype="int32")
    x = L.Embedding(20, 8)(i)
    x = L.Bidirectional(L.LSTM(6, return_sequences=True))(x)
    x = L.Bidirectional(L.LSTM(6))(x)
    return keras.Model(i, L.Dense(1, activation="sigmoid")(x)), (ids(2, 9),)


@zoo
def seq2seq_lstm():
    e = keras.Input((None, 7))
    enc = L.LSTM(6, return_state=True)
    _, h, c = enc(e)
    d = keras.Input((None, 8))
    dl = L.LSTM(6, return_sequences=True, return_state=True)
    o, _, _ = dl(d, initial_state=[h, c])
    return keras.Model([e, d], L.Dense(8, activation="softmax")(o)), ([img(2, 5, 7), img(2, 4, 8)],)


@zoo
def unet_xception():
    i = keras.Input((32, 32, 3))
    x = L.Conv2D(8, 3, strides=2, padding="same")(i)
    x = L.BatchNormalization()(x)
    x = L.Activation("relu")(x)
    prev = x
    for f in [8, 16]:
        for _ in range(2):
            x = L.Activation("relu")(x)
            x = L.SeparableConv2D(f, 3, padding="same")(x)
            x = L.BatchNormalization()(x)
        x = L.MaxPooling2D(3, strides=2, padding="same")(x)
        r = L.Conv2D(f, 1, strides=2, padding="same")(prev)
        x = L.add([x, r])
        prev = x
    for f in [16, 8]:
        for _ in range(2):
            x = L.Activation("relu")(x)
            x = L.Conv2DTranspose(f, 3, padding="same")(x)
            x = L.BatchNormalization()(x)
        x = L.UpSampling2D(2)(x)
        r = L.Conv2D(f, 1, padding="same")(L.UpSampling2D(2)(prev))
        x = L.add([x, r])
        prev = x
    return keras.Model(i, L.Conv2D(3, 3, activation="softmax", padding="same")(x)), (img(2, 32, 32, 3),)


class Linear(L.Layer):
    def __init__(self, units=8, **k):
        super().__init__(**k)
        self.units = units

    def build(self, s):
        self.w = self.add_weight(shape=(s[-1], self.units), initializer="random_normal", trainable=True)
        self.b = self.add_weight(shape=(self.units,), initializer="random_normal", trainable=True)

    def call(self, x):
        return ops.matmul(x, self.w) + self.b


class MLPBlock(L.Layer):
    def __init__(self):
        super().__init__()
        self.linear_1 = Linear(8)
        self.linear_2 = Linear(8)
        self.linear_3 = Linear(1)

    def call(self, x):
        return self.linear_3(ops.relu(self.linear_2(ops.relu(self.linear_1(x)))))


@zoo
def custom_linear():
    return MLPBlock(), (img(3, 5),)


class Antirectifier(L.Layer):
    def __init__(self, initializer="he_normal", **k):
        super().__init__(**k)
        self.initializer = keras.initializers.get(initializer)

    def build(self, s):
        d = s[-1]
        self.kernel = self.add_weight(shape=(d * 2, d), initializer=self.initializer, name="kernel", trainable=True)

    def call(self, x):
        x = x - ops.mean(x, axis=-1, keepdims=True)
        return ops.matmul(ops.concatenate([ops.relu(x), ops.relu(-x)], axis=-1), self.kernel)


@zoo
def antirectifier():
    return keras.Sequential(
        [keras.Input((6,)), L.Dense(8), Antirectifier(), L.Dense(8), Antirectifier(), L.Dense(2)]
    ), (img(2, 6),)


class ParentOwn(L.Layer):
    """own weight + child built in build (as keras docs recommend)."""

    def __init__(self, **k):
        super().__init__(**k)
        self.proj = L.Dense(4)
        self.norm = L.LayerNormalization()

    def build(self, s):
        self.token = self.add_weight(
            shape=(1, 1, s[-1]), initializer=keras.initializers.TruncatedNormal(stddev=0.02), name="token"
        )
        self.scale = self.add_weight(shape=(), initializer=keras.initializers.Constant(0.5), name="scale")
        self.proj.build(s)
        self.norm.build((*s[:-1], 4))
        self.built = True

    def call(self, x):
        return self.norm(self.proj(x + self.token)) * self.scale


@zoo
def parent_own_functional():
    i = keras.Input((6, 5))
    return keras.Model(i, L.Dense(2)(ParentOwn()(i))), (img(2, 6, 5),)


@zoo
def gqa_llama():
    class Block(L.Layer):
        def __init__(self):
            super().__init__()
            self.n = L.RMSNormalization()
            self.a = L.GroupQueryAttention(4, 4, 2)
            self.m = L.RMSNormalization()
            self.g = L.Dense(16, use_bias=False, activation="silu")
            self.u = L.Dense(16, use_bias=False)
            self.d = L.Dense(8, use_bias=False)

        def call(self, x):
            h = self.n(x)
            x = x + self.a(h, h, use_causal_mask=True)
            h = self.m(x)
            return x + self.d(self.g(h) * self.u(h))

    i = keras.Input((None,), dtype="int32")
    e = L.ReversibleEmbedding(20, 8)
    x = e(i)
    for _ in range(2):
        x = Block()(x)
    return keras.Model(i, e(x, reverse=True)), (ids(2, 7),)


@zoo
def all_rnns():
    i = keras.Input((5, 4))
    a = L.SimpleRNN(3, return_sequences=True)(i)
    b = L.GRU(3, return_sequences=True, reset_after=False)(i)
    c = L.GRU(3, return_sequences=True)(i)
    d = L.RNN([L.LSTMCell(3), L.GRUCell(2)], return_sequences=True)(i)
    e = L.LSTM(3, return_sequences=True, unit_forget_bias=False, recurrent_initializer="glorot_normal")(i)
    f = L.TimeDistributed(L.Dense(2))(i)
    return keras.Model(i, L.Concatenate()([a, b, c, d, e, f])), (img(2, 5, 4),)


@zoo
def convlstm():
    i = keras.Input((4, 8, 8, 1))
    x = L.ConvLSTM2D(4, 3, padding="same", return_sequences=True)(i)
    x = L.BatchNormalization()(x)
    x = L.ConvLSTM2D(4, 3, padding="same", return_sequences=True)(x)
    x = L.Conv3D(1, 3, padding="same")(x)
    return keras.Model(i, x), (img(2, 4, 8, 8, 1),)


@zoo
def all_convs():
    i = keras.Input((8, 8, 4))
    xs = [
        L.Conv2D(4, 3, groups=2, padding="same")(i),
        L.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(i),
        L.SeparableConv2D(5, 3, padding="same")(i),
        L.Conv2DTranspose(3, 3, padding="same", dilation_rate=1)(i),
    ]
    return keras.Model(i, L.Concatenate()(xs)), (img(2, 8, 8, 4),)


@zoo
def all_norms():
    i = keras.Input((8, 8, 4))
    x = L.GroupNormalization(2)(i)
    x = L.LayerNormalization(axis=[1, 2, 3])(x)
    x = L.UnitNormalization()(x)
    x = L.RMSNormalization()(x)
    x = L.BatchNormalization(scale=False)(x)
    x = L.SpectralNormalization(L.Conv2D(3, 3))(x)
    x = L.PReLU(shared_axes=[1, 2])(x)
    return keras.Model(i, x), (img(2, 8, 8, 4),)


@zoo
def shared_siamese():
    t = keras.Sequential([L.Conv2D(4, 3), L.BatchNormalization(), L.Flatten(), L.Dense(5)])
    a = keras.Input((8, 8, 1))
    b = keras.Input((8, 8, 1))
    d = L.Lambda(lambda v: ops.abs(v[0] - v[1]))([t(a), t(b)])
    return keras.Model([a, b], L.Dense(1)(d)), ([img(2, 8, 8, 1), img(2, 8, 8, 1)],)


@zoo
def pure_bfloat16():
    i = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, dtype="bfloat16")(i)
    x = L.BatchNormalization(dtype="bfloat16")(x)
    x = L.Flatten()(x)
    return keras.Model(i, L.Dense(3, dtype="bfloat16")(x)), (img(2, 8, 8, 3),)


@zoo
def nested_models():
    base = keras.applications.MobileNet(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.25)
    base.trainable = False
    i = keras.Input((32, 32, 3))
    x = L.Rescaling(1 / 127.5, offset=-1)(i)
    x = base(x, training=False)
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(i, L.Dense(1)(L.Dropout(0.2)(x))), (img(1, 32, 32, 3),)


@zoo
def deeplab_like_subclass():
    class ResBlock(keras.Model):
        def __init__(self, f):
            super().__init__()
            self.c = [L.Conv2D(f, 3, padding="same") for _ in range(2)]
            self.b = {"one": L.BatchNormalization(), "two": L.BatchNormalization()}

        def call(self, x, training=False):
            y = self.b["one"](self.c[0](x), training=training)
            return self.b["two"](self.c[1](ops.relu(y)), training=training)

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.stem = L.Conv2D(4, 1)
            self.blocks = [ResBlock(4), ResBlock(4)]
            self.head = keras.Sequential([L.GlobalAveragePooling2D(), L.Dense(3)])

        def call(self, x, training=False):
            x = self.stem(x)
            for b in self.blocks:
                x = x + b(x, training=training)
            return self.head(x)

    return Net(), (img(2, 8, 8, 3),)


@zoo
def gcn():
    class GraphAttention(L.Layer):
        def __init__(self, units, **k):
            super().__init__(**k)
            self.units = units
            self.kernel_initializer = keras.initializers.get("glorot_uniform")

        def build(self, s):
            self.kernel = self.add_weight(
                shape=(s[0][-1], self.units), trainable=True, initializer=self.kernel_initializer, name="kernel"
            )
            self.kernel_attention = self.add_weight(
                shape=(self.units * 2, 1), trainable=True, initializer=self.kernel_initializer, name="kernel_attention"
            )
            self.built = True

        def call(self, inputs):
            h, _ = inputs
            return ops.matmul(h, self.kernel) * ops.sum(self.kernel_attention)

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.pre = L.Dense(6, activation="relu")
            self.at = [GraphAttention(4), GraphAttention(4)]
            self.out = L.Dense(2)

        def call(self, inputs):
            h, e = inputs
            h = self.pre(h)
            for a in self.at:
                h = a([h, e])
            return self.out(h)

    return Net(), ([img(5, 7), ids(9, 2, n=5)],)


@zoo
def sequential_of_models():
    return keras.Sequential([keras.Sequential([L.Dense(4), L.BatchNormalization()]), MLPBlock(), L.Dense(2)]), (
        img(3, 6),
    )


@zoo
def nested_tuple_dict_io():
    class M(keras.Model):
        def __init__(self):
            super().__init__()
            self.a = L.Dense(3)
            self.b = L.Dense(3)

        def call(self, inputs, training=None, mask=None):
            return {"y": self.a(inputs["l"][0]) + self.b(inputs["r"])}

    return M(), ({"l": (img(2, 4),), "r": img(2, 5)},)
