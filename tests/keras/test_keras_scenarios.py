"""The acceptance scenarios of lazy and of parameter initialization, in Keras's own spelling, on any backend."""

import inspect
import math
import random

import keras
import numpy as np
import pytest
from keras import initializers as ki
from keras import layers as kl
from tests.frameworks.houses import keras as house

import seedbed as sb
from seedbed import initializers as i
from seedbed.errors import ShapeError, UninitializedError, UnknownSizeError, UnmatchedError
from seedbed.fill import fill
from seedbed.frameworks.keras import slot

JAX = keras.backend.backend() == "jax"


def mlp():
    return keras.Sequential([kl.Dense(256), kl.ReLU(), kl.Dense(10)])


def rows(*shape):
    return np.ones(shape, np.float32)


def values(net):
    return house.arrays(net)


def shapes(net):
    return {path: array.shape for path, array in values(net).items()}


# A. Lazy initialization


def test_a1_an_mlp_with_output_sizes_only_is_planned_and_nothing_is_allocated():
    net = mlp()
    sb.plan(net)
    assert net.weights == []
    assert not any(layer.built for layer in net.layers if layer.name.startswith("dense"))


def test_a2_the_first_weight_is_shown_with_its_unknown_size():
    table = str(sb.plan(mlp()))
    assert "dense.kernel    (?, 256)" in table
    assert "dense_1.kernel  (?, 10)" in table
    assert "dense.bias      (256,)" in table
    assert sb.trace(mlp()).unknown == ("dense.kernel", "dense_1.kernel")


def test_a2_the_table_of_a_second_model_reads_as_the_firsts():
    assert str(sb.trace(mlp())) == str(sb.trace(mlp()))


def test_a3_a_weight_read_too_early_is_keras_own_error_and_a_check_names_it():
    net = sb.initialize(mlp(), recipe="he")
    with pytest.raises(AttributeError, match="kernel"):
        net.layers[0].kernel  # noqa: B018
    with pytest.raises(UninitializedError, match=r"^dense\.kernel: has no value yet") as error:
        sb.check(net, sb.plan(mlp(), (2, 20)))
    assert error.value.path == "dense.kernel"


@pytest.mark.parametrize(
    "reach",
    [
        lambda net: net(rows(2, 20)),
        lambda net: net.build((None, 20)),
        lambda net: net(keras.Input((20,))),
        lambda net: net.predict(rows(2, 20), verbose=0),
    ],
    ids=["called", "built", "called on a symbol", "asked to predict"],
)
def test_a4_a_wish_before_shapes_are_known_is_carried_out_when_the_model_is_built(reach):
    net = mlp()
    assert sb.initialize(net, recipe="he", seed=7) is net
    assert net.weights == []
    reach(net)
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he", seed=7))


def test_a4_a_wish_is_carried_out_by_fit():
    net = sb.initialize(mlp(), recipe="he", seed=7)
    net.compile(keras.optimizers.SGD(0.0), "mse")
    net.fit(rows(4, 20), rows(4, 10), verbose=0)
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he", seed=7))
    net.optimizer.learning_rate = 0.1
    net.fit(rows(4, 20), rows(4, 10), verbose=0)
    assert not sb.check(net, sb.plan(mlp(), (2, 20), recipe="he", seed=7))


def test_a4_the_last_wish_is_the_one_carried_out():
    net = mlp()
    sb.initialize(net, recipe="he")
    sb.initialize(net, recipe="xavier", seed=1)
    net(rows(2, 20))
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="xavier", seed=1))


def test_a4_what_was_written_since_the_wish_stays():
    net = keras.Sequential([kl.Dense(8), kl.Dense(10)])
    net.layers[0].build((None, 20))
    sb.initialize(net, recipe="he")
    net.layers[0].kernel.assign(np.full((20, 8), 3, np.float32))
    net(rows(2, 20))
    assert (values(net)["dense.kernel"] == 3).all()
    assert sb.check(net, sb.plan(net, recipe="he"))["dense_1.kernel"].verdict == "equal"


def test_a4_a_wish_that_cannot_be_meant_is_refused_at_once():
    with pytest.raises(UnmatchedError):
        sb.initialize(mlp(), recipe={"dense.*": i.Ones()})


def test_a5_the_shapes_that_an_input_settles():
    net = sb.initialize(mlp(), rows(2, 20))
    assert shapes(net) == {
        "dense.kernel": (20, 256), "dense.bias": (256,), "dense_1.kernel": (256, 10), "dense_1.bias": (10,),
    }  # fmt: skip
    assert net.built
    assert net(rows(5, 20)).shape == (5, 10)  # the batch stays free


@pytest.mark.parametrize("given", [(2, 20), sb.Input((2, 20)), sb.Input((0, 20)), sb.Input((None, 20))], ids=str)
def test_a6_a_dry_run_settles_the_shapes_without_data(given):
    assert [s.shape for s in sb.trace(mlp(), given)] == [(20, 256), (256,), (256, 10), (10,)]


def test_a6_a_dry_run_changes_nothing():
    net = keras.Sequential([kl.Dense(8), kl.BatchNormalization(), kl.Dropout(0.5), kl.Dense(3)])
    net.layers[0].build((None, 20))
    random.seed(3)
    before, kept = house.state(net), values(net)["dense.kernel"].copy()
    keras.utils.set_random_seed(5)
    seeds = random.getstate()
    sb.plan(net, (4, 20), recipe="he")
    assert random.getstate() == seeds
    random.seed(3)
    after = house.state(net)
    assert after[:2] == before[:2]
    assert after[4] == before[4]
    assert not net.built
    assert (values(net)["dense.kernel"] == kept).all()


def test_a7_apply_init_runs_the_users_function_on_every_layer():
    def init(layer):
        if type(layer) is kl.Dense:
            layer.kernel.assign(ki.GlorotUniform()(layer.kernel.shape))
            layer.bias.assign(ki.Ones()(layer.bias.shape))

    net = sb.apply_init(mlp(), [rows(2, 20)], init)
    found = values(net)
    assert 0 < np.abs(found["dense.kernel"]).max() <= math.sqrt(6 / 276)
    assert (found["dense_1.bias"] == 1).all()


@pytest.mark.parametrize(
    "init",
    ["he", i.Ones(), {"*": i.Constant(value=2.0)}, ki.Ones, ki.RandomUniform(0, 1), None],
    ids=["name", "initializer", "mapping", "Keras's class", "Keras's instance", "none"],
)
def test_a7_apply_init_takes_what_a_plan_takes(init):
    net = sb.apply_init(mlp(), (2, 20), init, seed=5)
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe=init, seed=5))


def test_a8_keras_holds_its_values_so_the_model_itself_is_returned():
    net = mlp()
    assert sb.initialize(net, (2, 20)) is net
    plan = sb.plan(mlp(), (2, 20), recipe="he")
    held = {e.spec.path: fill(e) for e in plan}  # values without a model
    assert sb.check(held, plan)
    outputs, _ = net.stateless_call(list(net.trainable_variables), list(net.non_trainable_variables), rows(2, 20))
    assert outputs.shape == (2, 10)


@pytest.mark.parametrize(("side", "features"), [(28, 400), (32, 576), (64, 3136)])
def test_a9_the_images_resolution_decides_the_dense_layers(side, features):
    net, _ = house.lenet()
    assert sb.trace(net, (1, side, side, 1))["dense.kernel"].shape == (features, 120)


def test_a9_a_report_says_which_parameters_depend_on_the_resolution():
    specs = sb.trace(house.lenet()[0], (1, None, None, 1))
    assert {s.path for s in specs if s.varies} == {"dense.kernel"}
    assert specs["dense.kernel"].shape == (None, 120)
    assert specs["dense.kernel"].varies == "input 0 axis 1, input 0 axis 2"
    assert specs["dense.kernel"].start is None


def test_a9_images_of_any_size_are_started_where_no_parameter_depends_on_them():
    net = keras.Sequential([kl.Conv2D(4, 3), kl.GlobalAveragePooling2D(), kl.Dense(2)])
    sb.initialize(net, (None, None, None, 3))
    assert net(rows(1, 9, 12, 3)).shape == (1, 2)
    assert net(rows(2, 20, 8, 3)).shape == (2, 2)


def test_a10_known_layers_are_real_at_once_and_the_others_later():
    net = keras.Sequential([kl.Dense(256), kl.ReLU(), kl.Dense(10)])
    net.layers[0].build((None, 20))
    plan = sb.plan(net, recipe=i.Ones())
    assert plan.unknown == ("dense_1.kernel",)
    assert "dense.kernel    (20, 256)  float32  Ones()" in str(plan)
    assert "dense_1.kernel  (?, 10)" in str(plan)
    sb.initialize(net, recipe=i.Ones())
    assert (values(net)["dense.kernel"] == 1).all()
    assert not net.layers[2].built
    net(rows(2, 20))
    assert (values(net)["dense_1.kernel"] == 1).all()


def test_a10_an_embedding_needs_no_input():
    net = keras.Sequential([kl.Embedding(50, 16), kl.Dense(4)])
    sb.initialize(net, recipe=i.Ones())
    assert (values(net)["embedding.embeddings"] == 1).all()
    assert set(values(net)) == {"embedding.embeddings"}
    net(np.zeros((2, 7), np.int32))
    assert (values(net)["dense.kernel"] == 1).all()


def test_a10_an_input_layer_makes_all_layers_known():
    net = keras.Sequential([keras.Input((20,)), kl.Dense(256), kl.Dense(10)])
    plan = sb.plan(net, recipe="he")
    assert plan.unknown == ()
    assert sb.check(plan.materialize(net), plan)


def test_a11_sizes_that_do_not_fit_name_the_layer_and_where_its_input_came_from():
    net = keras.Sequential([kl.Dense(256, name="wide"), kl.ReLU(name="relu"), kl.Dense(10, name="last")])
    net.layers[2].build((None, 128))
    with pytest.raises(ShapeError) as error:
        sb.plan(net, (2, 20))
    assert (error.value.path, error.value.got, error.value.source) == ("last", (2, 256), "wide")
    assert str(error.value).startswith("last: Dense expects inputs of 128 features, got (2, 256).")
    assert "from      wide (Dense), through relu (ReLU)" in str(error.value)


def test_a11_a_failed_dry_run_leaves_every_layer_as_it_was():
    net = keras.Sequential([kl.Dense(8), kl.Dense(3)])
    net.layers[1].build((None, 7))
    with pytest.raises(ShapeError):
        sb.initialize(net, (2, 20))
    assert not net.layers[0].built
    assert not net.built


def test_a11_a_model_built_with_other_widths_says_so():
    net = sb.initialize(mlp(), (2, 20))
    with pytest.raises(ShapeError) as error:
        sb.initialize(net, (2, 30))
    assert (error.value.path, error.value.got) == ("dense", (2, 30))
    assert sb.check(net, sb.plan(mlp(), (2, 20)))


def test_a12_a_shared_layer_is_filled_once_and_stays_shared():
    shared = kl.Dense(20)
    net = keras.Sequential([shared, kl.ReLU(), shared])
    plan = sb.plan(net, (2, 20), recipe="he")
    assert [e.spec.path for e in plan] == ["dense.kernel", "dense.bias"]
    assert sb.check(plan.materialize(net), plan)
    net, inputs = house.tied()
    assert [(s.path, s.aliases) for s in sb.trace(net, *inputs)] == [
        ("first.kernel", ("last.kernel",)),
        ("first.bias", ("last.bias",)),
    ]


def test_a12_an_embedding_tied_to_its_head_is_one_parameter():
    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed = kl.ReversibleEmbedding(50, 16)
            self.body = kl.Dense(16)

        def call(self, ids):
            return self.embed(self.body(self.embed(ids)), reverse=True)

    net = Tied()
    plan = sb.plan(net, sb.Input((2, 7), "int32"), recipe=i.Normal(std=0.02))
    assert [e.spec.path for e in plan] == ["embed.embeddings", "body.kernel", "body.bias"]
    assert sb.check(plan.materialize(net), plan)


def test_a12_inputs_of_varying_size_settle_what_does_not_depend_on_them():
    assert sb.plan(mlp(), (None, 20), recipe="he").unknown == ()
    plan = sb.plan(mlp(), (2, None), recipe="he")
    assert plan.unknown == ("dense.kernel",)
    assert plan["dense.kernel"].spec.varies == "input 0 axis 1"
    with pytest.raises(UnknownSizeError, match="depends on input 0 axis 1"):
        sb.initialize(mlp(), (2, None), recipe="he")


# B. Parameter initialization


def test_b1_every_dense_gets_a_normal_and_a_zero_bias_and_nothing_else_is_touched():
    net = keras.Sequential([kl.Dense(400), kl.BatchNormalization(), kl.Dense(300)])
    net.layers[1].build((None, 400))
    net.layers[1].gamma.assign(np.full(400, 7, np.float32))
    recipe = sb.Recipe(
        (
            sb.Rule(sb.Where(layer="Dense", role="weight"), i.Normal(std=0.01)),
            sb.Rule(sb.Where(layer="Dense", role="bias"), i.Zeros()),
            sb.Rule("*", i.Keep(values=True)),
        )
    )
    found = values(sb.initialize(net, (2, 500), recipe=recipe))
    for path in ("dense.kernel", "dense_1.kernel"):
        z = found[path].astype(np.float64) / 0.01
        # chi-square of n normals lies within 6.5 standard deviations of n, up to 1e-10
        assert abs((z**2).sum() - z.size) < 6.5 * math.sqrt(2 * z.size)
        assert abs(z.sum()) < 6.5 * math.sqrt(z.size)
    assert not found["dense.bias"].any()
    assert (found["batch_normalization.gamma"] == 7).all()
    with pytest.raises(UnmatchedError) as error:
        sb.plan(net, (2, 500), recipe=sb.Recipe(recipe.rules[:2]))
    assert error.value.paths == ("batch_normalization.gamma", "batch_normalization.beta")


def test_b2_every_parameter_the_constant_one_and_no_buffer():
    net = sb.initialize(keras.Sequential([kl.Dense(8), kl.BatchNormalization()]), (2, 5), recipe=i.Constant(value=1))
    found = values(net)
    assert all((found[p] == 1).all() for p in ("dense.kernel", "dense.bias", "batch_normalization.gamma"))
    assert not found["batch_normalization.moving_mean"].any()


def test_b3_each_block_its_own_rule():
    recipe = {"dense.kernel": i.XavierUniform(), "dense_1.kernel": i.Constant(value=42), "*.bias": i.Zeros()}
    found = values(sb.initialize(mlp(), (2, 20), recipe=recipe))
    bound = math.sqrt(6 / (20 + 256))
    assert 0.99 * bound < np.abs(found["dense.kernel"]).max() < bound
    assert (found["dense_1.kernel"] == 42).all()


def test_b4_a_custom_distribution_without_a_loop():
    chapter = i.Mixture([(0.25, i.Uniform(low=5, high=10)), (0.5, i.Zeros()), (0.25, i.Uniform(low=-10, high=-5))])
    net = sb.initialize(kl.Dense(400), (2, 300), recipe={"kernel": chapter, "bias": i.Zeros()})
    found = values(net)["kernel"].astype(np.float64)
    n, zeros = found.size, int((found == 0).sum())
    assert abs(zeros - n / 2) < 6.5 * math.sqrt(n / 4)
    outer = np.abs(found[found != 0])
    assert outer.min() >= 5
    assert outer.max() < 10
    assert abs(outer.mean() - 7.5) < 6.5 * math.sqrt(25 / 12 / len(outer))


def test_b4_the_same_as_a_users_own_function():
    def my_init(draw, spec):
        drawn = draw.uniform(-10, 10)
        return drawn * (abs(drawn) >= 5)

    net = sb.initialize(mlp(), (2, 20), recipe={"*.kernel": i.Custom(my_init), "*.bias": i.Zeros()})
    kernel = values(net)["dense.kernel"]
    outer = np.abs(kernel[kernel != 0])
    assert 0.4 < len(outer) / kernel.size < 0.6
    assert outer.min() >= 5
    assert outer.max() < 10


def test_b5_values_set_directly_are_found_by_check():
    net = mlp()
    plan = sb.plan(net, (2, 20), recipe="he")
    plan.materialize(net)
    kernel = net.layers[0].kernel
    changed = values(net)["dense.kernel"] + 1
    changed[0, 0] = 42
    kernel.assign(changed)
    findings = sb.check(net, plan)
    assert [f.path for f in findings.different] == ["dense.kernel"]
    assert findings["dense.kernel"].differing == 256 * 20
    assert findings["dense_1.kernel"].verdict == "equal"


CUT = {"distribution": "truncated_normal"}
CATALOGUE = {
    "Zeros": (ki.Zeros(), i.Zeros()),
    "Ones": (ki.Ones(), i.Ones()),
    "Constant": (ki.Constant(3.0), i.Constant(value=3.0)),
    "Identity": (ki.Identity(2.0), i.Identity(gain=2.0)),
    "RandomNormal": (ki.RandomNormal(0.5, 0.1), i.Normal(mean=0.5, std=0.1)),
    "RandomUniform": (ki.RandomUniform(-1.0, 2.0), i.Uniform(low=-1.0, high=2.0)),
    "TruncatedNormal": (ki.TruncatedNormal(0.5, 0.1), i.TruncatedNormal(mean=0.5, std=0.1, cut=2.0)),
    "VarianceScaling": (ki.VarianceScaling(3.0, "fan_out", "untruncated_normal"), i.VarianceScaling(scale=3.0, fan="out")),
    "GlorotUniform": (ki.GlorotUniform(), i.XavierUniform()),
    "GlorotNormal": (ki.GlorotNormal(), i.VarianceScaling(scale=1.0, fan="avg", **CUT)),
    "LecunUniform": (ki.LecunUniform(), i.LecunUniform()),
    "LecunNormal": (ki.LecunNormal(), i.VarianceScaling(scale=1.0, **CUT)),
    "HeUniform": (ki.HeUniform(), i.HeUniform()),
    "HeNormal": (ki.HeNormal(), i.VarianceScaling(scale=2.0, **CUT)),
    "Orthogonal": (ki.Orthogonal(2.0), i.Orthogonal(gain=2.0)),
}  # fmt: skip
COMPUTED = {"STFT"}
"""A table of a Fourier transform: run as it is."""


def test_b6_the_catalogue_holds_all_that_keras_offers():
    kinds = {c for _, c in inspect.getmembers(ki, inspect.isclass) if c is not ki.Initializer}
    assert {c.__name__ for c in kinds} == set(CATALOGUE) | COMPUTED


@pytest.mark.parametrize("name", CATALOGUE)
def test_b6_keras_initializers_become_ours_with_their_distribution(name):
    native, ours = CATALOGUE[name]
    net = kl.Dense(6, use_bias=False)
    theirs = sb.plan(net, (2, 8), recipe=native)["kernel"].start
    mine = sb.plan(net, (2, 8), recipe=ours)["kernel"].start
    assert type(theirs) is type(mine)
    arguments = [(a, getattr(mine, a)) for a in vars(mine)]
    assert all(getattr(theirs, a) == pytest.approx(v, rel=1e-12) for a, v in arguments)


def test_b6_a_class_in_place_of_an_instance_is_its_default():
    net = kl.Dense(6, use_bias=False)
    one, other = (sb.plan(net, (2, 8), recipe=r)["kernel"].start for r in (ki.HeNormal, ki.HeNormal()))
    assert one == other


@pytest.mark.parametrize("name", ["Zeros", "Ones", "Constant", "Identity"])
def test_b6_deterministic_ones_give_keras_own_values(name):
    native, ours = CATALOGUE[name]
    net = sb.initialize(kl.Dense(6, use_bias=False), (2, 8), recipe=ours)
    assert (values(net)["kernel"] == keras.ops.convert_to_numpy(native((8, 6), dtype="float32"))).all()


@pytest.mark.parametrize("name", CATALOGUE)
def test_b6_ours_stand_in_keras_own_slots(name):
    native, ours = CATALOGUE[name]
    layer = kl.Dense(300, use_bias=False, kernel_initializer=slot(ours, seed=3))
    layer.build((None, 200))
    found = values(layer)["kernel"].astype(np.float64)
    expected = keras.ops.convert_to_numpy(native((200, 300), dtype="float32")).astype(np.float64)
    assert found.std() == pytest.approx(expected.std(), rel=0.03)
    assert found.mean() == pytest.approx(expected.mean(), abs=0.03 * max(expected.std(), 1e-6))
    assert sb.trace(layer)["kernel"].start == sb.plan(layer, recipe=ours)["kernel"].start
    again = ki.deserialize(ki.serialize(layer.kernel_initializer))
    assert (keras.ops.convert_to_numpy(again((200, 300), dtype="float32")) == values(layer)["kernel"]).all()
