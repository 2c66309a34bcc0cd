"""Layers of any class with sizes left open, in PyTorch."""

import copy
import pickle
import random
import threading
import time

import pytest
import torch
from torch import nn

import seedbed as sb
from seedbed.errors import ModelError, ShapeError, UninitializedError
from seedbed.initializers import Normal, Zeros


class Third(nn.Module):
    """A layer of somebody's, with parts, ties, buffers, and a start of its own."""

    def __init__(self, width, out=3):
        super().__init__()
        self.width, self.scale = width, width**-0.5
        self.gain = nn.Parameter(torch.full((width,), 2.0))
        self.tied = self.gain
        self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(width, out))
        self.head = nn.LazyLinear(2 * width)
        self.register_buffer("place", torch.arange(width).float() / width)
        self.known = [self.gain]
        self.function = self.inner
        self.mask = torch.tril(torch.ones(width, width))

    def inner(self, x):
        return self.fc(x * self.gain * self.scale + self.known[0] + self.place)

    def forward(self, x):
        return self.head(self.function(x)) + self.mask.sum()


class Wrap(nn.Module):
    def __init__(self, inside, width, table):
        super().__init__()
        self.inside = inside
        self.shift = nn.Parameter(torch.zeros(width))
        self.register_buffer("table", table)

    def forward(self, x):
        return self.inside(x + self.shift) + self.table


class Nested(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = sb.lazy(nn.LayerNorm, sb.dim(-1))
        self.fc = nn.Linear(width, width)

    def forward(self, x):
        return self.norm(self.fc(x))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = sb.lazy(nn.Bilinear, sb.dim(-1), sb.dim(-1, 1), 5)
        self.two = sb.lazy(nn.Bilinear, sb.dim(-1, "input1"), sb.dim(-1, "input2"), 5)

    def forward(self, x, y):
        return self.one(x, y) + self.two(input2=y, input1=x)


def encoder():
    return nn.Sequential(
        sb.lazy(nn.TransformerEncoderLayer, sb.dim(-1), nhead=4, dim_feedforward=16, dropout=0.0, batch_first=True)
    )


LAYERS = {
    "lstm": (lambda: sb.lazy(nn.LSTM, sb.dim(-1), 6, num_layers=2, bidirectional=True), (5, 2, 20)),
    "gru": (lambda: sb.lazy(nn.GRU, sb.dim(-1), 6), (5, 2, 20)),
    "lstm_cell": (lambda: sb.lazy(nn.LSTMCell, sb.dim(-1), 6), (2, 20)),
    "layer_norm": (lambda: sb.lazy(nn.LayerNorm, sb.dim(-1)), (2, 20)),
    "rms_norm": (lambda: sb.lazy(nn.RMSNorm, (sb.dim(-2), sb.dim(-1))), (2, 4, 20)),
    "group_norm": (lambda: sb.lazy(nn.GroupNorm, 11, sb.dim(1)), (2, 22, 3)),
    "prelu": (lambda: sb.lazy(nn.PReLU, sb.dim(1)), (2, 20, 3)),
    "batch_norm": (lambda: sb.lazy(nn.BatchNorm1d, sb.dim(1)), (2, 20)),
    "conv": (lambda: sb.lazy(nn.Conv2d, sb.dim(1), 6, 2, groups=2), (2, 4, 5, 5)),
    "encoder": (encoder, (2, 5, 20)),
    "third": (lambda: sb.lazy(Third, width=sb.dim(1)), (2, 20)),
    "nested": (lambda: sb.lazy(Nested, sb.dim(-1)), (2, 20)),
}


@pytest.fixture(params=LAYERS)
def made(request):
    make, shape = LAYERS[request.param]
    return (lambda: nn.Sequential(make())), shape


def values(net):
    return [v.clone() for v in net.state_dict().values()]


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# Before inputs.


def test_open_sizes_are_shown_as_such_and_nothing_is_allocated(made):
    make, _ = made
    net = make()
    tensors = [*net.parameters(), *net.buffers()]
    assert all(map(nn.parameter.is_lazy, tensors))
    with torch._C.DisableTorchFunction():
        assert not any(t.numel() for t in tensors)
    assert any(None in s.shape for s in sb.trace(net))


@pytest.mark.parametrize(
    ("layer", "path", "shape"),
    [
        (lambda: sb.lazy(nn.LSTM, sb.dim(-1), 64), "weight_ih_l0", (256, None)),
        (lambda: sb.lazy(nn.LSTM, sb.dim(-1), 64), "weight_hh_l0", (256, 64)),
        (lambda: sb.lazy(nn.MultiheadAttention, sb.dim(-1), 11), "in_proj_weight", (None, None)),
        (lambda: encoder()[0], "linear2.weight", (None, 16)),
        (lambda: sb.lazy(nn.Bilinear, sb.dim(-1), sb.dim(-1, 1), 5), "weight", (5, None, None)),
        (lambda: sb.lazy(Third, width=sb.dim(1)), "fc.parametrizations.weight.original1", (3, None)),
        (lambda: sb.lazy(Third, width=sb.dim(1)), "head.weight", (None, None)),
        (lambda: sb.lazy(nn.RMSNorm, (8, sb.dim(-1))), "weight", (8, None)),
    ],
)
def test_only_the_sizes_that_the_input_decides_are_open(layer, path, shape):
    assert sb.trace(layer())[path].shape == shape


def test_no_number_that_was_tried_is_shown():
    layer = sb.lazy(nn.LSTM, sb.dim(-1), 64)
    assert (layer.input_size, layer.hidden_size) == (0, 64)
    assert str(layer) == "LazyLSTM(dim(-1), 64)"
    assert sb.lazy(nn.LayerNorm, sb.dim(-1)).normalized_shape == (0,)
    assert isinstance(layer, nn.LSTM)
    third = sb.lazy(Third, width=sb.dim(1))
    assert third.mask is None
    assert (third.width, third.scale) == (0, 0.0)


def test_building_one_draws_nothing():
    class Draws(nn.Linear):
        def __init__(self, width):
            super().__init__(width, 3)
            self.number = random.random()

    state, ours = torch.get_rng_state(), random.getstate()
    sb.lazy(Draws, sb.dim(-1))
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == ours


# Settled.


def test_a_plan_settles_the_sizes_and_leaves_the_model(made):
    make, shape = made
    net = make()
    before = str(net)
    assert not sb.plan(net, shape).unknown
    assert str(net) == before
    assert all(map(nn.parameter.is_lazy, net.parameters()))


@pytest.mark.parametrize("recipe", [None, Normal(std=0.1)])
def test_a_kept_wish_gives_the_numbers_of_a_start_with_inputs(made, recipe):
    make, shape = made
    given = sb.initialize(make(), shape, recipe=recipe, seed=3)
    wished = sb.initialize(make(), recipe=recipe, seed=3)
    given.eval()(torch.ones(shape)), wished.eval()(torch.ones(shape))
    assert equal(values(given), values(wished))
    assert str(given) == str(wished)
    assert sb.check(wished, sb.plan(make(), shape, recipe=recipe, seed=3)).ok


def test_the_parameters_stay_the_same_objects_and_train(made):
    make, shape = made
    net = make()
    before = dict(net.named_parameters(remove_duplicate=False))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sb.initialize(net, shape, recipe=Normal(std=0.1))
    assert all(p is before[path] for path, p in net.named_parameters(remove_duplicate=False))
    start = values(net)
    out = net(torch.randn(shape))
    (out[0] if isinstance(out, tuple) else out).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    optimizer.step()
    assert not equal(start, values(net))


def test_the_layer_becomes_an_ordinary_one_with_its_attributes():
    net = sb.initialize(nn.Sequential(sb.lazy(nn.LSTM, sb.dim(-1), 64)), (5, 2, 20))
    assert type(net[0]) is nn.LSTM
    assert (net[0].input_size, net[0].hidden_size) == (20, 64)
    assert all(a is b for a, b in zip(net[0]._flat_weights, net[0].parameters(), strict=True))
    inside = sb.initialize(encoder(), (2, 5, 20))[0]
    assert type(inside.self_attn) is nn.MultiheadAttention
    assert (inside.self_attn.head_dim, inside.linear1.in_features) == (5, 20)
    third = sb.initialize(sb.lazy(Third, width=sb.dim(1)), (2, 20))
    assert third.tied is third.gain
    assert third.known[0] is third.gain
    assert third.function.__self__ is third
    assert third.mask.sum() == 210


@pytest.mark.parametrize("kind", [nn.LSTM, nn.LSTMCell])
def test_a_first_call_alone_draws_as_the_constructor_does(kind):
    net = sb.lazy(kind, sb.dim(-1), 6)
    torch.manual_seed(0)
    net(torch.ones(2, 20))
    torch.manual_seed(0)
    built = kind(20, 6)
    assert type(net) is kind
    assert vars(net).keys() == vars(built).keys()
    assert equal(values(net), values(built))


def test_without_a_recipe_parameters_start_as_the_constructor_starts_them():
    plan = sb.plan(sb.lazy(Third, width=sb.dim(1)), (2, 20))
    assert str(plan["gain"].spec.start) == "Constant(value=2)"
    assert plan["place"].spec.origin.startswith("Third.__init__")
    assert sb.initialize(sb.lazy(Third, width=sb.dim(1)), (2, 20)).place[1] == 0.05


def test_sizes_come_from_any_input_by_place_or_name():
    specs = sb.trace(Pair(), (2, 3), (2, 4))
    assert specs["one.weight"].shape == specs["two.weight"].shape == (5, 3, 4)
    attention = sb.lazy(nn.MultiheadAttention, sb.dim(-1), 4, kdim=sb.dim(-1, "key"), vdim=sb.dim(-1, 2))
    attention(torch.ones(5, 2, 20), value=torch.ones(5, 2, 9), key=torch.ones(5, 2, 7))
    assert (attention.kdim, attention.vdim) == (7, 9)
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 20), torch.ones(2, 20)])
    lstm = sb.lazy(nn.LSTM, sb.dim(-1), 6)
    lstm(packed)
    assert lstm.input_size == 20


def test_sizes_that_vary_leave_open_what_depends_on_them():
    specs = sb.trace(nn.Sequential(sb.lazy(nn.Linear, sb.dim(-1), 3)), (2, None))
    assert (specs["0.weight"].shape, specs["0.bias"].varies) == ((3, None), "input 0 axis 1")
    assert not sb.trace(encoder(), (None, 5, 20)).unknown


def test_layers_that_are_given_stay_what_they_are():
    inside, table = nn.Linear(20, 4), torch.full((4,), 7.0)
    weight = inside.weight.clone()
    net = sb.lazy(Wrap, inside, sb.dim(-1), table)
    assert net.inside is inside
    assert torch.equal(inside.weight, weight)
    assert not [name for name in vars(inside) if name.startswith("_seedbed")]
    assert str(sb.trace(net)["inside.weight"].start) == "Uniform(low=-0.2236, high=0.2236)"
    sb.initialize(net, (2, 20))
    assert net.inside is inside
    assert net.table[0] == 7


def test_ties_between_open_layers_stay():
    net = nn.Sequential(sb.lazy(nn.Linear, sb.dim(-1), 20), sb.lazy(nn.Linear, sb.dim(-1), 20))
    net[1].weight = net[0].weight
    assert sb.plan(net, (2, 20))["0.weight"].spec.aliases == ("1.weight",)
    alone = copy.deepcopy(net)
    alone(torch.ones(2, 20))
    sb.initialize(net, (2, 20))
    assert net[1].weight is net[0].weight
    assert alone[1].weight is alone[0].weight


def test_what_was_done_to_the_layer_stays():
    net = encoder()
    calls = []
    handles = [m.register_forward_hook(lambda *_: calls.append(1)) for m in (net[0], net[0].linear1)]
    net.eval()
    net[0].tag, net[0].linear1.weight.requires_grad = "mine", False
    net.train()(torch.ones(2, 5, 20))
    assert (len(calls), net[0].tag, net[0].linear1.weight.requires_grad) == (2, "mine", False)
    for handle in handles:
        handle.remove()
    net(torch.ones(2, 5, 20))
    assert len(calls) == 2


def test_a_layer_called_by_itself_carries_its_part_of_the_wish_out():
    def make():
        return nn.Sequential(*encoder(), nn.LazyLinear(3))

    net = sb.initialize(make(), seed=5)
    net[0](torch.ones(2, 5, 20))
    net(torch.ones(2, 5, 20))
    assert sb.check(net, sb.plan(make(), (2, 5, 20), seed=5)).ok


@pytest.mark.parametrize("wish", [False, True])
def test_threads_may_make_the_first_call(wish):
    class Slow(nn.Linear):
        def reset_parameters(self):
            time.sleep(0.05)
            super().reset_parameters()

    net, errors, ready = nn.Sequential(sb.lazy(Slow, sb.dim(-1), 6)), [], threading.Barrier(8)
    if wish:
        sb.initialize(net)

    def call():
        ready.wait()
        try:
            net(torch.ones(2, 5, 20))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_first_call_in_inference_mode_makes_parameters_that_train():
    net = encoder()
    with torch.inference_mode():
        net(torch.ones(2, 5, 20))
    net(torch.ones(2, 5, 20)).sum().backward()
    assert net[0].linear1.weight.grad is not None


# Copied, moved, loaded.


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("make", [encoder, lambda: sb.lazy(nn.LSTM, sb.dim(-1), 6)])
def test_copies_and_pickles_settle_by_themselves(copied, make):
    net = make()
    other = copied(net)
    other(torch.ones(2, 5, 20))
    assert all(map(nn.parameter.is_lazy, net.parameters()))
    assert not any(map(nn.parameter.is_lazy, copied(other).parameters()))
    wished = copied(sb.initialize(make(), seed=1))
    wished(torch.ones(2, 5, 20))
    assert [t.shape for t in values(wished)] == [t.shape for t in values(other)]


def test_the_dtype_asked_for_is_the_one_that_is_made():
    net = encoder().to(torch.bfloat16)
    assert sb.trace(net)["0.norm1.weight"].dtype == "bfloat16"
    assert sb.initialize(net, (2, 5, 20))[0].linear1.weight.dtype == torch.bfloat16
    alone = sb.lazy(nn.LSTM, sb.dim(-1), 6).double()
    alone(torch.ones(5, 2, 20, dtype=torch.float64))
    assert alone.weight_ih_l0.dtype == torch.float64
    wished = sb.initialize(sb.lazy(nn.LSTM, sb.dim(-1), 6)).double()
    wished(torch.ones(5, 2, 20, dtype=torch.float64))
    assert wished.weight_ih_l0.dtype == torch.float64


def test_built_in_deferred_or_on_the_meta_device_they_start_the_same():
    expected = values(sb.initialize(encoder(), (2, 5, 20), seed=2))
    with sb.deferred():
        deferred = encoder()
    with torch.device("meta"):
        meta = encoder()
    assert equal(values(sb.initialize(deferred, (2, 5, 20), seed=2)), expected)
    meta(torch.ones(2, 5, 20, device="meta"))
    assert equal(values(sb.initialize(meta, seed=2)), expected)


def test_a_checkpoint_loads_before_the_sizes_are_settled():
    state = sb.initialize(encoder(), (2, 5, 20), seed=4).state_dict()
    net = encoder()
    net.load_state_dict(state)
    net(torch.ones(2, 5, 20))
    assert type(net[0]) is nn.TransformerEncoderLayer
    assert equal(values(net), list(state.values()))
    other = encoder()
    other.load_state_dict(state)
    with pytest.raises(ShapeError, match="holds values of another size"):
        other(torch.ones(2, 5, 24))


def test_a_plan_read_from_json_settles_the_model():
    plan = sb.Plan.from_json(sb.plan(encoder(), (2, 5, 20)).to_json())
    assert sb.materialize(plan, encoder())[0].linear1.in_features == 20


# Errors.


def test_a_value_read_too_early_names_its_parameter():
    net = sb.initialize(encoder(), recipe=Zeros())
    with pytest.raises(UninitializedError, match=r"^0\.self_attn\.out_proj\.weight: has no value yet"):
        net[0].self_attn.out_proj.weight.mean()


@pytest.mark.parametrize(
    ("layer", "shape", "later", "words"),
    [
        (lambda: sb.lazy(nn.LSTM, sb.dim(-1), 6), (5, 2, 20), (5, 2, 30), "0: LSTM expects inputs of 20 features"),
        (lambda: sb.lazy(nn.GRUCell, sb.dim(-1), 6), (2, 20), (2, 30), "0: GRUCell expects inputs of 20 features"),
        (lambda: sb.lazy(nn.GroupNorm, 2, sb.dim(1)), (2, 20), (2, 30), "0: GroupNorm expects inputs of 20 channels"),
        (lambda: encoder()[0], (2, 5, 20), (2, 5, 30), "0.self_attn: MultiheadAttention expects queries of 20"),
    ],
)
def test_a_later_input_of_another_width_is_told(layer, shape, later, words):
    net = sb.initialize(nn.Sequential(layer()), shape)
    with pytest.raises(ShapeError, match=words):
        sb.trace(net, later)


def test_other_parameters_at_the_real_size_are_refused_and_nothing_is_settled():
    class Shortcut(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.fc = nn.Linear(width, 64)
            self.shortcut = nn.Linear(width, 64) if width != 64 else nn.Identity()

        def forward(self, x):
            return self.fc(x) + self.shortcut(x)

    net = nn.Sequential(sb.lazy(Shortcut, sb.dim(-1)))
    with pytest.raises(ModelError, match="has other parameters for other sizes"):
        sb.initialize(net, (2, 64))
    with pytest.raises(ModelError, match="has other parameters for other sizes"):
        net(torch.ones(2, 64))
    assert all(map(nn.parameter.is_lazy, net.parameters()))
    assert not sb.plan(net, (2, 20)).unknown
