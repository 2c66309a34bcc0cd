"""The acceptance scenarios of lazy and of parameter initialization, in flax.nnx's own spelling."""

import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tests.frameworks.houses import nnx as house

import seedbed as sb
from seedbed import initializers as i
from seedbed.errors import ModelError, PlanError, ShapeError, UninitializedError, UnknownSizeError, UnmatchedError

X = jnp.ones((2, 20))
linear = house.linear


def mlp():
    return nnx.Sequential(linear(256), nnx.relu, linear(10))


class Net(nnx.Module):
    """As people write it, its sizes given."""

    def __init__(self, rngs):
        self.first = nnx.Linear(20, 256, rngs=rngs)
        self.norm = nnx.BatchNorm(256, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


def abstract():
    return nnx.eval_shape(lambda: Net(nnx.Rngs(0)))


def shapes(net):
    return {p: a.shape for p, a in house.arrays(net).items()}


# A. Lazy initialization


def test_a1_an_mlp_with_output_sizes_only_is_planned_and_nothing_is_allocated():
    net = mlp()
    before = len(jax.live_arrays())
    sb.plan(net)
    assert len(jax.live_arrays()) <= before  # others may have gone meanwhile
    assert not [v for v in jax.tree.leaves(nnx.state(net)) if v.ndim]


def test_a2_the_first_weight_is_shown_with_its_unknown_size():
    table = str(sb.plan(mlp()))
    assert "layers.0.kernel  (?, 256)" in table
    assert "layers.2.kernel  (?, 10)" in table
    assert sb.trace(house.lenet()[0])["layers.0.kernel"].shown_shape == "(5, 5, ?, 6)"


def test_a3_a_value_read_too_early_is_an_error_that_names_the_parameter():
    net = sb.initialize(mlp(), recipe="he")
    with pytest.raises(UninitializedError) as error:
        _ = net.layers[0].kernel
    assert error.value.path == "layers.0.kernel"
    assert "seedbed.initialize(model, (batch, features), ...)" in str(error.value)
    with pytest.raises(UninitializedError, match=r"^first\.kernel: has no value yet"):
        sb.check(abstract(), sb.plan(abstract(), recipe="he"))


def test_a4_a_wish_before_shapes_are_known_is_carried_out_at_the_first_call():
    net = mlp()
    layer = net.layers[0]
    assert sb.initialize(net, recipe="he", seed=7) is net
    out = net(X)
    assert net.layers[0] is layer
    assert type(layer) is nnx.Linear
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he", seed=7))
    assert np.array_equal(out, net(X))
    nnx.grad(lambda m: m(X).sum())(net)


def test_a4_the_last_wish_is_the_one_carried_out():
    net = mlp()
    sb.initialize(net, recipe="he")
    sb.initialize(net, recipe="xavier", seed=1)
    net(X)
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="xavier", seed=1))


def test_a4_what_was_written_after_the_wish_stays():
    net = nnx.Sequential(nnx.Linear(20, 8, rngs=nnx.Rngs(0)), linear(256))
    sb.initialize(net, recipe="he")
    net.layers[0].kernel[...] = jnp.full((20, 8), 3.0)
    net(X)
    assert (net.layers[0].kernel[...] == 3).all()
    assert sb.check(net, sb.plan(net, recipe="he"))["layers.1.kernel"].verdict == "equal"


def test_a4_without_a_wish_a_lazy_layer_starts_as_flax_starts_it():
    net = nnx.Sequential(sb.lazy(nnx.Linear, sb.dim(-1), 256, rngs=nnx.Rngs(5)), nnx.relu)
    net(X)
    assert type(net.layers[0]) is nnx.Linear
    assert abs(float(net.layers[0].kernel[...].std()) * math.sqrt(20) - 1) < 0.1


def test_a4_a_wish_that_cannot_be_meant_is_refused_at_once():
    with pytest.raises(UnmatchedError):
        sb.initialize(mlp(), recipe={"layers.0.*": i.Ones()})


def test_a5_the_shapes_that_an_input_settles():
    net = sb.initialize(mlp(), X)
    assert shapes(net) == {
        "layers.0.kernel": (20, 256),
        "layers.0.bias": (256,),
        "layers.2.kernel": (256, 10),
        "layers.2.bias": (10,),
    }
    assert (net.layers[0].in_features, net.layers[0].out_features) == (20, 256)


@pytest.mark.parametrize(
    "given", [(2, 20), sb.Input((2, 20)), np.ones((2, 20), np.float32)], ids=lambda g: str(type(g))
)
def test_a6_a_dry_run_settles_the_shapes_without_data(given):
    assert [s.shape for s in sb.trace(mlp(), given)] == [(20, 256), (256,), (256, 10), (10,)]


def test_a6_a_dry_run_computes_nothing_and_changes_nothing():
    ran = []

    class Counts(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(20, rngs=nnx.Rngs(0))
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(1))
            self.lazy = linear(3)

        def __call__(self, x):
            jax.debug.callback(lambda: ran.append(1))
            return self.lazy(self.drop(self.norm(x)))

    net = Counts()
    before, variables = house.state(net), [id(v) for v in vars(net.norm).values() if isinstance(v, nnx.Variable)]
    sb.plan(net, (4, 20), recipe="he")
    jax.effects_barrier()
    assert not ran
    assert house.state(net) == before
    assert variables == [id(v) for v in vars(net.norm).values() if isinstance(v, nnx.Variable)]
    assert int(net.drop.rngs.count[...]) == 0


def test_a7_apply_init_runs_the_users_function_on_every_layer():
    def init(module):
        if type(module) is nnx.Linear:
            module.kernel[...] = jax.nn.initializers.xavier_uniform()(jax.random.key(0), module.kernel.shape)
            module.bias[...] = jnp.ones_like(module.bias[...])

    net = sb.apply_init(mlp(), [X], init)
    assert shapes(net)["layers.2.kernel"] == (256, 10)
    assert 0 < abs(net.layers[0].kernel[...]).max() <= math.sqrt(6 / 276)
    assert (net.layers[2].bias[...] == 1).all()


@pytest.mark.parametrize(
    "init", ["he", i.Ones(), {"*": i.Constant(value=2.0)}, jax.nn.initializers.normal(0.02), None],
    ids=["name", "initializer", "mapping", "jax's function", "none"],
)  # fmt: skip
def test_a7_apply_init_takes_what_a_plan_takes(init):
    net = sb.apply_init(mlp(), (2, 20), init, seed=5)
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe=init, seed=5))


def test_a8_nnx_is_started_in_place_and_its_random_state_is_left_alone():
    net = Net(nnx.Rngs(0))
    kernel, key = net.first.kernel, jax.random.key_data(net.drop.rngs.key[...])
    assert sb.initialize(net, (2, 20), recipe="he", seed=1) is net
    assert net.first.kernel is kernel
    assert np.array_equal(jax.random.key_data(net.drop.rngs.key[...]), key)
    assert sb.check(net, sb.plan(Net(nnx.Rngs(5)), (2, 20), recipe="he", seed=1))


def test_a8_an_abstract_model_becomes_real():
    net = abstract()
    kernel = net.first.kernel
    sb.initialize(net, recipe="he", seed=1)
    assert net.first.kernel is kernel
    real = sb.initialize(Net(nnx.Rngs(0)), recipe="he", seed=1)
    assert all(np.array_equal(a, house.arrays(real)[p]) for p, a in house.arrays(net).items())
    net.eval()
    assert net(X).shape == (2, 10)


@pytest.mark.parametrize(("side", "features"), [(28, 400), (32, 576), (64, 3136)])
def test_a9_the_images_resolution_decides_the_dense_layers(side, features):
    assert sb.trace(house.lenet()[0], (1, side, side, 1))["layers.7.kernel"].shape == (features, 120)


def test_a9_a_report_says_which_parameters_depend_on_the_resolution():
    specs = sb.trace(house.lenet()[0], (1, None, None, 1))
    assert {s.path for s in specs if s.varies} == {"layers.7.kernel"}
    assert specs["layers.7.kernel"].shape == (None, 120)
    assert specs["layers.7.kernel"].varies == "input 0 axis 1, input 0 axis 2"
    assert specs["layers.7.kernel"].start is None


def test_a10_known_layers_are_real_at_once_and_the_others_later():
    net = nnx.Sequential(nnx.Linear(20, 256, rngs=nnx.Rngs(0)), nnx.relu, linear(10))
    plan = sb.plan(net, recipe=i.Ones())
    assert plan.unknown == ("layers.2.kernel",)
    assert "layers.0.kernel  (20, 256)  float32  Ones()" in str(plan)
    assert "layers.2.kernel  (?, 10)" in str(plan)
    sb.initialize(net, recipe=i.Ones())
    assert (net.layers[0].kernel[...] == 1).all()
    assert type(net.layers[2]) is not nnx.Linear
    net(X)
    assert (net.layers[2].kernel[...] == 1).all()


def test_a11_sizes_that_do_not_fit_name_the_layer_and_where_its_input_came_from():
    rngs = nnx.Rngs(0)
    net = nnx.Sequential(nnx.Linear(20, 256, rngs=rngs), nnx.relu, nnx.Linear(128, 10, rngs=rngs))
    with pytest.raises(ShapeError) as error:
        sb.plan(net, (2, 20))
    assert (error.value.path, error.value.got, error.value.source) == ("layers.2", (2, 256), "layers.0")
    assert str(error.value).startswith("layers.2: Linear expects inputs of 128 features, got (2, 256).")
    assert "from      layers.0 (Linear)" in str(error.value)


def test_a11_a_failed_dry_run_leaves_every_layer_as_it_was():
    net = nnx.Sequential(linear(8), nnx.Linear(7, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(ShapeError):
        sb.initialize(net, (2, 20))
    assert type(net.layers[0]) is not nnx.Linear
    net.layers[1] = nnx.Linear(8, 3, rngs=nnx.Rngs(0))
    assert shapes(sb.initialize(net, (2, 20)))["layers.0.kernel"] == (20, 8)


class Tied(nnx.Module):
    def __init__(self):
        self.embed = nnx.Embed(50, 16, rngs=nnx.Rngs(0))
        self.body = linear(16)
        self.table = self.embed.embedding

    def __call__(self, ids):
        return self.body(self.embed(ids)) @ self.table[...].T


def test_a12_tied_parameters_are_filled_once_and_stay_tied():
    net = Tied()
    plan = sb.plan(net, sb.Input((2, 7), "int32"), recipe=i.Normal(std=0.02))
    assert {(e.spec.path, e.spec.aliases) for e in plan} >= {("body.kernel", ()), ("body.bias", ())}
    assert len(plan) == 3
    assert plan["embed.embedding"] is plan["table"]
    plan.materialize(net)
    assert net.table is net.embed.embedding
    assert sb.check(net, plan)


def test_a12_a_shared_layer_appears_once():
    plan = sb.plan(house.tied()[0], (2, 8))
    assert [(e.spec.path, e.spec.aliases) for e in plan] == [
        ("layers.0.kernel", ("layers.2.kernel",)),
        ("layers.0.bias", ("layers.2.bias",)),
    ]


def test_a12_inputs_of_varying_size_settle_what_does_not_depend_on_them():
    assert sb.plan(mlp(), (None, 20), recipe="he").unknown == ()
    plan = sb.plan(mlp(), (2, None), recipe="he")
    assert plan.unknown == ("layers.0.kernel",)
    assert plan["layers.0.kernel"].spec.varies == "input 0 axis 1"
    with pytest.raises(UnknownSizeError, match="depends on input 0 axis 1"):
        sb.initialize(mlp(), (2, None), recipe="he")


# B. Parameter initialization


def test_b1_every_linear_gets_a_normal_and_a_zero_bias_and_nothing_else_is_touched():
    net = nnx.Sequential(linear(400), nnx.BatchNorm(400, rngs=nnx.Rngs(0)), linear(300))
    net.layers[1].scale[...] = jnp.full(400, 7.0)
    recipe = sb.Recipe(
        (
            sb.Rule(sb.Where(layer="Linear", role="weight"), i.Normal(std=0.01)),
            sb.Rule(sb.Where(layer="Linear", role="bias"), i.Zeros()),
            sb.Rule("*", i.Keep(values=True)),
        )
    )
    sb.initialize(net, (2, 500), recipe=recipe)
    for layer in (net.layers[0], net.layers[2]):
        z = np.asarray(layer.kernel[...], np.float64) / 0.01
        # chi-square of n normals lies within 6.5 standard deviations of n, up to 1e-10
        assert abs((z**2).sum() - z.size) < 6.5 * math.sqrt(2 * z.size)
        assert abs(z.sum()) < 6.5 * math.sqrt(z.size)
        assert not layer.bias[...].any()
    assert (net.layers[1].scale[...] == 7).all()
    with pytest.raises(UnmatchedError) as error:
        sb.plan(net, (2, 500), recipe=sb.Recipe(recipe.rules[:2]))
    assert error.value.paths == ("layers.1.scale", "layers.1.bias")


def test_b2_every_parameter_the_constant_one_and_no_buffer():
    net = nnx.Sequential(linear(8), house.norm())
    sb.initialize(net, (2, 5), recipe=i.Constant(value=1))
    assert all((a == 1).all() for a in jax.tree.leaves(nnx.state(net, nnx.Param)))
    assert not net.layers[1].mean[...].any()


def test_b3_each_block_its_own_rule():
    rules = {"layers.0.kernel": i.XavierUniform(), "layers.2.kernel": i.Constant(value=42), "*.bias": i.Zeros()}
    net = sb.initialize(mlp(), (2, 20), recipe=rules)
    bound = math.sqrt(6 / (20 + 256))
    assert 0.99 * bound < abs(net.layers[0].kernel[...]).max() < bound
    assert (net.layers[2].kernel[...] == 42).all()


def test_b4_a_custom_distribution_without_a_loop():
    chapter = i.Mixture([(0.25, i.Uniform(low=5, high=10)), (0.5, i.Zeros()), (0.25, i.Uniform(low=-10, high=-5))])
    net = sb.initialize(linear(300), (1, 400), recipe={"kernel": chapter, "bias": i.Zeros()})
    values = np.asarray(net.kernel[...], np.float64)
    n = values.size
    assert abs((values == 0).sum() - n / 2) < 6.5 * math.sqrt(n / 4)
    outer = abs(values[values != 0])
    assert outer.min() >= 5
    assert outer.max() < 10


def test_b4_the_same_as_a_users_own_function():
    def my_init(draw, spec):
        values = draw.uniform(-10, 10)
        return values * (abs(values) >= 5)

    net = sb.initialize(mlp(), (2, 20), recipe={"*.kernel": i.Custom(my_init), "*.bias": i.Zeros()})
    kernel = net.layers[0].kernel[...]
    outer = abs(kernel[kernel != 0])
    assert 0.4 < outer.size / kernel.size < 0.6
    assert outer.min() >= 5


def test_b5_values_set_directly_are_found_by_check():
    net = mlp()
    plan = sb.plan(net, (2, 20), recipe="he")
    plan.materialize(net)
    net.layers[0].kernel[...] = (net.layers[0].kernel[...] + 1).at[0, 0].set(42)
    findings = sb.check(net, plan)
    assert [f.path for f in findings.different] == ["layers.0.kernel"]
    assert findings["layers.0.kernel"].differing == 256 * 20


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({}, "TruncatedNormal"),
        ({"kernel_init": nnx.initializers.normal(0.02)}, "Normal"),
        ({"kernel_init": nnx.initializers.he_uniform()}, "Uniform"),
        ({"kernel_init": nnx.initializers.orthogonal()}, "Orthogonal"),
        ({"kernel_init": nnx.initializers.zeros_init()}, "Zeros"),
    ],
    ids=["default", "normal", "he_uniform", "orthogonal", "zeros"],
)
def test_b6_a_lazy_layer_starts_as_its_own_initializers_say(given, start):
    plan = sb.plan(linear(16, **given), (1, 12))
    assert type(plan["kernel"].start).__name__ == start
    assert plan["kernel"].why == f"Linear.kernel_init (flax {flax.__version__})"


def test_b6_a_layer_that_was_given_another_initializer_keeps_what_it_made():
    rngs = nnx.Rngs(0)
    net = nnx.Sequential(
        nnx.Linear(20, 20, kernel_init=nnx.initializers.zeros_init(), rngs=rngs),
        nnx.Linear(200, 200, kernel_init=nnx.initializers.he_normal(), rngs=rngs),
        nnx.Linear(20, 20, rngs=rngs),
    )
    plan = sb.plan(net)
    assert [e.spec.path for e in plan if e.kept] == ["layers.0.kernel", "layers.1.kernel"]
    assert "not of Linear.kernel_init" in plan["layers.0.kernel"].why
    assert isinstance(plan["layers.2.kernel"].start, i.TruncatedNormal)


def test_b6_recurrent_kernels_are_orthogonal_as_flax_has_them():
    rngs = nnx.Rngs(0)
    plan = sb.plan(nnx.Sequential(nnx.OptimizedLSTMCell(8, 16, rngs=rngs), nnx.LSTMCell(8, 16, rngs=rngs)))
    whole, gate = plan["layers.0.dense_h.kernel"], plan["layers.1.hi.kernel"]
    assert (whole.start, whole.spec.shape) == (i.Orthogonal(), (16, 64))
    assert (gate.start, gate.spec.shape) == (i.Orthogonal(), (16, 16))


# Beside the scenarios


def test_a_model_is_not_started_inside_jit():
    @jax.jit
    def inside(x):
        return sb.initialize(mlp(), x)(x)

    with pytest.raises(ModelError, match="cannot be started inside jit"):
        inside(X)


def test_what_an_abstract_model_has_no_values_for_is_named():
    class Own(nnx.Module):
        def __init__(self, rngs):
            self.table = nnx.Param(jax.random.normal(rngs.params(), (3, 4)))

    net = nnx.eval_shape(lambda: Own(nnx.Rngs(0)))
    with pytest.raises(PlanError, match=r"^table: the plan keeps its values, and it has none"):
        sb.initialize(net)
    assert sb.initialize(net, recipe=i.Ones()).table[...].sum() == 12
