"""The acceptance scenarios of lazy and of parameter initialization, in flax.linen's own spelling."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from tests.frameworks.houses import linen as house

import seedbed as sb
from seedbed import initializers as i
from seedbed.errors import InputError, ModelError, ShapeError, UnknownSizeError, UnmatchedError

X = jnp.ones((2, 20))


def mlp():
    return nn.Sequential([nn.Dense(256), nn.relu, nn.Dense(10)])


def shapes(variables):
    return {p: a.shape for p, a in house.arrays(variables).items()}


def same(a, b):
    return all(np.array_equal(v, house.arrays(b)[p]) for p, v in house.arrays(a).items())


# A. Lazy initialization


def test_a1_an_mlp_with_output_sizes_only_is_planned_and_nothing_is_allocated():
    before = len(jax.live_arrays())
    sb.plan(mlp())
    assert len(jax.live_arrays()) <= before  # others may have gone meanwhile


def test_a2_the_first_weight_is_shown_with_its_unknown_size():
    table = str(sb.plan(mlp()))
    assert "layers_0.kernel  (?, 256)" in table
    assert "layers_2.kernel  (256, 10)" in table  # a layer's output is known before its input
    assert sb.trace(house.lenet()[0])["layers_0.kernel"].shown_shape == "(5, 5, ?, 6)"


def test_a3_a_module_holds_no_values_to_read_too_early():
    net = mlp()
    with pytest.raises(ModelError, match="a linen module holds no values"):
        sb.check(net, sb.plan(net, (2, 20)))
    with pytest.raises(UnknownSizeError, match=r"^layers_0\.kernel: waits for sizes"):
        sb.materialize(sb.plan(net, recipe="he"), net)


def test_a4_a_wish_before_shapes_are_known_is_carried_out_by_init():
    net = mlp()
    wished = sb.initialize(net, recipe="he", seed=7)
    variables = wished.init(jax.random.key(0), X)
    assert sb.check(variables, sb.plan(net, (2, 20), recipe="he", seed=7))
    assert type(wished) is type(net)
    output, again = wished.init_with_output(jax.random.key(5), X)
    assert same(again, variables)
    assert np.array_equal(output, net.apply(variables, X))


def test_a4_the_module_that_was_given_does_not_change():
    net = mlp()
    sb.initialize(net, recipe="he")
    theirs = mlp().init(jax.random.key(0), X)
    assert same(net.init(jax.random.key(0), X), theirs)


def test_a4_inside_jit_the_wish_is_the_same():
    wished = sb.initialize(mlp(), recipe="he", seed=7)
    variables = jax.jit(wished.init)(jax.random.key(0), X)
    assert same(variables, sb.initialize(mlp(), (2, 20), recipe="he", seed=7))


def test_a4_a_wish_that_cannot_be_meant_is_refused_at_once():
    with pytest.raises(UnmatchedError):
        sb.initialize(mlp(), recipe={"layers_0.*": i.Ones()})


def test_a5_the_shapes_that_an_input_settles():
    assert shapes(sb.initialize(mlp(), X)) == {
        "layers_0.kernel": (20, 256),
        "layers_0.bias": (256,),
        "layers_2.kernel": (256, 10),
        "layers_2.bias": (10,),
    }


@pytest.mark.parametrize(
    "given", [(2, 20), sb.Input((2, 20)), np.ones((2, 20), np.float32)], ids=lambda g: str(type(g))
)
def test_a6_a_dry_run_settles_the_shapes_without_data(given):
    assert [s.shape for s in sb.trace(mlp(), given)] == [(20, 256), (256,), (256, 10), (10,)]


def test_a6_a_dry_run_computes_nothing_and_changes_nothing():
    ran = []

    class Counts(nn.Module):
        @nn.compact
        def __call__(self, x):
            jax.debug.callback(lambda: ran.append(1))
            return nn.BatchNorm(use_running_average=False)(nn.Dense(3)(x))

    net = Counts()
    state = np.random.get_state()[1].copy()
    sb.plan(net, (4, 20), recipe="he")
    jax.effects_barrier()
    assert not ran
    assert (np.random.get_state()[1] == state).all()
    assert "_seedbed" not in str(vars(net))


def test_a7_apply_init_takes_what_a_plan_takes_and_gives_the_variables():
    for init in ("he", i.Ones(), {"*": i.Constant(value=2.0)}, jax.nn.initializers.normal(0.02), None):
        variables = sb.apply_init(mlp(), [X], init, seed=5)
        assert sb.check(variables, sb.plan(mlp(), (2, 20), recipe=init, seed=5))


def test_a7_a_function_of_a_layer_has_nothing_to_set_in_linen():
    with pytest.raises(InputError, match="hold no values that a function of a layer could set"):
        sb.apply_init(mlp(), [X], lambda module: None)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(8)(x))
        noise = jax.random.normal(self.make_rng("noise"), x.shape) if train else 0.0
        return nn.BatchNorm(use_running_average=not train)(x + noise)


def test_a8_parameters_are_returned_and_the_module_is_not_changed():
    net = Dropped()
    rngs = {name: jax.random.key(n) for n, name in enumerate(("params", "dropout", "noise"))}
    variables = sb.initialize(net, (2, 5), train=True, rngs=rngs, recipe="he", seed=1)
    theirs = net.init(rngs, jnp.ones((2, 5)), train=True)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, theirs)
    assert list(variables) == ["params", "batch_stats"]
    assert same(variables, sb.initialize(net, (2, 5), recipe="he", seed=1))
    out, changed = net.apply(variables, jnp.ones((2, 5)), train=True, rngs=rngs, mutable=["batch_stats"])
    assert out.shape == (2, 8)
    assert set(changed) == {"batch_stats"}


def test_a8_several_methods_can_be_what_is_started():
    class Coder(nn.Module):
        def setup(self):
            self.encoder, self.decoder = nn.Dense(3), nn.Dense(5)

        def __call__(self, x):
            return self.decoder(self.encoder(x))

        def encode(self, x):
            return self.encoder(x)

    assert [s.path for s in sb.trace(Coder(), (2, 5))][::2] == ["encoder.kernel", "decoder.kernel"]
    assert [s.path for s in sb.trace(Coder(), (2, 5), method="encode")] == ["encoder.kernel", "encoder.bias"]


@pytest.mark.parametrize(("side", "features"), [(28, 400), (32, 576), (64, 3136)])
def test_a9_the_images_resolution_decides_the_dense_layers(side, features):
    assert sb.trace(house.lenet()[0], (1, side, side, 1))["layers_7.kernel"].shape == (features, 120)


def test_a9_a_report_says_which_parameters_depend_on_the_resolution():
    specs = sb.trace(house.lenet()[0], (1, None, None, 1))
    assert {s.path for s in specs if s.varies} == {"layers_7.kernel"}
    assert specs["layers_7.kernel"].shape == (None, 120)
    assert specs["layers_7.kernel"].varies == "input 0 axis 1, input 0 axis 2"
    assert specs["layers_7.kernel"].start is None


def test_a9_a_size_that_is_asked_for_as_a_number_is_tried():
    class Asks(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(x.shape[1] if int(x.shape[1]) > 4 else 4)(x)

    specs = sb.trace(Asks(), (2, None))
    assert specs["Dense_0.kernel"].shape == (None, None)
    assert specs["Dense_0.kernel"].varies == "input 0 axis 1"


def test_a10_what_is_known_without_an_input_is_shown_as_known():
    net = nn.Sequential([nn.Einsum((20, 256), "bi,io->bo"), nn.relu, nn.Dense(10)])
    plan = sb.plan(net, recipe=i.Ones())
    assert plan.unknown == ()
    net = nn.Sequential([nn.Dense(256), nn.relu, nn.Einsum((256, 10), "bi,io->bo")])
    plan = sb.plan(net, recipe=i.Ones())
    assert plan.unknown == ("layers_0.kernel",)
    assert "layers_2.kernel  (256, 10)  float32  Ones()" in str(plan)


def test_a11_sizes_that_do_not_fit_name_the_layer_and_where_its_input_came_from():
    net = nn.Sequential([nn.Dense(256), nn.relu, nn.Einsum((128, 10), "bi,io->bo")])
    with pytest.raises(ShapeError) as error:
        sb.plan(net, (2, 20))
    assert (error.value.path, error.value.got, error.value.source) == ("layers_2", (2, 256), "layers_0")
    assert str(error.value).startswith("layers_2: Einsum expects inputs that end in (128), got (2, 256).")
    assert "from      layers_0 (Dense)" in str(error.value)


def test_a11_a_shared_layer_that_is_given_two_widths():
    shared = nn.Dense(256)
    with pytest.raises(ShapeError, match=r"^layers_0: Dense expects inputs of 20 features, got \(2, 256\)"):
        sb.plan(nn.Sequential([shared, nn.relu, shared]), (2, 20))


class Tied(nn.Module):
    def setup(self):
        self.embed = nn.Embed(50, 16)
        self.body = nn.Dense(16)

    def __call__(self, ids):
        return self.embed.attend(self.body(self.embed(ids)))


def test_a12_tied_parameters_are_filled_once_and_stay_tied():
    plan = sb.plan(Tied(), sb.Input((2, 7), "int32"), recipe=i.Normal(std=0.02))
    assert [e.spec.path for e in plan] == ["embed.embedding", "body.kernel", "body.bias"]
    assert sb.check(plan.materialize(Tied()), plan)


def test_a12_a_shared_layer_appears_once():
    plan = sb.plan(house.tied()[0], (2, 8))
    assert [e.spec.path for e in plan] == ["layers_0.kernel", "layers_0.bias"]


def test_a12_inputs_of_varying_size_settle_what_does_not_depend_on_them():
    assert sb.plan(mlp(), (None, 20), recipe="he").unknown == ()
    plan = sb.plan(mlp(), (2, None), recipe="he")
    assert plan.unknown == ("layers_0.kernel",)
    assert plan["layers_0.kernel"].spec.varies == "input 0 axis 1"
    with pytest.raises(UnknownSizeError, match="depends on input 0 axis 1"):
        sb.initialize(mlp(), (2, None), recipe="he")


# B. Parameter initialization


def test_b1_every_dense_gets_a_normal_and_a_zero_bias_and_nothing_else_is_touched():
    net = nn.Sequential([nn.Dense(400), nn.BatchNorm(use_running_average=True), nn.Dense(300)])
    recipe = sb.Recipe(
        (
            sb.Rule(sb.Where(layer="Dense", role="weight"), i.Normal(std=0.01)),
            sb.Rule(sb.Where(layer="Dense", role="bias"), i.Zeros()),
            sb.Rule("*", i.Keep()),
        )
    )
    variables = sb.initialize(net, (2, 500), recipe=recipe)
    for layer in ("layers_0", "layers_2"):
        z = np.asarray(variables["params"][layer]["kernel"], np.float64) / 0.01
        # chi-square of n normals lies within 6.5 standard deviations of n, up to 1e-10
        assert abs((z**2).sum() - z.size) < 6.5 * math.sqrt(2 * z.size)
        assert abs(z.sum()) < 6.5 * math.sqrt(z.size)
        assert not variables["params"][layer]["bias"].any()
    assert (variables["params"]["layers_1"]["scale"] == 1).all()
    with pytest.raises(UnmatchedError) as error:
        sb.plan(net, (2, 500), recipe=sb.Recipe(recipe.rules[:2]))
    assert error.value.paths == ("layers_1.scale", "layers_1.bias")


def test_b2_every_parameter_the_constant_one_and_no_buffer():
    net = nn.Sequential([nn.Dense(8), nn.BatchNorm(use_running_average=True)])
    variables = sb.initialize(net, (2, 5), recipe=i.Constant(value=1))
    assert all((a == 1).all() for a in jax.tree.leaves(variables["params"]))
    assert not variables["batch_stats"]["layers_1"]["mean"].any()


def test_b3_each_block_its_own_rule():
    rules = {"layers_0.kernel": i.XavierUniform(), "layers_2.kernel": i.Constant(value=42), "*.bias": i.Zeros()}
    params = sb.initialize(mlp(), (2, 20), recipe=rules)["params"]
    bound = math.sqrt(6 / (20 + 256))
    assert 0.99 * bound < abs(params["layers_0"]["kernel"]).max() < bound
    assert (params["layers_2"]["kernel"] == 42).all()


def test_b4_a_custom_distribution_without_a_loop():
    chapter = i.Mixture([(0.25, i.Uniform(low=5, high=10)), (0.5, i.Zeros()), (0.25, i.Uniform(low=-10, high=-5))])
    kernel = sb.initialize(nn.Dense(300), (1, 400), recipe={"kernel": chapter, "bias": i.Zeros()})["params"]["kernel"]
    values = np.asarray(kernel, np.float64)
    n = values.size
    assert abs((values == 0).sum() - n / 2) < 6.5 * math.sqrt(n / 4)
    outer = abs(values[values != 0])
    assert outer.min() >= 5
    assert outer.max() < 10


def test_b4_the_same_as_a_users_own_function():
    def my_init(key, shape, dtype=jnp.float32):
        values = jax.random.uniform(key, shape, dtype, -10, 10)
        return values * (abs(values) >= 5)

    plan = sb.plan(mlp(), (2, 20), recipe={"*.kernel": my_init, "*.bias": i.Zeros()})
    assert str(plan["layers_0.kernel"].start).startswith("computed: ")
    kernel = plan.materialize(mlp())["params"]["layers_0"]["kernel"]
    outer = abs(kernel[kernel != 0])
    assert 0.4 < outer.size / kernel.size < 0.6
    assert outer.min() >= 5
    other = sb.initialize(mlp(), (2, 20), recipe={"*.kernel": my_init, "*.bias": i.Zeros()}, seed=1)
    assert not np.array_equal(kernel, other["params"]["layers_0"]["kernel"])


def test_b5_values_set_directly_are_found_by_check():
    plan = sb.plan(mlp(), (2, 20), recipe="he")
    variables = plan.materialize(mlp())
    kernel = variables["params"]["layers_0"]["kernel"]
    variables["params"]["layers_0"]["kernel"] = (kernel + 1).at[0, 0].set(42)
    findings = sb.check(variables, plan)
    assert [f.path for f in findings.different] == ["layers_0.kernel"]
    assert findings["layers_0.kernel"].differing == 256 * 20


TRUNCATED = {"distribution": "truncated_normal"}
CATALOGUE = {
    "constant": (jax.nn.initializers.constant(3.0), i.Constant(value=3.0)),
    "delta_orthogonal": (jax.nn.initializers.delta_orthogonal(), None),
    "glorot_normal": (jax.nn.initializers.glorot_normal(), i.VarianceScaling(scale=1.0, fan="avg", **TRUNCATED)),
    "glorot_uniform": (jax.nn.initializers.glorot_uniform(), i.XavierUniform()),
    "he_normal": (jax.nn.initializers.he_normal(), i.VarianceScaling(scale=2.0, **TRUNCATED)),
    "he_uniform": (jax.nn.initializers.he_uniform(), i.HeUniform()),
    "kaiming_normal": (jax.nn.initializers.kaiming_normal(), i.VarianceScaling(scale=2.0, **TRUNCATED)),
    "kaiming_uniform": (jax.nn.initializers.kaiming_uniform(), i.HeUniform()),
    "lecun_normal": (jax.nn.initializers.lecun_normal(), i.VarianceScaling(scale=1.0, **TRUNCATED)),
    "lecun_uniform": (jax.nn.initializers.lecun_uniform(), i.LecunUniform()),
    "normal": (jax.nn.initializers.normal(0.02), i.Normal(std=0.02)),
    "ones": (jax.nn.initializers.ones, i.Ones()),
    "orthogonal": (jax.nn.initializers.orthogonal(2.0), i.Orthogonal(gain=2.0)),
    "truncated_normal": (
        jax.nn.initializers.truncated_normal(0.5, lower=-3, upper=3),
        i.TruncatedNormal(std=0.5, cut=3.0),
    ),
    "uniform": (jax.nn.initializers.uniform(0.3), i.Uniform(low=0.0, high=0.3)),
    "variance_scaling": (
        jax.nn.initializers.variance_scaling(0.5, "fan_out", "normal"),
        i.VarianceScaling(scale=0.5, fan="out"),
    ),
    "xavier_normal": (jax.nn.initializers.xavier_normal(), i.VarianceScaling(scale=1.0, fan="avg", **TRUNCATED)),
    "xavier_uniform": (jax.nn.initializers.xavier_uniform(), i.XavierUniform()),
    "zeros": (jax.nn.initializers.zeros, i.Zeros()),
}


def test_b6_the_catalogue_holds_all_that_jax_nn_initializers_offers():
    offered = {n for n, f in vars(jax.nn.initializers).items() if inspect.isfunction(f) and not n.startswith("_")}
    assert offered == set(CATALOGUE)


@pytest.mark.parametrize(
    "layer", [nn.Dense(16, use_bias=False), nn.Conv(16, (3, 3), use_bias=False)], ids=["dense", "conv"]
)
@pytest.mark.parametrize("name", sorted(set(CATALOGUE) - {"delta_orthogonal"}))
def test_b6_jaxs_initializers_become_ours_with_their_distribution(name, layer):
    native, ours = CATALOGUE[name]
    given = (1, 8, 8, 12)
    theirs, mine = (sb.plan(layer, given, recipe=recipe)["kernel"].start for recipe in (native, ours))
    assert type(theirs) is type(mine)
    assert all(getattr(theirs, a) == pytest.approx(getattr(mine, a), rel=1e-12) for a in vars(mine))
    in_slot = sb.plan(layer.clone(kernel_init=native), given)["kernel"]
    assert in_slot.start == theirs


def test_b6_what_is_none_of_ours_is_run_as_it_is():
    plan = sb.plan(nn.Conv(8, (3, 3), use_bias=False), (1, 8, 8, 4), recipe=CATALOGUE["delta_orthogonal"][0])
    assert str(plan["kernel"].start) == "computed: _orthogonal, mul, concatenate, scatter"
    kernel = np.asarray(plan.materialize(nn.Conv(8, (3, 3), use_bias=False))["params"]["kernel"])
    assert not kernel[0].any()
    assert np.allclose(kernel[1, 1] @ kernel[1, 1].T, np.eye(4), atol=1e-5)


def test_b6_seedbeds_initializers_fit_flaxs_slots():
    from seedbed.frameworks.flax import slot

    net = nn.Dense(512, kernel_init=slot(i.HeNormal()))
    kernel = net.init(jax.random.key(0), jnp.ones((1, 300)))["params"]["kernel"]
    z = np.asarray(kernel, np.float64) / math.sqrt(2 / 300)
    assert abs((z**2).sum() - z.size) < 6.5 * math.sqrt(2 * z.size)
    again = jax.jit(net.init)(jax.random.key(0), jnp.ones((1, 300)))["params"]["kernel"]
    assert np.array_equal(kernel, again)
