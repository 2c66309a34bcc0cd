"""Constructors as people write them: what PyTorch builds, deferred construction builds too."""

import copy
import inspect
import math

import numpy as np
import pytest
import torch
from scipy import stats
from tests.frameworks.pairs import ALPHA, agree, deferred, named, net
from torch import nn
from torch.nn.init import trunc_normal_, xavier_uniform_
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import seedbed as sb
from seedbed.fill import Draw, Region, fill
from seedbed.frameworks.torch import diverted

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant")
CASES = {}


def case(build):
    CASES[build.__name__] = net(build)
    return build


def cut(tensor, mean, std, a, b):
    """A truncated normal as timm draws it."""
    with torch.no_grad():
        low, high = ((1 + math.erf((end - mean) / std / math.sqrt(2))) / 2 for end in (a, b))
        tensor.uniform_(2 * low - 1, 2 * high - 1)
        tensor.erfinv_().mul_(std * math.sqrt(2)).add_(mean).clamp_(min=a, max=b)


@case
def vision_layers(self):
    self.table = nn.Parameter(torch.zeros(1, 50, 30))
    cut(self.table, 0.0, 0.02, -2.0, 2.0)
    self.wide = nn.Parameter(torch.zeros(40, 30))
    cut(self.wide, 0.0, 1.0, -2.0, 2.0)
    self.skewed = nn.Parameter(torch.zeros(40, 30))
    cut(self.skewed, 0.5, 1.0, -2.0, 2.0)
    self.scale = nn.Parameter(1e-6 * torch.ones(30))
    self.token = nn.Parameter(torch.randn(1, 5, 30) * 0.02)


@case
def rotary_tables(self):
    angles = torch.outer(torch.arange(16), 1 / (10000 ** (torch.arange(0, 8, 2).float() / 8)))
    self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))
    self.register_buffer("halves", torch.view_as_real(self.turns))
    self.register_buffer("cos", torch.cat([angles, angles], -1).cos()[None, None], persistent=False)


@case
def relative_positions(self):
    places = torch.stack(torch.meshgrid([torch.arange(4), torch.arange(4)], indexing="ij")).flatten(1)
    relative = (places[:, :, None] - places[:, None, :]).permute(1, 2, 0).contiguous()
    relative[:, :, 0] += 3
    relative[:, :, 1] += 3
    relative[:, :, 0] *= 7
    self.register_buffer("index", relative.sum(-1))
    self.bias = trunc_normal_(nn.Parameter(torch.zeros(int(self.index.max()) + 1, 4)), std=0.02)


@case
def sinusoids_of_numpy(self):
    angles = np.array([[p / np.power(10000, 2 * (j // 2) / 8) for j in range(8)] for p in range(10)])
    table = nn.Parameter(torch.empty(10, 8), requires_grad=False)
    table[:, 0::2] = torch.FloatTensor(np.sin(angles[:, 0::2]))
    table[:, 1::2] = torch.FloatTensor(np.cos(angles[:, 1::2]))
    self.table = table.detach_()
    self.register_buffer("angles", torch.from_numpy(angles))
    self.given = nn.Embedding.from_pretrained(torch.as_tensor(angles).float())


@case
def masks_and_slopes(self):
    self.register_buffer("slopes", torch.tensor([2.0**-i for i in range(4)])[:, None] * torch.arange(6))
    self.register_buffer("future", torch.full((6, 6), float("-inf")).triu_(1))
    self.register_buffer("seen", torch.tril(torch.ones(6, 6, dtype=torch.bool)).view(1, 1, 6, 6), persistent=False)
    self.register_buffer("filled", torch.ones(6, 6).masked_fill_(self.future.isinf(), -1e9))


@case
def recurrent_gates(self):
    self.gru = nn.GRU(6, 6, 2, bidirectional=True)
    for name, parameter in self.gru.named_parameters():
        for gate in parameter.data.chunk(3):
            if "weight_hh" in name:
                nn.init.orthogonal_(gate)
            elif "weight_ih" in name:
                xavier_uniform_(gate)
            else:
                gate.zero_()
    self.lstm = nn.LSTM(6, 5)
    for name in self.lstm._all_weights[0]:
        if "bias" in name:
            getattr(self.lstm, name).data[5:10].fill_(1.0)


@case
def shared_weights(self):
    block = nn.Linear(4, 4)
    self.layers = nn.ModuleList([block, nn.Linear(4, 4), block])
    self.layers[1].weight = block.weight
    self.embedding, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
    self.head.weight = self.embedding.weight


@case
def views(self):
    self.register_buffer("whole", torch.randn(20))
    self.register_buffer("low", self.whole[2:4])
    self.register_buffer("high", self.whole[5:9])
    self.weight = nn.Parameter(torch.randn(6, 4))
    self.register_buffer("rows", self.weight.data[2:4])


@case
def written_in_parts(self):
    self.data = nn.Parameter(torch.empty(10, 20))
    self.data.data = torch.randn(10, 20) * 0.5
    self.linear = nn.Linear(5, 5)
    with torch.no_grad():
        self.linear.weight[0] = 1
        self.linear.weight[1:3].zero_()
        self.linear.weight[:, 4].normal_()
    self.linear.bias.data.copy_(torch.arange(5.0))
    self.indexed = nn.Parameter(torch.randn(10, 20))
    with torch.no_grad():
        self.indexed[torch.tensor([1, 3])] = 0.0
        self.indexed.index_fill_(0, torch.tensor([5]), 7.0)
        self.indexed.masked_fill_(torch.eye(10, 20).bool(), 2.0)
    self.rows = nn.Parameter(torch.empty(6, 4))
    for row in range(6):
        self.rows.data[row] = row
    self.turns = nn.Parameter(torch.empty(6))
    self.turns.data[::2], self.turns.data[1::2] = 1.0, torch.arange(3.0)
    self.embedding = nn.Embedding(20, 8, padding_idx=3)
    nn.init.normal_(self.embedding.weight, std=0.02)
    self.embedding.weight.data[3].zero_()


class Tagged(nn.Parameter):
    def __new__(cls, data, requires_grad=True, tag=0):
        made = torch.Tensor._make_subclass(cls, data, requires_grad)
        made.tag = tag
        return made


@case
def old_spellings(self):
    self.a = nn.Parameter(torch.Tensor(3, 4))
    nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
    self.b = nn.Parameter(torch.FloatTensor([1, 2, 3]))
    self.c = nn.Parameter(torch.DoubleTensor(2, 2).zero_())
    self.d = nn.Parameter(self.a.new(3).fill_(1.0))
    self.e = nn.Parameter(self.a.new_tensor([1.0, 2.0]))
    self.f = Tagged(torch.randn(30, 4), tag=5)
    self.register_buffer("g", torch.BoolTensor(4).fill_(True))
    self.register_buffer("h", torch.Tensor())
    self.register_buffer("i", torch.zeros(0, 4))


@case
def dtypes(self):
    torch.set_default_dtype(torch.bfloat16)
    try:
        self.first = nn.Linear(30, 40)
        self.product = nn.Parameter(torch.rand(50) * torch.randn(50))
        self.register_buffer("thirds", torch.arange(4) / 3)
        torch.set_default_dtype(torch.float64)
        self.register_buffer("exact_thirds", torch.arange(4) / 3)
    finally:
        torch.set_default_dtype(torch.float32)
    self.second = nn.Linear(30, 40).to(torch.bfloat16)
    self.third = nn.Sequential(nn.Linear(30, 40), nn.BatchNorm1d(4)).double()
    self.wide = nn.Parameter(self.first.weight.detach().float())
    self.register_buffer("float8", torch.zeros(4).to(torch.float8_e4m3fn))


@case
def constants(self):
    self.a = nn.Parameter(torch.full((2,), 0.1, dtype=torch.float64))
    self.b = nn.Parameter(torch.ones([]) * math.log(1 / 0.07))
    values = [2.5, 3, True, float("inf"), float("nan"), 2**40, -0.0, 1 + 2j, -1]
    for number, value in enumerate(values):
        self.register_buffer(f"scalar{number}", torch.tensor(value))
        self.register_buffer(f"full{number}", torch.full((3,), value))
    self.register_buffer("small", torch.full((3,), 1e-300, dtype=torch.float64))
    self.register_buffer("large", torch.full((2,), 2**53 + 1))
    self.register_buffer("none", None)


@case
def copies(self):
    self.a = nn.Linear(20, 20)
    self.b = copy.deepcopy(self.a)
    self.c = copy.deepcopy(self.b)
    self.d = nn.Linear(20, 20)
    self.d.load_state_dict(self.a.state_dict())
    self.e = nn.ModuleList(copy.deepcopy(self.a) for _ in range(2))
    nn.init.normal_(self.c.weight)
    self.clones = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)
    self.average = torch.optim.swa_utils.AveragedModel(self.d)


@case
def one_from_another(self):
    self.cut = nn.Parameter(trunc_normal_(torch.empty(40)))
    self.minus = nn.Parameter(-self.cut.detach())
    self.moved = nn.Parameter(torch.rand(40) * 2 - 1)
    self.square = nn.Parameter(self.moved.detach() ** 2)
    self.square_root = nn.Parameter(nn.init.orthogonal_(torch.empty(6, 6)))
    self.transposed = nn.Parameter(self.square_root.detach().t().clone())
    drawn = torch.randn(30)
    self.left, self.right = nn.Parameter(drawn[:20].clone()), nn.Parameter(drawn[10:].clone())
    self.query, self.key = (nn.Parameter(t.clone()) for t in torch.randn(8, 24).chunk(2, 1))


@case
def parametrized(self):
    library = nn.utils.parametrizations
    self.normed = library.weight_norm(nn.Linear(20, 20))
    self.spectral = library.spectral_norm(nn.Linear(20, 20))
    self.orthogonal = library.orthogonal(nn.Linear(20, 20))
    self.cayley = library.orthogonal(nn.Linear(6, 4), orthogonal_map="cayley")
    self.reflected = library.orthogonal(nn.Linear(6, 4), orthogonal_map="householder")
    self.skipped = nn.utils.skip_init(nn.Linear, 20, 30)
    nn.init.normal_(self.skipped.weight)
    nn.init.zeros_(self.skipped.bias)


@case
def memory_set_and_written_out(self):
    tensor = torch.empty(0)
    tensor.set_(torch.randn(20).untyped_storage(), 0, (4, 5))
    self.set = nn.Parameter(tensor)
    self.out = nn.Parameter(torch.add(torch.ones(5), 2, out=torch.empty(5)))
    self.drawn = nn.Parameter(torch.randn(50, out=torch.empty(50)))
    self.counted = nn.Parameter(torch.arange(5, out=torch.empty(0)))


@case
def complex_weights(self):
    self.normal = nn.Parameter(torch.randn(30, 4, dtype=torch.cfloat))
    self.uniform = nn.Parameter(torch.rand(30, dtype=torch.cfloat))
    self.pairs = nn.Parameter(torch.view_as_complex(torch.randn(30, 2)))
    self.spectrum = nn.Parameter(torch.fft.fft(torch.arange(4.0)))


@case
def started_by_the_root(self):
    self.body = nn.Sequential(nn.Linear(30, 30), nn.BatchNorm1d(30), nn.Conv2d(3, 8, 3))
    self.extra = nn.Parameter(torch.empty(30, 5))

    def start(module):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            trunc_normal_(module.weight, std=0.02)
            nn.init.constant_(module.bias, 0)

    self.apply(start)
    nn.init.normal_(self.extra, 0, 0.1)


@case
def linear_algebra(self):
    matrix = torch.tril(torch.arange(1.0, 65).view(8, 8))
    values, vectors = torch.linalg.eigh(matrix + matrix.T)
    self.register_buffer("values", values)
    self.register_buffer("vectors", vectors)
    self.base = nn.Linear(20, 20)
    self.size = nn.Parameter(self.base.weight.norm(p=2, dim=1, keepdim=True).detach())
    self.q = nn.Parameter(torch.linalg.qr(torch.randn(10, 10))[0])
    step = torch.exp(torch.rand(64) * 4.6 - 6.9).clamp(min=1e-4)
    self.step = nn.Parameter(step + torch.log(-torch.expm1(-step)))


@case
def parts_written_over_and_back(self):
    back = torch.zeros(4)
    back[0:2] = 1
    back[0:1] = 0
    self.back = nn.Parameter(back)
    drawn = torch.ones(6)
    drawn[1:4].uniform_(2, 3)
    drawn[2:5] = 1
    self.drawn = nn.Parameter(drawn)


@case
def of_sparse_and_odd_tensors(self):
    pairs = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.tensor([1.0, 2.0]), (2, 2))
    self.register_buffer("dense", pairs.to_dense())
    kept = torch.tensor([3, 1, 3])
    self.register_buffer("unique", torch.unique(kept))
    self.register_buffer("places", torch.nonzero(kept == 3))
    self.register_buffer("chosen", kept[kept > 1])


@pytest.mark.parametrize("name", CASES)
def test_it_is_built_as_pytorch_builds_it(name):
    agree(CASES[name])


@net
def discrete(self):
    self.register_buffer("order", torch.randperm(20))
    self.register_buffer("back", torch.argsort(self.order))
    self.register_buffer("digits", torch.randint(0, 5, (300,)))
    self.register_buffer("coins", torch.rand(50) < 0.5)
    self.register_buffer("chances", torch.bernoulli(torch.full((500,), 0.3)))
    self.register_buffer("bytes", torch.empty(500, dtype=torch.uint8).random_())
    self.dropped = nn.Parameter(nn.functional.dropout(torch.ones(1000), 0.3))


def test_draws_of_whole_numbers():
    model = agree(discrete, discrete=True)
    assert sorted(model.order.tolist()) == list(range(20))
    assert torch.equal(model.order[model.back], torch.arange(20))
    assert set(model.digits.tolist()) == set(range(5))
    assert abs(model.chances.mean() - 0.3) < 0.13, "six standard deviations"
    assert set(model.dropped.tolist()) == {0.0, torch.tensor(1 / 0.7).item()}


@net
def drawn_by_pytorch(self):
    """Draws that are none of seedbed's."""
    laws, rate = torch.distributions, torch.full((20, 20), 2.5)
    self.register_buffer("poisson", torch.poisson(rate))
    self.register_buffer("of_a_draw", torch.poisson(torch.rand(20, 20)))
    self.gamma = nn.Parameter(laws.Gamma(rate, rate).sample())
    self.register_buffer("beta", laws.Beta(2.0, 3.0).sample((300,)))
    self.register_buffer("shares", laws.Dirichlet(rate).sample())
    self.register_buffer("freedom", laws.StudentT(rate).sample())
    self.register_buffer("binomial", torch.binomial(torch.full((300,), 9.0), torch.full((300,), 0.3)))
    self.register_buffer("chosen", torch.multinomial(torch.arange(9.0).expand(300, 9), 1))
    self.register_buffer("apart", torch.multinomial(torch.ones(300, 9), 4))
    self.register_buffer("long", torch.randint(2**40, (300,)))
    self.register_buffer("longest", torch.empty(300, dtype=torch.int64).random_())
    self.register_buffer("slope", nn.functional.rrelu(-torch.ones(300), training=True))


def test_draws_of_pytorchs_own_have_a_generator_for_each():
    model = agree(drawn_by_pytorch, discrete=True)
    theirs = [named(drawn_by_pytorch()) for _ in range(3)]
    for path, mine in named(model).items():
        eager = torch.cat([t[path].detach().double().flatten() for t in theirs])
        assert stats.ks_2samp(mine.detach().double().flatten(), eager).pvalue > ALPHA, path
    assert (model.apart.sort().values.diff() > 0).all(), "no place twice"
    assert torch.allclose(model.shares.sum(-1), torch.ones(20))
    plan = sb.plan(deferred(drawn_by_pytorch))
    said = {e.spec.path: str(e.start) for e in plan}
    assert said["poisson"] == "computed: full, poisson; draws of PyTorch's own"
    assert all(text.endswith("; draws of PyTorch's own") for text in said.values())
    for path in ("gamma", "of_a_draw"):
        whole = fill(plan[path])
        assert np.array_equal(fill(plan[path], Region((3, 5), (9, 20))), whole[3:9, 5:20])
        assert np.array_equal(whole, named(model)[path].detach().numpy())


def test_the_state_of_that_generator_is_seedbeds_words():
    """As NumPy's generator of the same kind gives them."""
    self = deferred(net(lambda self: self.register_buffer("bytes", torch.randint(-(2**62), 2**62, (50,)))))
    (entry,) = sb.plan(self, seed=7)
    twister = np.random.MT19937()
    words = Draw(entry.key, (624,), Region.whole((624,))).bits()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    high, low = twister.random_raw(100).reshape(50, 2).astype(np.uint64).T
    numbers = (high << np.uint64(32) | low) % np.uint64(2**63)
    assert np.array_equal(fill(entry), numbers.astype(np.int64) - 2**62)


def test_what_is_computed_from_a_draw_is_computed_from_those_numbers():
    model = agree(CASES["one_from_another"])
    assert torch.equal(model.minus, -model.cut)
    assert torch.equal(model.square, model.moved**2)
    assert torch.equal(model.transposed, model.square_root.t())
    assert torch.equal(model.left[10:], model.right[:10])
    assert not torch.equal(model.query, model.key)


def test_what_is_widened_keeps_the_values_it_was_rounded_to():
    model = sb.initialize(deferred(CASES["dtypes"]))
    assert torch.equal(model.wide, model.first.weight.float())


def test_a_copy_is_named_and_what_is_drawn_apart_is_not():
    plan = sb.plan(deferred(CASES["copies"]))
    remarks = {e.spec.path: e.spec.copied for e in plan}
    assert remarks["b.weight"] == remarks["d.weight"] == remarks["e.1.weight"] == "a.weight"
    assert remarks["c.weight"] == remarks["a.weight"] == ""
    assert not [e.why for e in plan if "copy.py" in e.why], "where the user's code asks for the copy"
    assert remarks["clones.layers.1.linear1.weight"] == "clones.layers.0.linear1.weight"


def test_tensors_beside_the_parameters_get_memory_too():
    def build(self):
        self.weight = nn.Parameter(torch.randn(30))
        self.plain, self.drawn = torch.arange(5.0) * 2, torch.randn(30)
        self.listed = [torch.ones(2), (torch.arange(3), {"a": torch.eye(2)})]
        self.same, self.rows = self.weight.data, [self.weight.data[2:4]]
        self.hidden = [nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))]

    model = agree(net(build))
    assert model.plain.tolist() == [0, 2, 4, 6, 8]
    assert model.listed[1][1]["a"].tolist() == [[1, 0], [0, 1]]
    assert torch.isfinite(model.drawn).all()
    assert not torch.equal(model.drawn, model.weight)
    assert model.same.data_ptr() == model.weight.data_ptr()
    assert torch.equal(model.rows[0], model.weight[2:4])
    assert model.hidden[0](torch.ones(2, 4)).isfinite().all()
    assert len(set(named(model))) == 1


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_old_normalizations_that_keep_a_weight_beside():
    def build(self):
        self.spectral = nn.utils.spectral_norm(nn.Linear(8, 8))
        self.normed = nn.utils.weight_norm(nn.Linear(8, 8))

    model = agree(net(build))
    assert model.normed(model.spectral(torch.ones(1, 8))).isfinite().all()


CALLS = {
    "kaiming_uniform_": [{"a": 5**0.5}, {}, {"mode": "fan_out", "nonlinearity": "relu"}, {"nonlinearity": "tanh"}],
    "normal_": [{}, {"std": 0.02}, {"mean": 1.0, "std": 0.5}],
    "uniform_": [{}, {"a": -0.5, "b": 0.5}],
    "constant_": [{"val": 0.25}, {"val": 1}, {"val": 0}],
    "ones_": [{}],
    "zeros_": [{}],
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_recorded_at_once_is_what_pytorch_does(name, monkeypatch):
    """The replaced initializers against PyTorch's own, which reach the recording as operators."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            function = getattr(nn.init, name)
            for n, arguments in enumerate(CALLS[name]):
                for shape in ((3, 4), (2, 3, 5)):
                    own = nn.Parameter(torch.empty(shape, dtype=torch.float64 if n else torch.float32))
                    assert function(own, **arguments) is own
                    self.register_parameter(f"named{n}_{len(shape)}", own)
                    other = nn.Parameter(torch.empty(shape))
                    assert function(other, *(v for v in arguments.values() if isinstance(v, (int, float)))) is other
                    self.register_parameter(f"placed{n}_{len(shape)}", other)
            self.part = nn.Parameter(torch.ones(4, 4))
            function(self.part[1:3], **arguments)
            self.twice = nn.Parameter(torch.ones(4, 4))
            function(tensor=self.twice, **arguments)

    def recorded():
        with sb.deferred():
            net = Net()
        return [(e.spec.path, e.start, e.why, e.stream) for e in sb.plan(net)]

    once = recorded()
    monkeypatch.setattr(diverted, "FILLS", {})
    assert once == recorded()


def test_an_initializer_that_is_asked_for_what_cannot_be_says_so_as_pytorch_does():
    for act in (
        lambda: nn.init.kaiming_uniform_(torch.empty(3)),
        lambda: nn.init.kaiming_uniform_(torch.empty(3, 3), mode="fan"),
        lambda: nn.init.normal_(torch.empty(3), deviation=2),
        lambda: nn.init.constant_(torch.empty(3)),
    ):
        with pytest.raises((ValueError, TypeError, RuntimeError)) as plainly:
            act()
        with pytest.raises(type(plainly.value)) as inside, sb.deferred():
            act()
        assert str(inside.value) == str(plainly.value)


class Skips(TorchFunctionMode):
    """As libraries have it that load values later."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", "") == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


class Sevens(TorchDispatchMode):
    """Fills with 7 what is to be drawn."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return args[0].fill_(7) if func is torch.ops.aten.normal_.default else func(*args, **(kwargs or {}))


def asked(function, /, **settings):
    known = inspect.signature(function).parameters
    return {name: value for name, value in settings.items() if name in known}


def under(mode, act):
    with mode():
        act()


OTHERS = {
    "a function mode of the user's": lambda w: under(Skips, lambda: nn.init.uniform_(w)),
    "a dispatch mode of the user's": lambda w: under(Sevens, lambda: nn.init.normal_(w)),
    "the signature": lambda w: nn.init.normal_(w, **asked(nn.init.normal_, std=0.1, other=3)),
    "a tensor for a number": lambda w: nn.init.normal_(w, std=torch.tensor(0.5)),
    "a number of NumPy's": lambda w: nn.init.uniform_(w, np.float64(-0.5), np.float64(0.5)),
    "vmap": lambda w: torch.func.vmap(nn.init.ones_)(w.data),
    "the version": lambda w: nn.init.normal_(w, std=float(1 + nn.init.zeros_(w)._version)),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_somebody_else_makes_of_an_initializer_is_recorded(case, monkeypatch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3, 4))
            OTHERS[case](self.w)

    def recorded():
        with sb.deferred():
            model = Net()
        plan = sb.plan(model, seed=1)
        return str(plan["w"].start), sb.materialize(plan, model).w.tolist()

    once = recorded()
    monkeypatch.setattr(diverted, "FILLS", {})
    assert once == recorded()


def test_initializers_that_somebody_replaced_stay_theirs(monkeypatch):
    def skip(tensor, *args, **kwargs):
        return tensor

    code = skip.__code__
    for name in ("normal_", "uniform_", "kaiming_uniform_", "trunc_normal_"):
        monkeypatch.setattr(nn.init, name, skip)
    with sb.deferred():
        model = nn.Linear(2, 3)
    assert skip.__code__ is code
    assert "Uniform" not in str(sb.plan(model)["weight"].start)
    monkeypatch.undo()
    assert nn.init.normal_(torch.zeros(100)).std() > 0.5
    with sb.deferred():
        model = nn.Linear(2, 3)
    assert "Uniform" in str(sb.plan(model)["weight"].start)


def test_initializers_that_are_put_back_inside_are_as_they_were(monkeypatch):
    own, code = nn.init.normal_, nn.init.normal_.__code__
    with sb.deferred():
        monkeypatch.setattr(nn.init, "normal_", lambda tensor: tensor)
    monkeypatch.undo()
    assert nn.init.normal_ is own
    assert own.__code__ is code
    assert not hasattr(own, "__signature__")
