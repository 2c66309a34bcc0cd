"""The acceptance scenarios of lazy and of parameter initialization, in PyTorch's own spelling."""

import functools
import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

import seedbed as sb
from seedbed import initializers as i
from seedbed.errors import ShapeError, UninitializedError, UnknownSizeError, UnmatchedError
from seedbed.fill import fill


@pytest.fixture(autouse=True)
def _poison():
    """Memory that nobody wrote reads as NaN, or as the largest integer."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def mlp():
    return nn.Sequential(nn.LazyLinear(256), nn.ReLU(), nn.LazyLinear(10))


def lenet():
    return nn.Sequential(
        nn.LazyConv2d(6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2), nn.LazyConv2d(16, 5), nn.Sigmoid(),
        nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(120), nn.Sigmoid(), nn.LazyLinear(84), nn.LazyLinear(10),
    )  # fmt: skip


def shapes(net):
    return {path: tuple(p.shape) for path, p in net.named_parameters()}


# A. Lazy initialization


def test_a1_an_mlp_with_output_sizes_only_is_planned_and_nothing_is_allocated():
    net = mlp()
    sb.plan(net)
    assert all(nn.parameter.is_lazy(p) and p.data.untyped_storage().nbytes() == 0 for p in net.parameters())


def test_a2_the_first_weight_is_shown_with_its_unknown_size():
    table = str(sb.plan(mlp()))
    assert "0.weight   (256, ?)" in table
    assert "2.weight   (10, ?)" in table
    assert sb.trace(mlp())["0.weight"].shape == (256, None)
    assert sb.trace(lenet())["0.weight"].shown_shape == "(6, ?, 5, 5)"


@pytest.mark.parametrize(
    "read",
    [
        lambda w: w.shape,
        lambda w: w.size(),
        lambda w: w.ndim,
        lambda w: w.data,
        lambda w: w.data.normal_(0, 0.02),
        lambda w: w.sum(),
        lambda w: w[0],
        lambda w: w + 1,
        lambda w: w.numpy(),
        lambda w: w.numel(),
        lambda w: w.detach(),
        nn.init.zeros_,
    ],
)
def test_a3_a_value_read_too_early_is_an_error_that_names_the_parameter(read):
    net = sb.initialize(mlp(), recipe="he")
    with pytest.raises(UninitializedError) as error:
        read(net[0].weight)
    assert error.value.path == "0.weight"
    assert "seedbed.initialize(model, (batch, features), ...)" in str(error.value)


def test_a3_checking_too_early_is_an_error_that_names_the_parameter():
    with pytest.raises(UninitializedError, match=r"^0\.weight: has no value yet"):
        sb.check(mlp(), sb.plan(mlp(), (2, 20)))


def test_a4_a_wish_before_shapes_are_known_is_carried_out_at_the_first_call():
    net, rows = mlp(), torch.rand(2, 20)
    weight = net[0].weight
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    assert sb.initialize(net, recipe="he", seed=7) is net
    assert nn.parameter.is_lazy(weight)
    out = net(rows)
    assert net[0].weight is weight
    assert type(net[0]) is nn.Linear
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he", seed=7))
    out.sum().backward()
    optimizer.step()
    assert not sb.check(net, sb.plan(mlp(), (2, 20), recipe="he", seed=7))


def test_a4_the_last_wish_is_the_one_carried_out():
    net = mlp()
    sb.initialize(net, recipe="he")
    sb.initialize(net, recipe="xavier", seed=1)
    net(torch.rand(2, 20))
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="xavier", seed=1))


def test_a4_what_is_loaded_or_written_after_the_wish_stays():
    net = nn.Sequential(nn.Linear(20, 8), nn.LazyLinear(256), nn.LazyLinear(10))
    sb.initialize(net, recipe="he")
    with torch.no_grad():
        net[0].weight.fill_(3)
    loaded = {"1.weight": torch.full((256, 8), 5.0), "1.bias": torch.full((256,), 6.0)}
    net.load_state_dict(loaded, strict=False)
    net(torch.rand(2, 20))
    assert (net[0].weight == 3).all()
    assert (net[1].weight == 5).all()
    assert (net[1].bias == 6).all()
    assert sb.check(net, sb.plan(net, recipe="he"))["2.weight"].verdict == "equal"


def test_a4_a_wish_that_cannot_be_meant_is_refused_at_once():
    with pytest.raises(UnmatchedError):
        sb.initialize(mlp(), recipe={"0.*": i.Ones()})


def test_a5_the_shapes_that_an_input_settles():
    net = sb.initialize(mlp(), torch.rand(2, 20))
    assert shapes(net) == {"0.weight": (256, 20), "0.bias": (256,), "2.weight": (10, 256), "2.bias": (10,)}
    assert (net[0].in_features, net[0].out_features, net[2].in_features) == (20, 256, 256)


@pytest.mark.parametrize("given", [(2, 20), sb.Input((2, 20)), sb.Input((0, 20)), torch.Size((2, 20))], ids=str)
def test_a6_a_dry_run_settles_the_shapes_without_data(given):
    specs = sb.trace(mlp(), given)
    assert [s.shape for s in specs] == [(256, 20), (256,), (10, 256), (10,)]


def test_a6_a_dry_run_changes_nothing():
    net = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.LazyLinear(3), nn.LazyBatchNorm1d())
    seen = []
    net[0].register_forward_hook(lambda *_: seen.append(1))
    net[1].eval()
    before = {k: v.clone() for k, v in net[1].state_dict().items()} | {"w": net[0].weight.detach().clone()}
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    modes, versions = [m.training for m in net.modules()], [p._version for p in net[:2].parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    sb.plan(net, (4, 20), recipe="he")
    assert all(torch.equal(before[k], v) for k, v in net[1].state_dict().items())
    assert torch.equal(before["w"], net[0].weight)
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    assert modes == [m.training for m in net.modules()]
    assert versions == [p._version for p in net[:2].parameters()]
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert len(seen) == 1  # the user's hook ran on the twin, as it may change what flows
    assert nn.parameter.is_lazy(net[3].weight)


def test_a6_tensors_made_in_a_dry_run_stay_on_meta():
    devices = []

    class Makes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.LazyLinear(3)
            self.plain = torch.ones(4)  # neither parameter nor buffer

        def forward(self, x):
            noise, mask = torch.randn(x.shape, device="cpu"), torch.zeros_like(x)
            devices.extend(t.device.type for t in (x, noise, mask, self.plain, torch.arange(3)))
            return self.fc(x + noise + mask + self.plain)

    net = Makes()
    state = torch.get_rng_state()
    assert sb.trace(net, (2, 4))["fc.weight"].shape == (3, 4)
    assert devices == ["meta"] * 5
    assert torch.equal(state, torch.get_rng_state())
    assert net.plain.device.type == "cpu"


def test_a7_apply_init_runs_the_users_function_on_every_layer():
    def init_xavier(module):
        if type(module) is nn.Linear:
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    net = sb.apply_init(mlp(), [torch.rand(2, 20)], init_xavier)
    assert shapes(net)["2.weight"] == (10, 256)
    assert 0 < net[0].weight.abs().max() <= math.sqrt(6 / 276)
    assert not net[0].bias.any()


@pytest.mark.parametrize(
    "init",
    ["he", i.Ones(), {"*": i.Constant(value=2.0)}, nn.init.ones_, None],
    ids=["name", "initializer", "mapping", "torch's function", "none"],
)
def test_a7_apply_init_takes_what_a_plan_takes(init):
    net = sb.apply_init(mlp(), (2, 20), init, seed=5)
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe=init, seed=5))


def test_a8_values_are_made_without_the_model_and_used_with_functional_call():
    net = mlp()
    plan = sb.plan(net, (2, 20), recipe="he")
    values = {entry.spec.path: torch.from_numpy(fill(entry)) for entry in plan}
    assert all(map(nn.parameter.is_lazy, net.parameters()))
    fixed = nn.Sequential(nn.Linear(20, 256, device="meta"), nn.ReLU(), nn.Linear(256, 10, device="meta"))
    answer = torch.func.functional_call(fixed, values, torch.ones(2, 20))
    assert torch.equal(answer, plan.materialize(net)(torch.ones(2, 20)))


@pytest.mark.parametrize(("side", "features"), [(28, 400), (32, 576), (64, 3136)])
def test_a9_the_images_resolution_decides_the_dense_layers(side, features):
    assert sb.trace(lenet(), (1, 1, side, side))["7.weight"].shape == (120, features)


def test_a9_a_report_says_which_parameters_depend_on_the_resolution():
    specs = sb.trace(lenet(), (1, 1, None, None))
    depends = {s.path for s in specs if s.varies}
    assert depends == {"7.weight", "7.bias"}  # the bias by its start, whose bound follows the fan
    assert specs["7.weight"].shape == (120, None)
    assert specs["7.weight"].varies == "input 0 axis 2, input 0 axis 3"
    assert specs["7.weight"].start is None


def test_a10_known_layers_are_real_at_once_and_the_others_later():
    net = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.LazyLinear(10))
    plan = sb.plan(net, recipe=i.Ones())
    assert plan.unknown == ("2.weight",)
    assert "0.weight   (256, 20)  float32  Ones()" in str(plan)
    assert "2.weight   (10, ?)" in str(plan)
    sb.initialize(net, recipe=i.Ones())
    assert (net[0].weight == 1).all()
    assert nn.parameter.is_lazy(net[2].weight)
    net(torch.rand(2, 20))
    assert (net[2].weight == 1).all()


def test_a11_sizes_that_do_not_fit_name_the_layer_and_where_its_input_came_from():
    net = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(128, 10))
    with pytest.raises(ShapeError) as error:
        sb.plan(net, (2, 20))
    assert (error.value.path, error.value.got, error.value.source) == ("2", (2, 256), "0")
    assert str(error.value).startswith("2: Linear expects inputs of 128 features, got (2, 256).")
    assert "from      0 (Linear), through 1 (ReLU)" in str(error.value)


def test_a11_a_failed_dry_run_leaves_every_layer_as_it_was():
    net = nn.Sequential(nn.LazyLinear(8), nn.Linear(7, 3))
    with pytest.raises(ShapeError):
        sb.initialize(net, (2, 20))
    assert type(net[0]) is nn.LazyLinear
    assert nn.parameter.is_lazy(net[0].weight)
    net[1] = nn.Linear(8, 3)
    assert shapes(sb.initialize(net, (2, 20)))["0.weight"] == (8, 20)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.body = nn.LazyLinear(16)
        self.head = nn.LazyLinear(50, bias=False)
        self.head.weight = self.embed.weight

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
    assert type(net.head) is nn.Linear
    assert sb.check(net, plan)


def test_a12_a_shared_layer_appears_once():
    shared = nn.LazyLinear(20)
    plan = sb.plan(nn.Sequential(shared, nn.ReLU(), shared), (2, 20))
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


def test_b1_every_linear_gets_a_normal_and_a_zero_bias_and_nothing_else_is_touched():
    net = nn.Sequential(nn.LazyLinear(400), nn.BatchNorm1d(400), nn.LazyLinear(300))
    recipe = sb.Recipe(
        (
            sb.Rule(sb.Where(layer="Linear", role="weight"), i.Normal(std=0.01)),
            sb.Rule(sb.Where(layer="Linear", role="bias"), i.Zeros()),
            sb.Rule("*", i.Keep(values=True)),
        )
    )
    with torch.no_grad():
        net[1].weight.fill_(7)
    sb.initialize(net, (2, 500), recipe=recipe)
    for layer in (net[0], net[2]):
        z = layer.weight.double() / 0.01
        # chi-square of n normals lies within 6.5 standard deviations of n, up to 1e-10
        assert abs((z**2).sum() - z.numel()) < 6.5 * math.sqrt(2 * z.numel())
        assert abs(z.sum()) < 6.5 * math.sqrt(z.numel())
        assert not layer.bias.any()
    assert (net[1].weight == 7).all()
    with pytest.raises(UnmatchedError) as error:
        sb.plan(net, (2, 500), recipe=sb.Recipe(recipe.rules[:2]))
    assert error.value.paths == ("1.weight", "1.bias")


def test_b2_every_parameter_the_constant_one_and_no_buffer():
    net = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d())
    sb.initialize(net, (2, 5), recipe=i.Constant(value=1))
    assert all((p == 1).all() for p in net.parameters())
    assert not net[1].running_mean.any()
    assert net[1].num_batches_tracked == 0


def test_b3_each_block_its_own_rule():
    net = mlp()
    sb.initialize(
        net, (2, 20), recipe={"0.weight": i.XavierUniform(), "2.weight": i.Constant(value=42), "*.bias": i.Zeros()}
    )
    bound = math.sqrt(6 / (20 + 256))
    assert 0.99 * bound < net[0].weight.abs().max() < bound
    assert (net[2].weight == 42).all()


def test_b4_a_custom_distribution_without_a_loop():
    chapter = i.Mixture([(0.25, i.Uniform(low=5, high=10)), (0.5, i.Zeros()), (0.25, i.Uniform(low=-10, high=-5))])
    net = sb.initialize(nn.Linear(300, 400), recipe={"weight": chapter, "bias": i.Zeros()})
    values = net.weight.detach().double()
    n, zeros = values.numel(), int((values == 0).sum())
    assert abs(zeros - n / 2) < 6.5 * math.sqrt(n / 4)
    outer = values[values != 0].abs()
    assert outer.min() >= 5
    assert outer.max() < 10
    assert abs(outer.mean() - 7.5) < 6.5 * math.sqrt(25 / 12 / len(outer))
    assert abs(int((values > 0).sum()) - n / 4) < 6.5 * math.sqrt(n * 3 / 16)


def test_b4_the_same_as_a_users_own_function():
    def my_init(draw, spec):
        values = draw.uniform(-10, 10)
        return values * (abs(values) >= 5)

    net = sb.initialize(mlp(), (2, 20), recipe={"*.weight": i.Custom(my_init), "*.bias": i.Zeros()})
    outer = net[0].weight[net[0].weight != 0].abs()
    assert 0.4 < len(outer) / net[0].weight.numel() < 0.6
    assert outer.min() >= 5
    assert outer.max() < 10


def test_b5_values_set_directly_are_found_by_check():
    net = mlp()
    plan = sb.plan(net, (2, 20), recipe="he")
    plan.materialize(net)
    with torch.no_grad():
        net[0].weight[:] += 1
        net[0].weight[0, 0] = 42
    findings = sb.check(net, plan)
    assert [f.path for f in findings.different] == ["0.weight"]
    assert findings["0.weight"].differing == 256 * 20
    assert findings["2.weight"].verdict == "equal"


WEIGHT = torch.empty(6, 8)
CATALOGUE = {
    "uniform_": (nn.init.uniform_, i.Uniform(low=0.0, high=1.0)),
    "normal_": (functools.partial(nn.init.normal_, std=0.02), i.Normal(std=0.02)),
    "trunc_normal_": (functools.partial(nn.init.trunc_normal_, std=0.5), i.TruncatedNormal(std=0.5, cut=4.0)),
    "constant_": (functools.partial(nn.init.constant_, val=3.0), i.Constant(value=3.0)),
    "ones_": (nn.init.ones_, i.Ones()),
    "zeros_": (nn.init.zeros_, i.Zeros()),
    "eye_": (nn.init.eye_, i.Identity()),
    "dirac_": (functools.partial(nn.init.dirac_, groups=2), i.Dirac(groups=2)),
    "xavier_uniform_": (functools.partial(nn.init.xavier_uniform_, gain=2.0), i.XavierUniform(gain=2.0)),
    "xavier_normal_": (nn.init.xavier_normal_, i.XavierNormal()),
    "kaiming_uniform_": (nn.init.kaiming_uniform_, i.HeUniform()),
    "kaiming_normal_": (functools.partial(nn.init.kaiming_normal_, mode="fan_out"), i.HeNormal(fan="out")),
    "orthogonal_": (functools.partial(nn.init.orthogonal_, gain=2.0), i.Orthogonal(gain=2.0)),
    "sparse_": (functools.partial(nn.init.sparse_, sparsity=0.5), i.Sparse(sparsity=0.5)),
}


def test_b6_the_catalogue_holds_all_that_torch_nn_init_offers():
    names = {n for n, f in inspect.getmembers(nn.init, inspect.isfunction) if n.endswith("_") and not n.startswith("_")}
    assert names == set(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_b6_torchs_initializers_become_ours_with_their_distribution(name):
    native, ours = CATALOGUE[name]
    net = nn.Conv1d(8, 6, 3, bias=False) if name == "dirac_" else nn.Linear(8, 6, bias=False)
    theirs, mine = sb.plan(net, recipe=native)["weight"].start, sb.plan(net, recipe=ours)["weight"].start
    assert type(theirs) is type(mine)
    arguments = [(a, getattr(mine, a)) for a in vars(mine)]
    assert all(getattr(theirs, a) == pytest.approx(v, rel=1e-12) for a, v in arguments)


@pytest.mark.parametrize("name", ["eye_", "dirac_", "constant_", "ones_", "zeros_"])
def test_b6_deterministic_ones_give_torchs_own_values(name):
    native, ours = CATALOGUE[name]
    net = nn.Conv2d(8, 6, (3, 4), bias=False) if name == "dirac_" else nn.Linear(8, 6, bias=False)
    expected = net.weight.detach().clone()
    native(expected)
    assert torch.equal(sb.initialize(net, recipe=ours).weight, expected)


@pytest.mark.parametrize(
    "name", ["linear", "conv2d", "conv_transpose3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
)
def test_b6_gains_are_torchs(name):
    assert i.gain(name) == nn.init.calculate_gain(name)


def test_b6_sparse_columns_have_torchs_number_of_zeros():
    (entry,) = sb.plan(nn.Linear(9, 7, bias=False), recipe=i.Sparse(sparsity=0.3))
    assert ((fill(entry) == 0).sum(axis=0) == math.ceil(0.3 * 7)).all()
