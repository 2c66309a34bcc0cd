"""The acceptance scenarios of lazy and of parameter initialization, in Gluon's own spelling."""

import math
import random
import warnings

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import Block, Trainer, nn, rnn
from mxnet.gluon.parameter import DeferredInitializationError
from tests.frameworks.houses import gluon as house

import seedbed as sb
from seedbed import initializers as i
from seedbed.errors import InputError, ShapeError, UninitializedError, UnknownSizeError, UnmatchedError
from seedbed.fill import fill
from seedbed.frameworks.gluon.blocks import parameters

X = mx.nd.array(np.linspace(-1, 1, 40, dtype=np.float32).reshape(2, 20))


def mlp(kind=nn.Sequential):
    net = kind()
    net.add(nn.Dense(256), nn.Activation("relu"), nn.Dense(10))
    return net


def lenet():
    return house.lenet()[0]


def shapes(net):
    return {held.path: held.parameter.shape for held in parameters(net)}


def value(net, path):
    return next(held.parameter.data().asnumpy() for held in parameters(net) if held.path == path)


# A. Lazy initialization


@pytest.mark.parametrize("kind", [nn.Sequential, nn.HybridSequential])
def test_a1_an_mlp_with_output_sizes_only_is_planned_and_nothing_is_allocated(kind):
    net = mlp(kind)
    sb.plan(net)
    assert all(p._data is None and p._grad is None for p in net.collect_params().values())


def test_a2_the_first_weight_is_shown_with_its_unknown_size():
    table = str(sb.plan(mlp()))
    assert "0.weight   (256, ?)" in table
    assert "2.weight   (10, ?)" in table
    assert sb.trace(mlp())["0.weight"].shape == (256, None)
    assert sb.trace(lenet())["0.weight"].shown_shape == "(6, ?, 5, 5)"


def test_a2_whatever_gluon_writes_for_what_is_unknown():
    legacy = mlp()
    assert legacy[0].weight.shape == (256, 0)
    with mx.util.np_shape(True):
        assert mlp()[0].weight.shape == (256, -1)
        assert sb.trace(mlp())["0.weight"].shown_shape == sb.trace(legacy)["0.weight"].shown_shape == "(256, ?)"


@pytest.mark.parametrize(
    "read",
    [
        lambda w: w.data(),
        lambda w: w.list_data(),
        lambda w: w.grad(),
        lambda w: w.list_grad(),
        lambda w: w.data(mx.cpu(0)),
    ],
)
def test_a3_a_value_read_too_early_is_an_error_that_names_the_parameter(read):
    net = sb.initialize(mlp(), recipe="he")
    with pytest.raises(UninitializedError) as error:
        read(net[0].weight)
    assert error.value.path == "0.weight"
    assert "seedbed.initialize(model, (batch, features), ...)" in str(error.value)
    assert isinstance(error.value, DeferredInitializationError)  # which Gluon's layers wait for


def test_a3_checking_too_early_is_an_error_that_names_the_parameter():
    with pytest.raises(UninitializedError, match=r"^0\.weight: has no value yet"):
        sb.check(mlp(), sb.plan(mlp(), (2, 20)))


@pytest.mark.parametrize("kind", [nn.Sequential, nn.HybridSequential])
@pytest.mark.parametrize("hybrid", [False, True])
def test_a4_a_wish_before_shapes_are_known_is_carried_out_at_the_first_call(kind, hybrid):
    net = mlp(kind)
    if hybrid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a Sequential whose layers are all hybrid
            net.hybridize()
    weight = net[0].weight
    assert sb.initialize(net, recipe="he", seed=7) is net
    trainer = Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
    assert weight._data is None
    with mx.autograd.record():
        loss = net(X).sum()
    assert net[0].weight is weight
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he", seed=7))
    loss.backward()
    trainer.step(1)
    assert not sb.check(net, sb.plan(mlp(), (2, 20), recipe="he", seed=7))


def test_a4_the_last_wish_is_the_one_carried_out():
    net = mlp()
    sb.initialize(net, recipe="he")
    sb.initialize(net, recipe="xavier", seed=1)
    net(X)
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="xavier", seed=1))


def test_a4_gluons_own_wish_is_heard_and_says_so_when_it_takes_the_place_of_ours():
    net = mlp()
    net.initialize(mx.init.Normal(0.5))
    plan = sb.plan(net, (2, 20))
    assert plan["0.weight"].start == i.Normal(std=0.5)
    assert plan["0.bias"].start == i.Zeros()
    sb.initialize(net, recipe="he")
    with pytest.warns(UserWarning, match="place of the start|already initialized") as said:
        net.initialize(mx.init.One())
    told = [str(w.message) for w in said]
    assert "0.weight: Gluon's One takes the place of the start that seedbed kept for it." in told
    assert sum("already initialized, ignoring" in t for t in told) == 2  # the biases: Gluon's own words
    net(X)
    assert (value(net, "0.weight") == 1).all()


def test_a4_what_is_loaded_or_written_after_the_wish_stays(tmp_path):
    net = nn.Sequential()
    net.add(nn.Dense(8, in_units=20), nn.Dense(256), nn.Dense(10))
    sb.initialize(net, recipe="he")
    net[0].weight.set_data(mx.nd.full((8, 20), 3))
    net[1].weight.set_data(mx.nd.full((256, 8), 5))
    mx.nd.save(str(tmp_path / "part.params"), {"1.bias": mx.nd.full((256,), 6)})
    net.load_parameters(str(tmp_path / "part.params"), allow_missing=True)
    net(X)
    assert (value(net, "0.weight") == 3).all()
    assert (value(net, "1.weight") == 5).all()
    assert (value(net, "1.bias") == 6).all()
    assert sb.check(net, sb.plan(net, recipe="he"))["2.weight"].verdict == "equal"


def test_a4_a_wish_that_cannot_be_meant_is_refused_at_once():
    with pytest.raises(UnmatchedError):
        sb.initialize(mlp(), recipe={"0.*": i.Ones()})


def test_a5_the_shapes_that_an_input_settles():
    net = sb.initialize(mlp(), X)
    assert shapes(net) == {"0.weight": (256, 20), "0.bias": (256,), "2.weight": (10, 256), "2.bias": (10,)}


@pytest.mark.parametrize("kind", [nn.Sequential, nn.HybridSequential])
@pytest.mark.parametrize(
    "given", [(2, 20), sb.Input((2, 20)), sb.Input((0, 20)), X], ids=["tuple", "Input", "empty", "X"]
)
def test_a6_a_dry_run_settles_the_shapes_without_data(given, kind):
    specs = sb.trace(mlp(kind), given)
    assert [s.shape for s in specs] == [(256, 20), (256,), (10, 256), (10,)]
    mx.nd.waitall()  # no error is left behind


def everything():
    net = nn.HybridSequential()
    net.add(nn.Dense(8, in_units=20), nn.BatchNorm(in_channels=8), nn.Dropout(0.5), nn.Dense(3), nn.BatchNorm())
    return net


class Looks(Block):
    """Asks for what only an array can tell."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.seen = everything(), nn.Dense(2), []

    def forward(self, x):
        x = self.body(x)
        self.seen.append(x.shape)
        return self.head(x + x.sum() + mx.nd.random.normal(shape=x.shape))


@pytest.mark.parametrize("build", [everything, Looks])
def test_a6_a_dry_run_changes_nothing(build):
    net, seen = build(), []
    body = net if build is everything else net.body
    body[0].initialize()
    body[1].initialize()
    body[0].register_forward_hook(lambda *_: seen.append(1))
    before = house.state(net), body[0].weight.data().asnumpy(), body[1].running_mean.data().asnumpy()
    states = np.random.get_state()[1].copy(), random.getstate()
    sb.plan(net, (4, 20), recipe="he")
    after = house.state(net), body[0].weight.data().asnumpy(), body[1].running_mean.data().asnumpy()
    assert before[0] == after[0]
    assert all(np.array_equal(a, b) for a, b in zip(before[1:], after[1:], strict=True))
    assert (states[0] == np.random.get_state()[1]).all()
    assert states[1] == random.getstate()
    assert seen == []  # Gluon's hooks may not change what flows: there is nothing to hear
    assert not (build is Looks and net.seen)


@pytest.mark.parametrize("build", [everything, Looks])
def test_a6_a_dry_run_draws_nothing_from_the_users_generator(build):
    mx.random.seed(3)
    expected = mx.nd.random.uniform(shape=(4,)).asnumpy()
    mx.random.seed(3)
    sb.plan(build(), (4, 20), recipe="he").materialize(build())
    assert np.array_equal(mx.nd.random.uniform(shape=(4,)).asnumpy(), expected)


def test_a6_only_what_stands_between_the_layers_is_computed_where_a_forward_is_plain_python():
    seen = []

    class Mixes(Block):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Dense(4096), nn.Dense(4096)

        def forward(self, x):
            h = self.first(x)
            seen.append((type(h), h.shape, float(h.sum().asscalar())))
            return self.last(mx.nd.concat(h, h, dim=1))

    assert sb.trace(Mixes(), (2, 4096))["last.weight"].shape == (4096, 8192)
    assert seen == [(mx.nd.NDArray, (2, 4096), 0.0)]


def test_a7_apply_init_runs_the_users_function_on_every_block():
    def init_xavier(block):
        if type(block) is nn.Dense:
            block.weight.initialize(mx.init.Xavier(), force_reinit=True)

    net = sb.apply_init(mlp(), [X], init_xavier)
    assert shapes(net)["2.weight"] == (10, 256)
    assert 0 < abs(value(net, "0.weight")).max() <= math.sqrt(6 / 276)
    assert not value(net, "0.bias").any()


@pytest.mark.parametrize(
    "init",
    ["he", i.Ones(), {"*": i.Constant(value=2.0)}, mx.init.One(), mx.init.One, None],
    ids=["name", "initializer", "mapping", "Gluon's initializer", "Gluon's class", "none"],
)
def test_a7_apply_init_takes_what_a_plan_takes(init):
    net = sb.apply_init(mlp(), (2, 20), init, seed=5)
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe=init, seed=5))


def test_a8_values_are_made_without_the_model_and_loaded_into_one(tmp_path):
    net = mlp()
    plan = sb.plan(net, (2, 20), recipe="he")
    values = {entry.spec.path: mx.nd.array(fill(entry)) for entry in plan}
    assert all(p._data is None for p in net.collect_params().values())
    assert sb.check(values, plan)
    mx.nd.save(str(tmp_path / "net.params"), values)  # by the same paths that Gluon's own files have
    other = mlp()
    other.load_parameters(str(tmp_path / "net.params"))
    assert (other(X) == plan.materialize(net)(X)).asnumpy().all()


@pytest.mark.parametrize(("side", "features"), [(28, 400), (32, 576), (64, 3136)])
def test_a9_the_images_resolution_decides_the_dense_layers(side, features):
    assert sb.trace(lenet(), (1, 1, side, side))["4.weight"].shape == (120, features)


def test_a9_a_report_says_which_parameters_depend_on_the_resolution():
    specs = sb.trace(lenet(), (1, 1, None, None))
    assert {s.path for s in specs if s.varies} == {"4.weight"}
    assert specs["4.weight"].shape == (120, None)
    assert specs["4.weight"].varies == "input 0 axis 2, input 0 axis 3"
    assert specs["5.weight"].shape == (84, 120)


def test_a10_known_layers_are_real_at_once_and_the_others_later():
    net = nn.Sequential()
    net.add(nn.Dense(256, in_units=20), nn.Activation("relu"), nn.Dense(10))
    plan = sb.plan(net, recipe=i.Ones())
    assert plan.unknown == ("2.weight",)
    assert "0.weight   (256, 20)  float32  Ones()" in str(plan)
    assert "2.weight   (10, ?)" in str(plan)
    sb.initialize(net, recipe=i.Ones())
    assert (value(net, "0.weight") == 1).all()
    assert (value(net, "2.bias") == 1).all()
    assert net[2].weight._data is None
    net(X)
    assert (value(net, "2.weight") == 1).all()


@pytest.mark.parametrize("kind", [nn.Sequential, nn.HybridSequential])
def test_a11_sizes_that_do_not_fit_name_the_layer_and_where_its_input_came_from(kind):
    net = kind()
    net.add(nn.Dense(256, in_units=20), nn.Activation("relu"), nn.Dense(10, in_units=128))
    with pytest.raises(ShapeError) as error:
        sb.plan(net, (2, 20))
    assert (error.value.path, error.value.got, error.value.source) == ("2", (2, 256), "0")
    assert str(error.value).startswith("2: Dense expects inputs of 128 features, got (2, 256).")
    assert "from      0 (Dense), through 1 (Activation)" in str(error.value)


def test_a11_a_failed_dry_run_leaves_every_layer_as_it_was():
    net = nn.Sequential()
    net.add(nn.Dense(8), nn.Dense(3, in_units=7))
    with pytest.raises(ShapeError):
        sb.initialize(net, (2, 20))
    assert shapes(net)["0.weight"] == (8, 0)
    assert all(p._data is None for p in net.collect_params().values())


class Tied(Block):
    """An embedding whose weight is that of the last layer too."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.body = nn.Dense(16, flatten=False)
        self.head = nn.Dense(50, use_bias=False, flatten=False, params=self.embed.params)

    def forward(self, ids):
        return self.head(self.body(self.embed(ids)))


def test_a12_tied_parameters_are_filled_once_and_stay_tied():
    net = Tied()
    plan = sb.plan(net, sb.Input((2, 7), "int64"), recipe=i.Normal(std=0.02))
    assert [e.spec.path for e in plan] == ["embed.weight", "body.weight", "body.bias"]
    assert plan["embed.weight"].spec.aliases == ("head.weight",)
    assert "also head.weight" in str(plan)
    plan.materialize(net)
    assert net.head.weight is net.embed.weight
    assert sb.check(net, plan)


def test_a12_a_shared_layer_appears_once():
    shared, net = nn.Dense(20), nn.Sequential()
    net.add(shared, nn.Activation("relu"), shared)
    plan = sb.plan(net, (2, 20))
    assert [(e.spec.path, e.spec.aliases) for e in plan] == [("0.weight", ("2.weight",)), ("0.bias", ("2.bias",))]


def test_a12_inputs_of_varying_size_settle_what_does_not_depend_on_them():
    plan = sb.plan(mlp(), (None, 20), recipe="he")
    assert plan.unknown == ()
    plan = sb.plan(mlp(), (2, None), recipe="he")
    assert plan.unknown == ("0.weight",)
    assert plan["0.weight"].spec.varies == "input 0 axis 1"
    with pytest.raises(UnknownSizeError, match="depends on input 0 axis 1"):
        sb.initialize(mlp(), (2, None), recipe="he")


# B. Parameter initialization


def test_b1_every_dense_gets_a_normal_and_a_zero_bias_and_nothing_else_is_touched():
    net = nn.Sequential()
    net.add(nn.Dense(400), nn.LayerNorm(in_channels=400), nn.Dense(300))
    recipe = sb.Recipe(
        (
            sb.Rule(sb.Where(layer="Dense", role="weight"), i.Normal(std=0.01)),
            sb.Rule(sb.Where(layer="Dense", role="bias"), i.Zeros()),
            sb.Rule("*", i.Keep(values=True)),
        )
    )
    net[1].initialize()
    net[1].gamma.set_data(mx.nd.full((400,), 7))
    sb.initialize(net, (2, 500), recipe=recipe)
    for path in ("0", "2"):
        z = value(net, f"{path}.weight").astype(np.float64) / 0.01
        # chi-square of n normals lies within 6.5 standard deviations of n, up to 1e-10
        assert abs((z**2).sum() - z.size) < 6.5 * math.sqrt(2 * z.size)
        assert abs(z.sum()) < 6.5 * math.sqrt(z.size)
        assert not value(net, f"{path}.bias").any()
    assert (value(net, "1.gamma") == 7).all()
    with pytest.raises(UnmatchedError) as error:
        sb.plan(net, (2, 500), recipe=sb.Recipe(recipe.rules[:2]))
    assert error.value.paths == ("1.gamma", "1.beta")


def test_b2_every_parameter_the_constant_one_and_no_buffer():
    net = nn.Sequential()
    net.add(nn.Dense(8), nn.BatchNorm())
    sb.initialize(net, (2, 5), recipe=i.Constant(value=1))
    assert all((value(net, p) == 1).all() for p in ("0.weight", "0.bias", "1.gamma", "1.beta"))
    assert not value(net, "1.running_mean").any()
    assert (value(net, "1.running_var") == 1).all()


def test_b3_each_block_its_own_rule():
    net = mlp()
    sb.initialize(
        net, (2, 20), recipe={"0.weight": i.XavierUniform(), "2.weight": i.Constant(value=42), "*.bias": i.Zeros()}
    )
    bound = math.sqrt(6 / (20 + 256))
    assert 0.99 * bound < abs(value(net, "0.weight")).max() < bound
    assert (value(net, "2.weight") == 42).all()


def test_b4_a_custom_distribution_without_a_loop():
    chapter = i.Mixture([(0.25, i.Uniform(low=5, high=10)), (0.5, i.Zeros()), (0.25, i.Uniform(low=-10, high=-5))])
    net = sb.initialize(nn.Dense(300, in_units=400), recipe={"weight": chapter, "bias": i.Zeros()})
    values = value(net, "weight").astype(np.float64)
    n, zeros = values.size, int((values == 0).sum())
    assert abs(zeros - n / 2) < 6.5 * math.sqrt(n / 4)
    outer = abs(values[values != 0])
    assert outer.min() >= 5
    assert outer.max() < 10
    assert abs(outer.mean() - 7.5) < 6.5 * math.sqrt(25 / 12 / len(outer))
    assert abs(int((values > 0).sum()) - n / 4) < 6.5 * math.sqrt(n * 3 / 16)


class MyInit(mx.init.Initializer):
    """The chapter's own, as Gluon has it."""

    def _init_weight(self, name, data):
        data[:] = mx.nd.random.uniform(-10, 10, data.shape)
        data *= data.abs() >= 5


def test_b4_the_same_as_a_users_own_initializer():
    plan = sb.plan(mlp(), (2, 20), recipe={"*.weight": MyInit(), "*.bias": i.Zeros()})
    net, other = plan.materialize(mlp()), plan.materialize(mlp())
    outer = abs(value(net, "0.weight")[value(net, "0.weight") != 0])
    assert 0.4 < outer.size / value(net, "0.weight").size < 0.6
    assert outer.min() >= 5
    assert outer.max() < 10
    assert np.array_equal(value(net, "0.weight"), value(other, "0.weight"))
    assert sb.check(net, plan)


def test_b5_values_set_directly_are_found_by_check():
    net = mlp()
    plan = sb.plan(net, (2, 20), recipe="he")
    plan.materialize(net)
    net[0].weight.data()[:] += 1
    net[0].weight.data()[0, 0] = 42
    findings = sb.check(net, plan)
    assert [f.path for f in findings.different] == ["0.weight"]
    assert findings["0.weight"].differing == 256 * 20
    assert findings["2.weight"].verdict == "equal"


def scaled(fan, variance, distribution="uniform"):
    return i.VarianceScaling(scale=variance, fan=fan, distribution=distribution)


CATALOGUE = {
    "Zero": (mx.init.Zero(), i.Zeros()),
    "One": (mx.init.One(), i.Ones()),
    "Constant": (mx.init.Constant(3), i.Constant(value=3.0)),
    "Uniform": (mx.init.Uniform(), i.Uniform(low=-0.07, high=0.07)),
    "Normal": (mx.init.Normal(0.02), i.Normal(std=0.02)),
    "Xavier": (mx.init.Xavier(), i.XavierUniform()),
    "Xavier, in": (mx.init.Xavier(factor_type="in", magnitude=2), scaled("in", 2 / 3)),
    "Xavier, gaussian": (mx.init.Xavier("gaussian", "out", 2.34), scaled("out", 2.34, "normal")),
    "MSRAPrelu": (mx.init.MSRAPrelu(), scaled("avg", 2 / (1 + 0.25**2), "normal")),
    "MSRAPrelu, He's": (mx.init.MSRAPrelu("in", 0), i.HeNormal()),
}
RUN = {"Orthogonal", "Bilinear", "LSTMBias", "FusedRNN"}


def test_b6_the_catalogue_holds_all_that_gluon_offers():
    base = mx.init.Initializer
    names = {n for n, c in vars(mx.init).items() if isinstance(c, type) and issubclass(c, base) and c is not base}
    ours = {cls.__name__ for cls in base.__subclasses__() if cls.__module__.startswith("seedbed.")}
    assert names - ours == {n.partition(",")[0] for n in CATALOGUE} | RUN


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("build", [lambda: nn.Dense(6, in_units=8), lambda: nn.Conv2D(6, (3, 4), in_channels=8)])
def test_b6_gluons_initializers_become_ours_with_their_distribution(name, build):
    native, ours = CATALOGUE[name]
    theirs, mine = (sb.plan(build(), recipe={"weight": r, "bias": i.Zeros()})["weight"].start for r in (native, ours))
    assert type(theirs) is type(mine)
    assert all(getattr(theirs, a) == pytest.approx(v, rel=1e-12) for a, v in vars(mine).items())


@pytest.mark.parametrize("name", CATALOGUE)
def test_b6_their_values_have_the_spread_that_gluons_have(name):
    native, _ = CATALOGUE[name]
    net = nn.Dense(300, in_units=200, weight_initializer=native)
    net.initialize()
    theirs = net.weight.data().asnumpy().astype(np.float64)
    ours = fill(sb.plan(net)["weight"]).astype(np.float64)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    assert abs(ours).max() == pytest.approx(abs(theirs).max(), rel=0.25)


def test_b6_orthogonal_is_gluons_own_and_not_ours():
    net = nn.Dense(24, in_units=40, weight_initializer=mx.init.Orthogonal(scale=2))
    weight = fill(sb.plan(net)["weight"])
    assert np.allclose(weight @ weight.T, 4 * np.eye(24), atol=1e-5)
    small = sb.trace(nn.Dense(3, in_units=3, weight_initializer=mx.init.Orthogonal()))
    signs = [fill(sb.plan(small, seed=seed)["weight"])[0, 0] < 0 for seed in range(400)]
    assert 280 < sum(signs) < 350  # Haar's are even; of MXNet's own 306 of 400 are negative


def test_b6_bilinear_gives_gluons_own_values():
    net = nn.Conv2DTranspose(3, 4, in_channels=2, weight_initializer="bilinear")
    net.initialize()
    expected = net.weight.data().asnumpy()
    assert np.array_equal(fill(sb.plan(net)["weight"]), expected)
    assert expected.any()


def test_b6_the_forget_gates_bias_is_gluons():
    net = rnn.LSTMCell(5, input_size=3, i2h_bias_initializer=mx.init.LSTMBias(forget_bias=2.0))
    net.initialize()
    assert np.array_equal(fill(sb.plan(net)["i2h_bias"]), net.i2h_bias.data().asnumpy())


def test_b6_mixed_takes_the_first_pattern_that_the_beginning_of_a_path_matches():
    mixed = mx.init.Mixed([".*bias", "0", ".*"], [mx.init.Zero(), mx.init.One(), mx.init.Xavier()])
    plan = sb.plan(mlp(), (2, 20), recipe=mixed)
    assert [str(e.start) for e in plan] == ["Ones()", "Zeros()", "Uniform(low=-0.1502, high=0.1502)", "Zeros()"]


def test_b6_ours_fill_gluons_own_slots():
    def built():
        mx.random.seed(5)
        net = nn.Dense(300, in_units=200, weight_initializer=slot(i.HeNormal()), bias_initializer=slot(i.Ones()))
        net.initialize()
        return net

    first, again = built(), built()
    z = value(first, "weight").astype(np.float64) / math.sqrt(2 / 200)
    assert abs((z**2).sum() - z.size) < 6.5 * math.sqrt(2 * z.size)
    assert (value(first, "bias") == 1).all()
    assert np.array_equal(value(first, "weight"), value(again, "weight"))  # seeded by MXNet's own generator
    other = nn.Dense(300, in_units=200, weight_initializer=slot(i.HeNormal()))
    other.initialize()
    assert not np.array_equal(value(first, "weight"), value(other, "weight"))
    first.hybridize()
    first(mx.nd.ones((1, 200)))  # graphs hold initializers as text
    assert (
        sb.plan(first)["weight"].start
        == sb.plan(first, recipe={"weight": i.HeNormal(), "bias": i.Ones()})["weight"].start
    )


def slot(initializer):
    from seedbed.frameworks import gluon

    return gluon.slot(initializer)


def test_inputs_by_name_are_refused_as_gluon_refuses_them():
    with pytest.raises(InputError, match="by position"):
        sb.plan(mlp(), x=(2, 20))
