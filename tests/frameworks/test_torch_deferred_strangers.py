"""What constructors of other people's libraries do, that few models here do."""

import copy
import io
import pickle
import threading

import numpy as np
import pytest
import torch
from tests.frameworks.pairs import agree, deferred, named, net, same
from torch import nn
from torch.nn import init
from torch.nn.modules import module as hooks

import seedbed as sb
from seedbed.errors import CaptureError, ModelError, PlanError
from seedbed.fill import fill
from seedbed.frameworks.torch import noted
from seedbed.initializers import Keep, Normal, Ones

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor", "ignore:Sparse invariant")
CASES = {}


def case(build):
    CASES[build.__name__] = net(build)
    return build


def table():
    return torch.arange(24.0).view(4, 6)


@case
def old_ways_to_make_a_tensor(self):
    one = torch.ones(2, dtype=torch.float64)
    self.like = nn.Parameter(one.new(torch.Size([2, 3])).uniform_(-1, 1))
    self.register_buffer("of_a_size", one.new(one.size()).fill_(1))
    self.register_buffer("of_none", one.new(torch.Size([])).fill_(2))
    self.register_buffer("values", one.new((2, 3)))
    self.register_buffer("listed", one.new([2, 3]))
    self.register_buffer("counted", one.new(2, 3).zero_())
    self.register_buffer("laplace", torch.distributions.Laplace(0.0, 1.0).sample((4, 6)))


@case
def a_forward_in_training(self):
    self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        self.head = nn.Linear(self.body(torch.zeros(1, 1, 8, 8)).shape[1], 2)
        self.body(torch.randn(4, 1, 8, 8))
    self.counted = nn.BatchNorm1d(5)
    self.counted(torch.arange(20.0).view(4, 5))
    self.still = nn.BatchNorm1d(5).eval()
    self.register_buffer("seen", self.still(torch.arange(20.0).view(4, 5)).detach())


@case
def lists_as_indices(self):
    exchanged = table()
    exchanged[[0, 3]] = exchanged[[3, 0]]
    exchanged[:, [1, 2]] *= 2
    exchanged[range(2), 5] = 7
    self.register_buffer("exchanged", exchanged)
    self.register_buffer("none", table()[[]])
    self.register_buffer("chosen", table()[[True, False, True, False]])
    self.register_buffer("rows", table()[np.array([0, 3])])
    self.register_buffer("mixed", table()[[0, 1], torch.tensor([2, 3])])
    self.weight = nn.Parameter(torch.randn(40, 6))
    self.weight.data[[3, 5]] = 0


@case
def conjugates(self):
    spectrum = torch.fft.fft(torch.arange(8.0))
    self.register_buffer("spectrum", spectrum)
    self.register_buffer("mirrored", spectrum.conj())
    self.register_buffer("imaginary", spectrum.conj().imag)
    self.register_buffer("twice", spectrum.conj() * 2)
    self.register_buffer("alone", (torch.arange(8.0) * 1j).conj())
    self.register_buffer("negative", (torch.arange(8.0) * 1j).conj().imag)
    self.register_buffer("back", torch.fft.irfft(torch.fft.rfft(torch.arange(8.0)).conj()))
    written = torch.zeros(8, dtype=torch.cfloat)
    written.conj().copy_(spectrum)
    written.conj().imag.mul_(3)
    self.register_buffer("written", written)
    self.register_buffer("read", torch.tensor(written.conj()[1].item()))
    self.weight = nn.Parameter(torch.randn(40, dtype=torch.cfloat).conj())


@case
def one_memory_for_several(self):
    flat = torch.randn(40)
    self.first, self.second = nn.Parameter(flat[:20].detach()), nn.Parameter(flat[20:].detach())
    self.both = torch.randn(40)
    self.end = nn.Parameter(self.both[20:].detach())
    based = torch.arange(40.0)
    self.register_buffer("low", based[:10])
    self.register_buffer("high", based[30:])
    self.based = based
    sines, cosines = torch.arange(40.0).view(5, 8).sin().chunk(2, -1)
    self.register_buffer("sines", sines)
    self.register_buffer("cosines", cosines)
    turns = torch.arange(10.0)
    self.register_buffer("even", turns[::2])
    self.register_buffer("odd", turns[1::2])


@case
def draws_without_spread(self):
    self.level = nn.Parameter(torch.empty(30))
    init.normal_(self.level, std=0)
    self.shifted = nn.Parameter(torch.empty(30).normal_(2.0, 0.0))
    self.same = nn.Parameter(torch.empty(30).uniform_(0.5, 0.5))


@case
def lists_of_sparse_tensors(self):
    self.register_buffer("pairs", torch.sparse_coo_tensor([[0, 1], [1, 0]], [1.0, 2.0], (2, 2)).to_dense())
    self.register_buffer("rows", torch.sparse_csr_tensor([0, 1, 2], [0, 1], [1.0, 2.0]).to_dense())


@case
def files_and_other_libraries(self):
    self.register_buffer("pickled", pickle.loads(pickle.dumps(torch.arange(3))))
    self.register_buffer("parameter", pickle.loads(pickle.dumps(nn.Parameter(torch.arange(3.0)))).detach())
    file = io.BytesIO()
    torch.save({"a": torch.arange(4.0)}, file)
    file.seek(0)
    self.register_buffer("saved", torch.load(file)["a"])
    self.register_buffer("taken", torch.from_dlpack(torch.arange(3.0)))
    self.register_buffer("array", torch.from_numpy(np.from_dlpack(torch.arange(3.0)).copy()))
    self.weight = nn.Parameter(torch.randn(30))
    self.shallow = copy.copy(self.weight)
    assert self.shallow.data_ptr() == self.weight.data_ptr() != torch.ones(2).data_ptr()
    assert self.weight[1:].data_ptr() == self.weight.data_ptr() + 4


@case
def matrices_taken_apart(self):
    square = table()[:, :4] + 9 * torch.eye(4)
    for name, parts in {
        "svd": torch.linalg.svd(table()),
        "thin": torch.linalg.svd(table(), full_matrices=False),
        "many": torch.linalg.svd(torch.stack([table(), table() + 1])),
        "eig": torch.linalg.eig(square),
        "geqrf": torch.geqrf(table()),
    }.items():
        for n, part in enumerate(parts):
            self.register_buffer(f"{name}{n}", part)
    self.register_buffer("values", torch.linalg.eigvalsh(square))
    self.register_buffer("spread", torch.linalg.svdvals(table()))
    self.register_buffer("named", torch.linalg.svdvals(A=table()))
    self.register_buffer("largest", torch.linalg.norm(square, 2))
    self.register_buffer("into", torch.linalg.svdvals(torch.eye(4), out=torch.empty(4)))
    self.register_buffer("norm", torch.linalg.matrix_norm(square, 2))
    self.register_buffer("cond", torch.linalg.cond(square))
    left = torch.linalg.lstsq(torch.eye(6)[:, :4] * 2, torch.ones(6, 2), driver="gels")
    self.register_buffer("solution", left.solution)
    self.register_buffer("left", left.residuals)
    factors, pivots = torch.linalg.lu_factor(square + 1j * torch.ones(4, 4).tril())
    self.register_buffer("right", torch.linalg.lu_solve(factors, pivots, torch.ones(2, 4) * 1j, left=False))
    self.weight = nn.Parameter(torch.linalg.svd(torch.randn(6, 9))[2])
    self.top = nn.Parameter(torch.linalg.svdvals(torch.randn(6, 9)))


@case
def what_looks_past_a_mode(self):
    for n, places in enumerate(torch.unravel_index(torch.arange(6), (2, 3))):
        self.register_buffer(f"axis{n}", places)
    for n, part in enumerate(torch.arange(6).tensor_split(torch.tensor([1, 4]))):
        self.register_buffer(f"part{n}", part)


@case
def turned_in_place(self):
    self.weight = nn.Parameter(torch.randn(30, 1, 2).squeeze_(1).t_())
    self.register_buffer("line", torch.arange(4.0).view(4, 1).squeeze_(1))
    self.register_buffer("row", self.line.clone().unsqueeze_(0).mul_(2))


@case
def more_than_one_is_returned(self):
    with torch.no_grad():
        self.register_buffer("bags", nn.EmbeddingBag.from_pretrained(table())(torch.tensor([[0, 1], [2, 3]])))


@pytest.mark.parametrize("name", CASES)
def test_it_is_built_as_pytorch_builds_it(name):
    agree(CASES[name])


def test_a_sparse_buffer_by_rows_is_named():
    def build(self):
        self.register_buffer("graph", torch.eye(3).to_sparse_csr())

    model = deferred(net(build))
    with pytest.raises(ModelError, match="graph: is a sparse tensor"):
        sb.initialize(model)


def test_what_is_flat_beside_its_parts_sees_them():
    model = agree(CASES["one_memory_for_several"])
    assert torch.equal(model.both[20:], model.end)
    assert torch.isfinite(model.both).all()
    assert model.both.std() > 0.5
    assert torch.equal(model.based, torch.arange(40.0))
    model.based.zero_()
    assert (model.high == 0).all()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@net
def own_generators(self):
    one, other = seeded(1), seeded(1)
    self.register_buffer("projection", torch.randn(33, generator=one))
    self.register_buffer("order", torch.randperm(30, generator=other))
    self.register_buffer("next", torch.rand(5, generator=one).half())
    torch.set_default_dtype(torch.float64)
    self.wide = [torch.randn(40, generator=other)]
    torch.set_default_dtype(torch.float32)
    self.register_buffer("after", torch.randn(6, 5, generator=other).t()[1:])
    one.manual_seed(7)
    self.register_buffer("again", torch.bernoulli(torch.full((40,), 0.3), generator=one))
    state = one.get_state()
    self.register_buffer("before", torch.randn(7, generator=one))
    torch.randn(4, generator=one)
    one.set_state(state)
    self.register_buffer("back", torch.rand(7, generator=one))
    self.scale = nn.Parameter(torch.ones(3) * float(torch.randn(100, generator=one).square().mean()))
    self.weights = nn.ParameterList(torch.empty(8, 8) for _ in range(4))
    for start, weight in zip(
        ("kaiming_uniform_", "trunc_normal_", "orthogonal_", "normal_"), self.weights, strict=True
    ):
        getattr(nn.init, start)(weight, generator=one)
    strided = torch.empty(10, 10)
    strided[:, ::2].normal_(generator=one)
    strided[:, 1::2] = torch.rand(10, 5, generator=one)
    self.register_buffer("strided", strided)
    self.drawn = nn.Parameter(torch.randn(200, generator=torch.default_generator))


@pytest.mark.parametrize("first", ["back", "after", "strided", "weights"])
def test_a_generator_that_the_constructor_brings_is_followed(first):
    one, other = sb.initialize(deferred(own_generators), seed=1), own_generators()
    alone = deferred(own_generators)
    for model in (one, sb.initialize(alone, recipe=None)):
        for path, tensor in named(other).items():
            assert same(named(model)[path], tensor) == (path != "drawn"), path
    assert torch.equal(one.wide[0], other.wide[0])
    entry = next(e for e in sb.plan(deferred(own_generators)) if e.spec.path.startswith(first))
    assert torch.equal(torch.from_numpy(fill(entry)), named(other)[entry.spec.path].detach())


def test_a_generator_goes_on_where_the_constructor_left_it():
    def both(build):
        generator = seeded(3)

        def noise(self):
            self.register_buffer("noise", torch.randn(20, generator=generator))

        return [build(net(noise)).noise for _ in range(2)] + [torch.rand(3, generator=generator)]

    ours, theirs = both(lambda make: sb.initialize(deferred(make))), both(lambda make: make())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_a_generator_draws_is_in_the_fingerprint():
    def build(seed):
        return sb.plan(deferred(net(lambda self: self.register_buffer("b", torch.rand(5, generator=seeded(seed))))))

    assert build(1).fingerprint() == build(1).fingerprint() != build(2).fingerprint()


class Irrep(tuple):
    __slots__ = ()

    def __len__(self):
        raise NotImplementedError


def test_tuples_that_have_no_length_may_hold_tensors():
    def build(self):
        self.weight = nn.Parameter(torch.ones(3))
        self.parts = Irrep((torch.arange(3.0), 1))

    assert sb.initialize(deferred(net(build))).parts[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("write", [pickle.dumps, lambda t: torch.save(t, io.BytesIO())])
def test_what_is_drawn_cannot_be_written_to_a_file(write):
    with sb.deferred(), pytest.raises(CaptureError, match="reads values that are drawn at random"):
        write(nn.Linear(2, 2).weight)


@net
def two(self):
    self.linear = nn.Linear(3, 3)
    self.register_buffer("table", torch.arange(4.0))


two.forward = lambda self, x: self.linear(x)


def write_weight(model):
    init.ones_(model.linear.weight)


def replace_weight(model):
    model.linear.weight = nn.Parameter(model.linear.weight * 2)


def replace_table(model):
    model.table = model.table * 2


@pytest.mark.parametrize(
    ("change", "path", "told"),
    [
        (write_weight, "linear.weight", "written to after deferred"),
        (replace_weight, "linear.weight", "replaced after deferred"),
        (replace_table, "table", "replaced after deferred"),
    ],
)
@pytest.mark.parametrize("inputs", [(), ((1, 3),)])
def test_what_is_done_after_the_construction_is_not_overlooked(change, path, told, inputs):
    model = deferred(two)
    change(model)
    with pytest.raises(PlanError, match=f"^{path}: ") as caught:
        sb.initialize(model, *inputs)
    assert told in str(caught.value)
    where = sb.Where(path=path, role="buffer" if path == "table" else "weight")
    sb.initialize(model, *inputs, recipe=sb.Recipe((sb.Rule(where, Ones()), sb.Rule("*", Keep()))))
    assert (named(model)[path] == 1).all()


@net
def headed(self):
    self.head = nn.Linear(3, 3)
    nn.init.normal_(self.head.weight, std=3.0)
    self.register_buffer("table", torch.randn(4))


headed.forward = lambda self, x: self.head(x)


def in_another_layer(model):
    made = nn.Linear(3, 3, device="meta")
    made.weight, made.bias = model.head.weight, model.head.bias
    model.head = made


def in_a_wrapper(model):
    class Wrapper(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.weight, self.bias = layer.weight, layer.bias
            self.forward = layer.forward

    model.head = Wrapper(model.head)


def under_another_name(model):
    model.kernel = model.head.weight
    del model.head.weight
    model.register_buffer("moved", model.table)
    del model.table


@pytest.mark.parametrize("inputs", [(), ((1, 3),)])
@pytest.mark.parametrize("change", [in_another_layer, in_a_wrapper])
def test_what_was_built_may_be_put_into_another_layer(change, inputs):
    """As libraries do that put layers of their own in the place of PyTorch's."""
    model, whole = deferred(headed), sb.initialize(deferred(headed))
    change(model)
    sb.initialize(model, *inputs)
    assert same(model.head.weight, whole.head.weight)
    assert same(model.head.bias, whole.head.bias)


def test_what_was_built_may_be_put_under_another_name():
    model = deferred(headed)
    under_another_name(model)
    plan = sb.plan(model)
    assert {e.spec.path: (str(e.start), e.stream) for e in plan if "bias" not in e.spec.path} == {
        "kernel": ("Normal(std=3)", "kernel"),
        "moved": ("Normal(std=1)", "moved"),
    }
    assert sb.check(sb.materialize(plan, model), plan)


def test_a_start_breaks_no_other_thread_that_puts_a_parameter_into_a_layer():
    def started_meanwhile(*_):
        thread = threading.Thread(target=sb.initialize, args=(model,))
        thread.start()
        thread.join()

    model = deferred(headed)
    first = hooks.register_module_parameter_registration_hook(started_meanwhile)
    last = hooks.register_module_parameter_registration_hook(lambda *_: None)
    try:
        nn.Module().register_parameter("weight", nn.Parameter(torch.zeros(1)))
    finally:
        first.remove()
        last.remove()
    assert not model.head.weight.is_meta


def test_nothing_is_followed_once_all_is_started():
    models = [deferred(headed) for _ in range(2)]
    others = {id(note) for note in noted._waiting} - {id(m.__dict__[noted.NOTE]) for r in models for m in r.modules()}
    assert noted._handles
    for model in models:
        sb.initialize(model)
    assert {id(note) for note in noted._waiting} <= others
    model.head.weight = nn.Parameter(torch.zeros(3, 3))
    assert sb.plan(model)["head.weight"].start == Normal(std=3.0)


def test_copies_dtypes_and_second_starts_are_not_taken_for_changes():
    model = deferred(two)
    for other in (copy.deepcopy(model).to(torch.float64), model.to(torch.bfloat16).requires_grad_(False)):
        assert torch.equal(sb.initialize(other).table, torch.arange(4.0).to(other.table.dtype))
    init.ones_(model.linear.weight)
    sb.initialize(model.to("meta"))
    assert not (model.linear.weight == 1).all()


def test_memory_may_change_its_size_afterwards():
    def build(self):
        self.weight = nn.Parameter(torch.randn(4))
        self.register_buffer("seen", torch.tensor([]))

    model = sb.initialize(deferred(net(build)))
    sb.check(model, sb.plan(deferred(net(build))))
    assert model.seen.resize_(3).shape == (3,)
    assert model.weight.data.resize_(6).shape == (6,)


def test_tensors_beside_the_parameters_may_be_scratch_memory():
    def build(self):
        self.weight = nn.Parameter(torch.ones(3))
        self.cache = [torch.empty(2, 5)]

    assert sb.initialize(deferred(net(build))).cache[0].fill_(1).sum() == 10
