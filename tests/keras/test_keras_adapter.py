"""What is particular to Keras: its kinds of models, its layers, its backends."""

import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from keras import initializers as ki
from keras import layers as kl
from tests.frameworks.houses import keras as house

import seedbed as sb
from seedbed import initializers as i
from seedbed.errors import CaptureError, InputError, ModelError, ShapeError
from seedbed.fill import fill
from seedbed.frameworks import framework_of
from seedbed.frameworks.keras import rollback, walk

BACKEND = keras.backend.backend()


def mlp():
    return keras.Sequential([kl.Dense(256), kl.ReLU(), kl.Dense(10)])


def rows(*shape):
    return np.ones(shape, np.float32)


values = house.arrays


class Block(keras.Model):
    """Without a `build` of its own."""

    def __init__(self):
        super().__init__()
        self.encoder = kl.Dense(8)
        self.heads = [kl.Dense(2), kl.Dense(3)]
        self.named = kl.Dense(4, name="mine")

    def call(self, x):
        y = self.encoder(x)
        return self.heads[0](y), self.heads[1](y), self.named(y)


class Called(keras.Model):
    """Two calls, of different widths, one of them by keyword and with an argument that is no tensor."""

    def __init__(self):
        super().__init__()
        self.one, self.two = kl.Dense(3), kl.Dense(3)

    def call(self, x, extra=None, twice=False, training=False):
        return self.one(x) + self.two(extra) * (2 if twice else 1)


def test_a_start_inside_deferred_is_refused_where_the_backend_is_recorded():
    net = mlp()
    with sb.deferred():
        if BACKEND != "torch":
            sb.initialize(net, (1, 4))
        else:
            with pytest.raises(CaptureError, match=r"^initialize: cannot be done inside deferred"):
                sb.initialize(net, (1, 4))
    assert sb.check(sb.initialize(net, (1, 4)), sb.plan(net, (1, 4)))


def functional():
    image, words = keras.Input((8, 8, 3), name="image"), keras.Input((5,), dtype="int32", name="words")
    a = kl.Flatten()(kl.Conv2D(4, 3)(image))
    b = kl.LSTM(6)(kl.Embedding(20, 7)(words))
    return keras.Model({"image": image, "words": words}, kl.Dense(2)(kl.Concatenate()([a, b])))


# Models


def test_a_keras_model_is_keras_own_on_every_backend():
    assert framework_of(mlp()).name == "keras"
    assert framework_of(kl.Dense(2)).name == "keras"


def test_paths_follow_the_model_and_not_the_process():
    first, second = Block(), Block()
    paths = [s.path for s in sb.trace(first, (2, 5))]
    assert paths == [s.path for s in sb.trace(second, (2, 5))]
    assert paths == [
        *("encoder.kernel", "encoder.bias", "heads.0.kernel", "heads.0.bias"),
        *("heads.1.kernel", "heads.1.bias", "mine.kernel", "mine.bias"),
    ]


def test_layers_of_a_nested_model_are_counted_there():
    net = keras.Sequential([kl.Dense(4), keras.Sequential([kl.Dense(3), kl.Dense(2)]), kl.Dense(1)])
    paths = [s.path for s in sb.trace(net, (2, 5)) if s.role == "weight"]
    assert paths == ["dense.kernel", "sequential.dense.kernel", "sequential.dense_1.kernel", "dense_1.kernel"]


def test_a_subclassed_model_without_build_is_traced_through_its_call():
    net = Block()
    plan = sb.plan(net, (2, 5), recipe="he")
    assert not net.built
    assert net.weights == []
    plan.materialize(net)
    assert sb.check(net, plan)
    assert len(net.weights) == 8
    assert [tuple(y.shape) for y in net(rows(4, 5))] == [(4, 2), (4, 3), (4, 4)]


def test_a_wish_keeps_a_subclassed_model_from_being_marked_built_without_weights():
    net = sb.initialize(Block(), recipe="he")
    net.build((None, 5))
    assert sb.check(net, sb.plan(Block(), (2, 5), recipe="he"))


def test_before_input_nothing_made_up_is_shown_of_layers_of_all_kinds():
    known = {s.path: s.shown_shape for s in sb.trace(house.resnet_block()[0])}
    assert known["conv1.kernel"] == "(3, 3, ?, 16)"
    assert known["conv1.bias"] == "(16,)"
    assert known["norm1.gamma"] == "(?,)"
    known = {s.path: s.shown_shape for s in sb.trace(house.encoder_block()[0])}
    assert known["attention.query.kernel"] == "(?, 4, 4)"
    assert known["attention.attention_output.kernel"] == "(4, 4, ?)"
    assert {s.shown_shape for s in sb.trace(house.gru()[0])} == {"(?, 48)", "(16, 48)", "(2, 48)"}


def test_functional_models_are_built_by_keras_and_started_in_place():
    net = functional()
    held = [v.value for v in net.weights] if BACKEND == "torch" else list(net.weights)
    plan = sb.plan(net, recipe="he")
    assert plan.unknown == ()
    assert {e.spec.path for e in plan} >= {"embedding.embeddings", "lstm.cell.kernel", "conv2d.kernel", "dense.kernel"}
    assert sb.check(plan.materialize(net), plan)
    now = [v.value for v in net.weights] if BACKEND == "torch" else net.weights
    assert all(a is b for a, b in zip(held, now, strict=True))


def test_inputs_by_name_and_inputs_that_are_arrays():
    net = functional()
    given = {"image": (2, 8, 8, 3), "words": sb.Input((2, 5), "int32")}
    assert sb.trace(net, given).unreached == ()
    with pytest.raises(ShapeError):
        sb.trace(net, {**given, "image": (2, 9, 8, 3)})
    block = Called()
    plan = sb.plan(block, rows(2, 4), extra=(2, 6), twice=True)
    assert {e.spec.path: e.spec.shape for e in plan if e.spec.role == "weight"} == {
        "one.kernel": (4, 3),
        "two.kernel": (6, 3),
    }
    assert sb.check(sb.materialize(sb.Plan.from_json(plan.to_json()), block), plan)
    assert block(rows(5, 4), extra=rows(5, 6)).shape == (5, 3)


def test_a_wish_takes_the_first_calls_own_arguments():
    net = sb.initialize(Called(), recipe="he")
    net(rows(2, 4), extra=rows(2, 6), twice=True)
    assert sb.check(net, sb.plan(Called(), (2, 4), extra=(2, 6), recipe="he"))


def test_a_half_built_model_keeps_what_it_has_where_the_plan_says_so():
    net = keras.Sequential([kl.Dense(8), kl.Dense(3)])
    net.layers[0].build((None, 5))
    kernel, kept = net.layers[0].kernel, values(net)["dense.kernel"].copy()
    sb.initialize(net, (2, 5), recipe={"dense.*": i.Keep(values=True), "*": i.Ones()})
    assert net.layers[0].kernel is kernel
    assert (values(net)["dense.kernel"] == kept).all()
    assert (values(net)["dense_1.kernel"] == 1).all()


def test_seed_generators_and_metrics_are_left_alone():
    net = keras.Sequential([kl.Dense(4), kl.Dropout(0.5), kl.GaussianNoise(0.1), kl.Dense(1)])
    net.compile("sgd", "mse", metrics=["mae"])
    sb.initialize(net, (2, 3), recipe="he")
    assert {p.rpartition(".")[2] for p in values(net)} == {"kernel", "bias"}
    net.fit(rows(4, 3), rows(4, 1), verbose=0)
    assert np.isfinite(net.evaluate(rows(4, 3), rows(4, 1), verbose=0)).all()
    assert all(np.isfinite(keras.ops.convert_to_numpy(v)).all() for v in net.layers[1].variables)


def test_an_optimizer_made_before_still_holds_the_variables():
    net = mlp()
    net.build((None, 20))
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(net.trainable_variables)
    plan = sb.plan(net, recipe="he")
    plan.materialize(net)
    optimizer.apply([keras.ops.ones(v.shape) for v in net.trainable_variables], net.trainable_variables)
    changed = {e.spec.path: fill(e) - np.float32(0.5) for e in plan}
    assert all((values(net)[p] == changed[p]).all() for p in changed)


def test_frozen_layers_have_parameters_and_statistics_are_buffers():
    net = keras.Sequential([kl.Dense(4, trainable=False), kl.BatchNormalization()])
    kinds = {s.path: s.kind for s in sb.trace(net, (2, 3))}
    assert kinds["dense.kernel"] == "parameter"
    assert kinds["batch_normalization.moving_mean"] == "buffer"
    sb.initialize(net, (2, 3))
    assert net.layers[0].kernel in net.non_trainable_variables


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(dtype):
    if (BACKEND, dtype) == ("jax", "float64"):
        pytest.skip("JAX has no float64 unless it is asked to")
    net = keras.Sequential([kl.Dense(8, dtype=dtype), kl.Dense(3, dtype=dtype)])
    plan = sb.plan(net, sb.Input((2, 5), dtype), recipe="he")
    assert {e.spec.dtype for e in plan} == {dtype}
    assert sb.check(plan.materialize(net), plan)
    assert "float" in str(net(np.ones((2, 5))).dtype)


def test_mixed_precision_has_float32_parameters():
    net = keras.Sequential([kl.Dense(8, dtype="mixed_bfloat16"), kl.Dense(3, dtype="mixed_bfloat16")])
    plan = sb.plan(net, (2, 5), recipe="he")
    assert {e.spec.dtype for e in plan} == {"float32"}
    assert sb.check(plan.materialize(net), plan)


# When things fail, and at once


def test_a_start_that_is_interrupted_leaves_the_model_unbuilt():
    net = mlp()

    def stop(path, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sb.initialize(net, (2, 20), recipe="he", progress=stop)
    assert not net.built
    assert net.weights == []
    assert sb.check(sb.initialize(net, (2, 20), recipe="he"), sb.plan(mlp(), (2, 20), recipe="he"))


def test_a_wish_that_fails_is_kept():
    net = sb.initialize(keras.Sequential([kl.Dense(4), kl.Conv2D(3, 3)]), recipe="he")
    with pytest.raises(ShapeError):
        net(rows(2, 20))
    assert not net.built
    net(rows(2, 5, 5, 2))
    assert sb.check(net, sb.plan(keras.Sequential([kl.Dense(4), kl.Conv2D(3, 3)]), (2, 5, 5, 2), recipe="he"))


def test_threads_that_make_the_first_call_together():
    for _ in range(5):
        net = sb.initialize(mlp(), recipe="he")
        errors = []

        def call(net=net, errors=errors):
            try:
                net(rows(2, 20))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(net.weights) == 4
        assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he"))


@pytest.mark.skipif(BACKEND != "jax", reason="jax.jit is JAX's")
def test_a_first_call_inside_jit_is_refused_before_tracers_reach_the_weights():
    import jax

    net = sb.initialize(mlp(), recipe="he")
    with pytest.raises(ModelError, match="cannot be started inside a function that JAX traces"):
        jax.jit(net)(rows(2, 20))
    assert net.weights == []
    net(rows(2, 20))
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he"))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function is TensorFlow's")
def test_a_first_call_inside_a_tf_function_carries_the_wish_out():
    import tensorflow as tf

    net = sb.initialize(mlp(), recipe="he")
    tf.function(net)(tf.ones((2, 20)))
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he"))


@pytest.mark.skipif(BACKEND != "torch", reason="modules are PyTorch's")
def test_parameters_are_torchs_and_train():
    import torch

    net = sb.initialize(mlp(), (2, 20), recipe="he")
    assert len(list(net.parameters())) == 4
    assert all(isinstance(p, torch.nn.Parameter) and p.requires_grad for p in net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(2, 20)).sum().backward()
    optimizer.step()
    assert not sb.check(net, sb.plan(mlp(), (2, 20), recipe="he"))


# Keras's own starts

LAYERS = {
    "dense": (lambda: kl.Dense(70), (2, 50)),
    "einsum": (lambda: kl.EinsumDense("abc,cde->abde", output_shape=(None, 8, 12), bias_axes="de"), (2, 3, 50)),
    "einsum of batches": (lambda: kl.EinsumDense("bhd,hde->bhe", output_shape=(3, 40)), (2, 3, 50)),
    "convolution": (lambda: kl.Conv2D(32, (3, 2), groups=2), (2, 9, 9, 16)),
    "transposed": (lambda: kl.Conv1DTranspose(32, 3), (2, 9, 24)),
    "depthwise": (lambda: kl.DepthwiseConv2D(3, depth_multiplier=4), (2, 9, 9, 64)),
    "separable": (lambda: kl.SeparableConv1D(32, 5, depth_multiplier=4), (2, 9, 64)),
    "embedding": (lambda: kl.Embedding(200, 16), (2, 5)),
    "lstm": (lambda: kl.LSTM(24), (2, 4, 30)),
    "lstm with biases drawn": (lambda: kl.LSTM(400, bias_initializer="lecun_normal"), (2, 4, 3)),
    "gru": (lambda: kl.GRU(24, recurrent_initializer="he_normal"), (2, 4, 30)),
    "both ways": (lambda: kl.Bidirectional(kl.SimpleRNN(24)), (2, 4, 30)),
    "convolutional lstm": (lambda: kl.ConvLSTM2D(16, 3), (2, 4, 9, 9, 8)),
    "norm": (lambda: kl.GroupNormalization(4, gamma_initializer="random_normal"), (2, 4, 800)),
    "prelu": (lambda: kl.PReLU("random_uniform"), (2, 40, 50)),
    "orthogonal convolution": (lambda: kl.Conv1D(32, 3, kernel_initializer="orthogonal"), (2, 9, 16)),
    "orthogonal depthwise": (lambda: kl.DepthwiseConv1D(3, 4, depthwise_initializer="orthogonal"), (2, 9, 64)),
    "spectrum": (kl.STFTSpectrogram, (2, 4000, 1)),
    "a function": (lambda: kl.Dense(70, kernel_initializer=lambda shape, dtype: keras.random.gamma(shape, 2.0)), (2, 50)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_starts_as_keras_starts_it(kind):
    make, shape = LAYERS[kind]
    net, real = make(), make()
    real.build(shape)
    plan = sb.plan(net, shape)
    found, expected = values(plan.materialize(net)), values(real)
    assert {p: (a.shape, a.dtype) for p, a in found.items()} == {p: (a.shape, a.dtype) for p, a in expected.items()}
    assert sb.check(net, plan)
    for path in found:
        mine, theirs = (a[path].astype(np.float64) for a in (found, expected))
        spread = max(theirs.std(), 1e-9)
        error = 7 / np.sqrt(theirs.size)  # of a mean, and with some room of a spread, seven standard deviations
        assert abs(mine.mean() - theirs.mean()) <= error * spread * 1.5, path
        assert abs(mine.std() / spread - 1) <= error * 1.5 or spread == 1e-9, path
        if plan[path].start == i.Orthogonal() or "orthogonal" in kind:
            a, b = (m.reshape(-1, m.shape[-1]) for m in (mine, theirs))
            same = (a.T @ a, b.T @ b) if len(a) >= a.shape[1] else (a @ a.T, b @ b.T)
            assert np.allclose(*same, atol=1e-5), path
    assert [(s.path, s.start) for s in sb.trace(net)] == [(e.spec.path, e.spec.start) for e in plan]


def test_attention_starts_with_the_fans_of_its_equation():
    plan = sb.plan(house.encoder_block()[0], (2, 5, 16))
    assert plan["attention.query.kernel"].start == i.XavierUniform().resolve(plan["attention.query.kernel"].spec)
    assert plan["attention.query.kernel"].start.high == pytest.approx(np.sqrt(6 / 32))


def test_depthwise_convolutions_start_with_keras_fans_and_recipes_with_their_own():
    net = kl.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)
    own, spec = sb.plan(net, (2, 9, 9, 64))["kernel"].start, sb.trace(net, (2, 9, 9, 64))["kernel"]
    assert own.high == pytest.approx(np.sqrt(6 / (9 * 64 + 9 * 2)))
    assert (spec.fan("in"), spec.fan("out")) == (9, 18)
    assert sb.plan(net, (2, 9, 9, 64), recipe=ki.GlorotUniform())["kernel"].start == own


def test_an_lstm_starts_with_forget_biases_of_one():
    bias = sb.plan(kl.LSTM(4), (2, 3, 5))["cell.bias"]
    assert str(bias.start) == "Zeros(), [4:8] Ones()"


def test_what_is_run_as_it_is_has_values_by_our_seed_alone():
    def make():
        return kl.Dense(70, kernel_initializer=lambda shape, dtype: keras.random.normal(shape, dtype=dtype))

    keras.utils.set_random_seed(1)
    one = values(sb.initialize(make(), (2, 50), seed=3))["kernel"]
    keras.utils.set_random_seed(2)
    two, other = (values(sb.initialize(make(), (2, 50), seed=s))["kernel"] for s in (3, 4))
    assert (one == two).all()
    assert not (one == other).all()


def test_keras_own_seeds_are_not_used():
    same = [kl.Dense(50, kernel_initializer=ki.GlorotUniform(seed=1)) for _ in range(2)]
    found = values(sb.initialize(keras.Sequential(same), (2, 50)))
    assert not (found["dense.kernel"] == found["dense_1.kernel"]).all()


def test_the_layer_of_a_cell_and_of_a_projection_is_found_by_rules():
    specs = sb.trace(house.lstm()[0], (2, 5, 8))
    assert {(s.layer, s.leaf) for s in specs} == {("LSTM", "weight_ih"), ("LSTM", "weight_hh"), ("LSTM", "bias_ih")}
    assert "LSTMCell" in specs["rnn.cell.kernel"].bases
    assert "MultiHeadAttention" in sb.trace(house.encoder_block()[0])["attention.query.kernel"].bases


# What models bring along


class Plain(keras.Model):
    """Its call takes no `training`, which `fit` gives all the same."""

    def __init__(self):
        super().__init__()
        self.last = kl.Dense(2)

    def call(self, x):
        return self.last(x)


def test_a_wish_is_carried_out_by_the_first_fit():
    net = sb.initialize(Plain(), recipe="he", seed=3)
    net.compile(keras.optimizers.SGD(0.0), "mse")
    net.fit(rows(4, 5), rows(4, 2), verbose=0)
    assert sb.check(net, sb.plan(Plain(), (4, 5), recipe="he", seed=3))


def test_what_a_normalization_learned_of_data_is_kept():
    norm = kl.Normalization()
    norm.adapt(np.array([[1.0, 2.0], [3.0, 6.0]], np.float32))
    net = keras.Sequential([norm, kl.Dense(2)])
    plan = sb.plan(net, (4, 2), seed=1)
    assert plan["normalization.mean"].kept
    plan.materialize(net)
    assert values(net)["normalization.mean"].tolist() == [2, 4]
    assert sb.plan(kl.Normalization(), (4, 2))["variance"].start == i.Ones()


def test_layers_of_any_number_of_groups_are_told_before_an_input():
    net = keras.Sequential([kl.GroupNormalization(5), kl.Conv1D(6, 3, groups=3), kl.Dense(2)])
    assert {s.path: s.shown_shape for s in sb.trace(net)}["group_normalization.gamma"] == "(?,)"
    sb.initialize(net, recipe="he", seed=1)(rows(2, 7, 15))
    assert sb.check(net, sb.plan(keras.models.clone_model(net), (2, 7, 15), recipe="he", seed=1))


def test_a_normalization_of_given_numbers_has_nothing_to_wait_for():
    net = keras.Sequential([kl.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 1.0, 4.0]), kl.Dense(2)])
    assert [s.path for s in sb.trace(net)] == ["dense.kernel", "dense.bias"]
    sb.initialize(net, recipe="he", seed=1)(rows(2, 3))
    assert sb.check(net, sb.plan(net, recipe="he", seed=1))


class Remembering(kl.Layer):
    """Its weight has no size to settle, but its `build` notes the size of the input."""

    def build(self, input_shape):
        self.root = input_shape[-1] ** -0.5
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, x):
        return x * self.root * self.gain


def test_a_wish_builds_no_layer_on_a_shape_that_is_made_up():
    net = sb.initialize(keras.Sequential([Remembering(), kl.Dense(2)]), seed=1)
    net(rows(3, 4))
    assert net.layers[0].root == 0.5
    with pytest.raises(InputError, match="before an input"):
        sb.initialize(keras.Sequential([Remembering()]))


def test_a_prelu_of_shared_axes_waits_for_the_axis_that_is_not():
    net = keras.Sequential([kl.PReLU(shared_axes=[1, 2]), kl.Dense(2)])
    assert next(s.shown_shape for s in sb.trace(net)) == "(1, 1, ?)"
    sb.initialize(net, recipe="he", seed=1)(rows(2, 3, 3, 5))
    assert sb.check(net, sb.plan(net, recipe="he", seed=1))


# Importing


def test_the_adapter_imports_no_backend_that_keras_did_not():
    program = (
        "import sys, keras; before = set(sys.modules)\n"
        "import seedbed.frameworks.keras\n"
        "print(sorted({'jax', 'torch', 'tensorflow', 'flax', 'mxnet'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "[]"


def test_every_variable_keeps_its_memory_on_torch_and_its_identity_everywhere():
    net = mlp()
    net.build((None, 20))
    places = [id(p.variable) for p in walk.held(net)]
    memory = [p.variable.value.data_ptr() for p in walk.held(net)] if BACKEND == "torch" else []
    sb.initialize(net, recipe="he")
    assert [id(p.variable) for p in walk.held(net)] == places
    assert BACKEND != "torch" or [p.variable.value.data_ptr() for p in walk.held(net)] == memory


def test_a_graph_of_twice_as_many_layers_is_twice_the_work(monkeypatch):
    looked, keep = [], rollback.Undo._keep
    monkeypatch.setattr(rollback.Undo, "_keep", lambda undo, thing: looked.append(0) or keep(undo, thing))

    def work(number):
        x = given = keras.Input((4,))
        for _ in range(number):
            x = kl.Dense(4)(x)
        net = keras.Model(given, x)
        looked.clear()
        sb.plan(net)
        return len(looked)

    assert work(40) < 2.5 * work(20)


# What models in the style of keras.io hold


class Projected(kl.Layer):
    """Weights of its own, and a part that its `build` builds."""

    def __init__(self):
        super().__init__()
        self.inner = kl.Dense(4)

    def build(self, shape):
        self.token = self.add_weight(shape=(1, shape[-1]), initializer=ki.TruncatedNormal(stddev=0.02), name="token")
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x + self.token)


def test_weights_of_a_built_layer_that_builds_its_parts_start_as_they_were_made():
    given = keras.Input((6, 5))
    net = keras.Model(given, kl.Dense(2)(Projected()(given)))
    assert [net.layers[1].token.shape, sb.plan(net)["projected.token"].start] == [(1, 5), i.TruncatedNormal(std=0.02)]
    assert not any(e.kept for e in sb.plan(net))
    before = values(net)
    sb.initialize(net, seed=1)
    assert all((v != before[p]).any() for p, v in values(net).items() if "bias" not in p)
    assert net.layers[1].inner.built
    assert len(net.weights) == 5


def test_a_layer_with_lora_starts_as_it_was_made():
    net = keras.Sequential([keras.Input((8,)), kl.Dense(16, name="a")])
    net.layers[0].enable_lora(2)
    plan = sb.plan(net)
    starts = {e.spec.path: type(e.start).__name__ for e in plan}
    assert starts == {
        "a.bias": "Zeros", "a.lora_kernel_a": "Uniform", "a.lora_kernel_b": "Zeros", "a.kernel": "Uniform",
    }  # fmt: skip
    plan.materialize(net)
    assert net.layers[0].lora_enabled
    assert len(net.weights) == 4


def test_what_was_quantized_is_kept():
    net = keras.Sequential([keras.Input((8,)), kl.Dense(4)])
    net.layers[0].quantize("int8")
    before = values(net)
    for recipe in (None, "he"):
        sb.initialize(net, recipe=recipe, seed=1)
        assert all((v == before[p]).all() for p, v in values(net).items())
    assert np.abs(before["dense.kernel"]).max() == 127
    fresh = keras.Sequential([kl.Dense(4, dtype="int8_from_float32")])
    assert sb.plan(fresh, (2, 8))["dense.kernel"].start == i.Zeros()
