"""PyTorch beyond the scenarios: its layers' own starts, identities, and the traps of lazy and meta models."""

import copy
import inspect
import pickle
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import seedbed as sb
from seedbed import initializers as i
from seedbed.errors import InputError, ModelError, PlanError, RecipeError, ShapeError, UnknownSizeError, UnmatchedError
from seedbed.fill import fill
from seedbed.materialize import LARGE, advise

pytestmark = pytest.mark.filterwarnings(
    "ignore:enable_nested_tensor", "ignore:.*deprecated:FutureWarning", "ignore:Initializing zero-element"
)


@pytest.fixture(autouse=True)
def _poison():
    """Memory that nobody wrote reads as NaN, or as the largest integer."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


ARGUMENTS = {
    "AdaptiveLogSoftmaxWithLoss": (8, 60, [10, 20]), "BatchNorm1d": (4,), "BatchNorm2d": (4,), "BatchNorm3d": (4,),
    "Bilinear": (30, 40, 50), "Conv1d": (40, 60, 3), "Conv2d": (40, 60, 3), "Conv3d": (40, 60, 3),
    "ConvTranspose1d": (40, 60, 3), "ConvTranspose2d": (40, 60, 3), "ConvTranspose3d": (40, 60, 3),
    "Embedding": (300, 40, 0), "EmbeddingBag": (300, 40), "GRU": (30, 40), "GRUCell": (30, 40), "GroupNorm": (2, 4),
    "InstanceNorm1d": (4, 1e-5, 0.1, True, True), "InstanceNorm2d": (4, 1e-5, 0.1, True, True),
    "InstanceNorm3d": (4, 1e-5, 0.1, True, True), "LSTM": (30, 40, 2, True, False, 0.0, True, 20), "LSTMCell": (30, 40),
    "LayerNorm": (4,), "Linear": (40, 50), "LinearCrossEntropyLoss": (40, 50), "MultiheadAttention": (64, 2, 0.0, True, True),
    "PReLU": (), "RMSNorm": (4,), "RNN": (30, 40), "RNNBase": ("GRU", 30, 40), "RNNCell": (30, 40), "RNNCellBase": (30, 40, True, 4),
    "SyncBatchNorm": (4,), "Transformer": (32, 2, 1, 1, 64), "TransformerDecoderLayer": (32, 2, 64),
    "TransformerEncoderLayer": (32, 2, 64),
}  # fmt: skip
MADE_OF_OTHERS = {"DataParallel", "TransformerDecoder", "TransformerEncoder", "ParametrizationList"}


def parametric():
    """Names of torch.nn's classes with parameters or buffers, found by building what can be built."""
    names = set()
    for name, cls in inspect.getmembers(nn, inspect.isclass):
        if not issubclass(cls, nn.Module) or name.startswith("Lazy") or name in ARGUMENTS:
            continue
        signature = inspect.signature(cls.__init__)
        needed = [p for p in list(signature.parameters.values())[1:] if p.default is p.empty and p.kind < 2]
        made = None
        for arguments in [(2,) * len(needed), ((2,) * 2,) * len(needed)]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    made = cls(*arguments)
                    break
                except (TypeError, ValueError, NotImplementedError, AssertionError, AttributeError):
                    continue
        if made is not None and [*made.parameters(), *made.buffers()]:
            names.add(name)
    return names - MADE_OF_OTHERS


def test_every_layer_of_torch_nn_with_parameters_is_in_the_table():
    assert parametric() == set()


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if hasattr(nn, name)])  # an older PyTorch lacks some
def test_a_layers_own_start_is_the_one_its_constructor_gives(name):
    """Constants equal, supports equal, and spreads within 6.5 standard errors of 300 values or more."""
    cls = getattr(nn, name)
    torch.manual_seed(0)
    eager = cls(*ARGUMENTS[name])
    with torch.device("meta"):
        built = cls(*ARGUMENTS[name])
    sb.initialize(built)
    for path, theirs in eager.state_dict().items():
        ours = built.state_dict()[path]
        start = sb.plan(eager)[path].start
        assert start is not None
        assert ours.dtype == theirs.dtype
        if isinstance(start, (i.Zeros, i.Ones, i.Constant)):
            assert torch.equal(ours, theirs), path
            continue
        uniform = isinstance(start, i.Uniform)
        if uniform:
            assert start.low <= theirs.min()
            assert theirs.max() <= start.high
        n = theirs.numel()
        kurtosis = 1.8 if uniform else 3.0
        for values in (ours, theirs):
            std = (start.high - start.low) / 12**0.5 if uniform else getattr(start, "base", start).std
            if n >= 300:
                assert values.double().std() / std == pytest.approx(
                    1, abs=6.5 * ((kurtosis - 1) / 4 / n) ** 0.5 + 2 / 300
                )
            assert values.isfinite().all()
    if name == "Embedding":
        assert not built.weight[0].any()
        assert built.weight[1:].all()


def test_a_parent_that_restarts_its_children_is_heard_last():
    attention = sb.plan(nn.MultiheadAttention(8, 2))
    assert attention["out_proj.bias"].start == i.Zeros()
    assert attention["out_proj.bias"].why == "MultiheadAttention._reset_parameters"
    assert attention["out_proj.weight"].why == "NonDynamicallyQuantizableLinear.reset_parameters"


def test_a_model_on_meta_becomes_real_and_stays_the_same_objects():
    with torch.device("meta"):
        net = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    net[0].weight.tag = "kept"
    before = list(net.parameters()), list(net.buffers())
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    sb.initialize(net, (3, 4))
    assert all(a is b for a, b in zip([*before[0], *before[1]], [*net.parameters(), *net.buffers()], strict=True))
    assert net[2].weight is net[0].weight
    assert net[0].weight.tag == "kept"
    assert type(net[0].weight) is nn.Parameter
    assert all(t.device.type == "cpu" and t.isfinite().all() for t in [*net.parameters(), *net.buffers()])
    net(torch.rand(3, 4)).sum().backward()
    optimizer.step()
    assert all(p.isfinite().all() for p in net.parameters())


def large_pages(tensor):
    """Whether Linux was asked for large pages where a tensor lies."""
    address, last = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            last = int(found[1], 16) <= address < int(found[2], 16)
        elif last and line.startswith("VmFlags"):
            return " hg" in line
    return False


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="only Linux has this hint")
def test_new_memory_of_large_parameters_is_asked_for_in_large_pages():
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(1024, 4096), nn.LazyLinear(2048), nn.Linear(2048, 10))
    with_memory = nn.Linear(1024, 4096)
    before = large_pages(with_memory.weight)
    sb.initialize(net, (1, 1024), recipe="he")
    sb.initialize(with_memory, recipe="he")
    assert large_pages(net[0].weight)
    assert large_pages(net[1].weight)
    assert large_pages(with_memory.weight) == before
    lazy = sb.initialize(nn.LazyLinear(4096), (1, 1024), recipe="he")
    assert large_pages(lazy.weight)


def test_where_there_is_no_such_hint_nothing_is_done(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    advise(0, LARGE)
    monkeypatch.setattr("sys.platform", "somewhere")
    monkeypatch.setattr("ctypes.CDLL", None)
    advise(0, LARGE)


@pytest.mark.parametrize("built_on", ["cpu", "meta"])
def test_views_of_one_memory_stay_views(built_on):
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.whole = nn.Linear(6, 4)
            self.register_buffer("middle", self.whole.weight.detach()[1:3])
            self.turned = nn.Parameter(self.whole.weight.detach().t())

    with torch.device(built_on):
        net = Viewed()
    plan = sb.plan(net)
    assert plan["whole.weight"].spec.views == ("turned", "middle")
    assert {e.spec.path for e in plan} == {"whole.weight", "whole.bias"}
    plan.materialize(net)
    assert torch.equal(net.middle, net.whole.weight[1:3])
    assert torch.equal(net.turned, net.whole.weight.t())
    assert sb.check(net, plan)
    with torch.no_grad():
        net.whole.weight.fill_(3)
    assert (net.middle == 3).all()
    assert (net.turned == 3).all()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_models_of_other_dtypes_start_as_the_rounding_of_float32(dtype):
    make = lambda: nn.Sequential(nn.LazyLinear(40), nn.LazyBatchNorm1d(), nn.LazyLinear(30))  # noqa: E731
    exact = sb.initialize(make(), (2, 50), seed=3)
    kind = getattr(torch, dtype)
    for net in (sb.initialize(make().to(kind), (2, 50), seed=3), sb.initialize(make(), seed=3).to(kind)):
        net(torch.rand(2, 50, dtype=kind))
        for path, tensor in net.named_parameters():
            assert tensor.dtype == kind
            assert torch.equal(tensor, exact.get_parameter(path).to(kind)), path


def test_threads_that_make_the_first_call_wait_for_the_start():
    rows = torch.rand(3, 70)
    for make in (lambda: nn.Sequential(nn.LazyLinear(500), nn.ReLU(), nn.LazyLinear(10)), lambda: nn.LazyLinear(400)):
        for _ in range(10):
            net, outs, barrier = sb.initialize(make(), recipe="he"), [], threading.Barrier(4)

            def call(net=net, outs=outs, barrier=barrier):
                barrier.wait()
                outs.append(net(rows))

            threads = [threading.Thread(target=call) for _ in range(4)]
            [t.start() for t in threads]
            [t.join() for t in threads]
            expected = net(rows)
            assert len(outs) == 4
            assert all(torch.equal(out, expected) for out in outs)


def test_a_first_call_in_inference_mode_leaves_a_net_that_can_be_trained():
    net = sb.initialize(nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d()))
    with torch.inference_mode():
        net(torch.rand(2, 20))
    net(torch.rand(2, 20)).sum().backward()
    assert not any(p.is_inference() for p in net.parameters())


def test_a_wish_is_carried_out_in_a_compiled_models_first_call():
    net = sb.initialize(nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(2)), recipe="he", seed=2)
    rows = torch.rand(2, 20)
    out = torch.compile(net, backend="eager")(rows)
    assert torch.equal(out, net(rows))
    assert sb.check(net, sb.plan(net, recipe="he", seed=2))


@pytest.mark.parametrize(
    "copies", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_a_copy_of_a_net_with_a_wish_keeps_a_wish_of_its_own(copies):
    net = sb.initialize(nn.Sequential(nn.LazyLinear(5), nn.LazyLinear(3)), recipe="he", seed=2)
    twin = copies(net)
    twin(torch.rand(2, 9))
    assert nn.parameter.is_lazy(net[0].weight)
    assert sb.check(twin, sb.plan(twin, recipe="he", seed=2))
    net(torch.rand(2, 9))
    assert torch.equal(net[0].weight, twin[0].weight)


def test_the_batch_of_a_dry_run_changes_nothing_even_with_dropout():
    make = lambda: nn.Sequential(nn.LazyLinear(8), nn.Dropout(), nn.LazyLinear(3))  # noqa: E731
    one, many = sb.initialize(make(), (1, 20)), sb.initialize(make(), (64, 20))
    assert torch.equal(one[2].weight, many[2].weight)


def test_zero_width_inputs_leave_nothing_unwritten():
    net = sb.initialize(nn.LazyLinear(3), (1, 0))
    assert net.weight.shape == (3, 0)
    assert torch.equal(net.bias, torch.zeros(3))


def test_a_checkpoint_of_another_width_in_a_lazy_layer_is_refused():
    net = nn.Sequential(nn.LazyLinear(256))
    net.load_state_dict({"0.weight": torch.zeros(99, 20), "0.bias": torch.zeros(99)})
    with pytest.raises(ShapeError, match=r"^0\.weight: holds values of another size than its layer is to have"):
        sb.initialize(net, (2, 20))


class Many(nn.Module):
    """Several inputs, by position, by name, in a dict and in a tuple."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.LazyLinear(2) for _ in range(4))
        self.unused = nn.Linear(2, 2)

    def forward(self, x, pair, *, table, flag=True):
        assert flag
        return self.a(x) + self.b(pair[0]) + self.c(pair[1]) + self.d(table["rows"])


def test_inputs_may_be_tuples_dicts_keywords_and_real_tensors():
    net = Many()
    specs = sb.trace(net, (3, 4), ((3, 5), sb.Input((3, 6))), table={"rows": torch.rand(3, 7)})
    assert [specs[f"{n}.weight"].shape for n in "abcd"] == [(2, 4), (2, 5), (2, 6), (2, 7)]
    assert specs.unreached == ("unused.weight", "unused.bias")
    assert "not reached by the input" in str(specs)
    arrays = sb.trace(net, np.zeros((3, 4), np.float32), [(3, 5), (3, 6)], table={"rows": (3, 7)}, flag=True)
    assert arrays["d.weight"].shape == (2, 7)


def test_arguments_that_a_forward_does_not_take_are_refused():
    with pytest.raises(
        InputError, match=r"missing a required keyword-only argument: 'table'|missing a required argument: 'table'"
    ):
        sb.trace(Many(), (3, 4), ((3, 5), (3, 6)))
    with pytest.raises(InputError, match="Did you mean 'table'"):
        sb.trace(Many(), (3, 4), ((3, 5), (3, 6)), tabel={"rows": (3, 7)})


def test_what_the_input_does_not_reach_cannot_be_started():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.other = nn.LazyLinear(2), nn.LazyLinear(3)

        def forward(self, x):
            return self.used(x)

    net = Branch()
    assert sb.plan(net, (2, 4)).unknown == ("other.weight", "other.bias")
    with pytest.raises(UnknownSizeError, match="never reached by the input"):
        sb.initialize(net, (2, 4))
    assert nn.parameter.is_lazy(net.used.weight)


def test_a_rule_for_a_parametrized_weight_takes_effect_or_is_an_error():
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    with pytest.raises(UnmatchedError) as error:
        sb.plan(net, recipe={"0.weight": i.Ones(), "*.bias": i.Zeros()})
    assert error.value.paths == ("0.parametrizations.weight.original0", "0.parametrizations.weight.original1")
    values = net[0].weight.detach().clone()
    plan = sb.plan(net)
    assert plan["0.parametrizations.weight.original0"].kept
    plan.materialize(net)
    assert torch.equal(net[0].weight, values)


def test_a_constructors_values_are_kept_where_memory_is_and_refused_where_it_is_not():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(1e-5 * torch.ones(3))
            self.register_buffer("mask", torch.tril(torch.ones(3, 3)), persistent=False)

    net = Scaled()
    plan = sb.plan(net)
    assert (plan["gamma"].kept, plan["mask"].kept, plan["mask"].spec.persistent) == (True, True, False)
    sb.initialize(net)
    assert torch.equal(net.gamma, 1e-5 * torch.ones(3))
    assert sb.check(net, plan)["gamma"].verdict == "kept"
    with torch.device("meta"):
        net = Scaled()
    with pytest.raises(PlanError, match=r"^gamma: the plan keeps its values, and it has none"):
        sb.initialize(net)
    assert net.gamma.is_meta


def test_a_plan_for_another_model_is_refused_before_anything_is_written():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    values = net[0].weight.detach().clone()
    with pytest.raises(PlanError, match=r"^The plan does not fit the model: 3 differences"):
        sb.plan(
            nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2), nn.PReLU()).to(torch.float32)[:2].append(nn.LayerNorm(2))
        ).materialize(net)
    assert torch.equal(net[0].weight, values)


def test_a_plan_with_other_ties_is_refused():
    tied, apart = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(PlanError, match=r"1\.weight  tied to 0\.weight in the plan only"):
        sb.plan(tied).materialize(apart)
    with pytest.raises(PlanError, match=r"1\.weight  tied to 0\.weight in the model only"):
        sb.plan(apart).materialize(tied)


def test_a_start_that_was_interrupted_can_be_made_again():
    net = nn.Sequential(nn.LazyLinear(40), nn.LazyLinear(30))
    plan = sb.plan(net, (2, 20))

    def stop(path, done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan.materialize(net, progress=stop)
    plan.materialize(net)
    assert sb.check(net, plan)


def test_the_numbers_of_a_model_are_those_of_its_plan_alone():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(5))
    plan = sb.plan(net, (1, 3, 8, 8), recipe="he", seed=11)
    torch.manual_seed(5)
    plan.materialize(net)
    for entry in sb.Plan.from_json(plan.to_json()):
        assert (net.get_parameter(entry.spec.path).detach().numpy() == fill(entry)).all()


def test_streams_give_equal_numbers_under_other_names():
    one, two = nn.Sequential(nn.Linear(4, 3)), nn.ModuleDict({"fc": nn.Linear(4, 3)})
    sb.initialize(one, seed=1)
    sb.initialize(two, seed=1, streams={"fc.weight": "0.weight", "fc.bias": "0.bias"})
    assert torch.equal(one[0].weight, two["fc"].weight)


def test_plans_without_memory_cost_no_memory():
    class Huge(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(*(nn.LazyLinear(2**20) for _ in range(50)))

        def forward(self, x):
            return self.layers(x)

    net = Huge()
    plan = sb.plan(net, (1, 2**20), recipe="he")
    assert sum(e.spec.nbytes for e in plan) > 2 * 10**14
    assert all(p.data.untyped_storage().nbytes() == 0 for p in net.parameters())


def test_a_model_that_cannot_be_copied_says_so():
    net = nn.Sequential(nn.LazyLinear(3))
    net.lock = threading.Lock()
    with pytest.raises(ModelError, match=r"cannot be copied for a dry run: cannot pickle '_thread.lock' object"):
        sb.plan(net, (2, 4))


def test_attributes_that_hold_tensors_keep_their_memory():
    net = nn.Sequential(nn.LazyLinear(3))
    net.plain, net.listed = torch.ones(3), [torch.zeros(2)]
    sb.plan(net, (2, 4))
    assert net.plain.device.type == net.listed[0].device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_another_device_gets_the_same_bits():
    there = sb.initialize(nn.Linear(40, 30).cuda(), recipe="he")
    here = sb.initialize(nn.Linear(40, 30), recipe="he")
    assert torch.equal(there.weight.cpu(), here.weight)


@pytest.mark.parametrize(
    "cast", [lambda n: n.to("cpu"), lambda n: n.cpu(), lambda n: n.float(), lambda n: n.to(torch.float32)]
)
def test_a_net_with_a_wish_can_be_moved_to_where_it_is(cast):
    net = cast(sb.initialize(nn.Sequential(nn.LazyLinear(8)), recipe="he"))
    net(torch.rand(2, 4))
    assert sb.check(net, sb.plan(net, recipe="he"))


class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.dec, self.aside = nn.LazyLinear(8), nn.LazyLinear(4), nn.LazyLinear(2)

    def encode(self, x):
        return self.enc(x)

    def forward(self, x):
        return self.dec(self.encode(x))


@pytest.mark.parametrize(
    "recipe", ["he", None, {"enc.*": i.Ones(), "*": i.Constant(value=7)}], ids=["name", "none", "rules"]
)
def test_a_layer_called_before_its_model_starts_as_the_wish_has_it(recipe):
    net, whole = sb.initialize(Coder(), recipe=recipe, seed=4), Coder()
    net.encode(torch.ones(2, 5))
    assert type(net.enc) is nn.Linear
    net(torch.ones(2, 5))
    net.aside(torch.ones(2, 3))
    sb.initialize(whole.enc, (2, 5))
    sb.initialize(whole.dec, (2, 8))
    sb.initialize(whole.aside, (2, 3))
    assert sb.check(net, sb.plan(whole, recipe=recipe, seed=4))
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_what_the_first_call_does_not_reach_keeps_waiting():
    net = sb.initialize(Coder(), recipe="he")
    net(torch.ones(2, 5))
    assert nn.parameter.is_lazy(net.aside.weight)
    net.aside(torch.ones(2, 3))
    assert not net.aside.bias.any()


def resets(how):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(30, 20))
            self.reset_parameters()

        def reset_parameters(self):
            nn.init.normal_(self.weight)
            how(self)

    return Layer()


def scale_by_data(layer):
    layer.weight.data = layer.weight.data * 0.01


def scale_by_a_new_parameter(layer):
    layer.weight = nn.Parameter(layer.weight.detach() * 0.01)


def scale_in_a_list(layer):
    with torch.no_grad():
        torch._foreach_mul_([layer.weight], 0.01)


def scale_in_place(layer):
    with torch.no_grad():
        layer.weight.mul_(0.01)


@pytest.mark.parametrize("how", [scale_by_data, scale_by_a_new_parameter, scale_in_a_list, scale_in_place])
def test_a_reset_that_cannot_be_told_keeps_the_values_it_made(how):
    net = resets(how)
    values = net.weight.detach().clone()
    assert sb.plan(net)["weight"].kept
    assert torch.equal(sb.initialize(net).weight, values)


def test_a_parents_reset_that_cannot_be_told_hides_its_parts():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.g = nn.Linear(3, 2), nn.Parameter(torch.ones(()))
            self.reset_parameters()

        def reset_parameters(self):
            nn.init.normal_(self.fc.weight, std=self.g.item() * 0.001)

    plan = sb.plan(Parent())
    assert all(entry.kept for entry in plan)
    assert plan["fc.weight"].why.startswith("Parent.reset_parameters: ")


def test_a_model_whose_copy_is_itself_is_refused_and_left_alone():
    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def __deepcopy__(self, memo):
            return self

        def forward(self, x):
            return self.fc(x)

    net = Same()
    values = net.fc.weight.detach().clone()
    with pytest.raises(ModelError, match="__deepcopy__ makes no copy"):
        sb.plan(net, (2, 4))
    assert torch.equal(net.fc.weight, values)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


def test_a_random_generator_among_the_attributes_is_no_hindrance():
    net = nn.Sequential(nn.LazyLinear(3))
    net.generator = torch.Generator().manual_seed(5)
    state = net.generator.get_state()
    sb.initialize(net, (2, 4))
    assert torch.equal(net.generator.get_state(), state)


def test_a_wish_on_a_lazy_model_without_memory_is_kept():
    with torch.device("meta"):
        net = nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d())
    sb.initialize(net, recipe="he")
    sb.initialize(net, (2, 3), recipe="he")
    assert net[1].num_batches_tracked == 0
    assert not net[0].weight.is_meta


def test_writing_from_another_model_is_refused(tmp_path):
    plan = sb.plan(nn.Linear(4, 3), recipe=i.Keep(values=True))
    for other in (nn.Linear(5, 3), nn.Linear(4, 3).half(), nn.Sequential(nn.Linear(4, 3))):
        with pytest.raises(PlanError, match="The plan does not fit the model"):
            sb.write(plan, tmp_path / "x.safetensors", model=other)
    assert list(tmp_path.iterdir()) == []


def test_hooks_that_change_what_flows_are_heard():
    for make in (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.LazyLinear(3)),
        lambda: nn.Sequential(nn.LazyLinear(3), nn.LazyLinear(3)),
    ):
        net = make()
        net[0].register_forward_hook(lambda m, i, o: torch.cat([o, o], -1))
        assert sb.plan(net, (2, 4))["1.weight"].spec.shape == (3, 6)
        sb.initialize(net, (2, 4))(torch.ones(2, 4))


def test_a_model_that_reaches_itself_through_a_function_is_refused_and_left_alone():
    class Closed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.LazyLinear(3), nn.BatchNorm1d(3), nn.LazyLinear(2)
            self.function = lambda x: self.norm(self.first(x))

        def forward(self, x):
            return self.last(self.function(x))

    net = Closed()
    with pytest.raises(
        ModelError, match=r"^first: a function that the model holds calls this layer itself, not its copy"
    ):
        sb.plan(net, (2, 4))
    assert net.norm.num_batches_tracked == 0
    assert type(net.first) is nn.LazyLinear
    assert nn.parameter.is_lazy(net.first.weight)
    assert not nn.modules.module._global_forward_pre_hooks


@pytest.mark.parametrize(
    "function",
    [
        lambda w: setattr(nn.init.normal_(w), "data", w.data * 0.1),
        lambda w: torch._foreach_mul_([nn.init.normal_(w)], 0.1),
        lambda w: nn.init.normal_(w) * 0.1,
        lambda w: nn.init.normal_(w).mul_(0.1),
    ],
    ids=["data", "list", "returned", "in place"],
)
def test_a_function_that_cannot_be_told_is_refused_as_a_recipe(function):
    with pytest.raises(RecipeError, match="cannot be told from what it does"):
        sb.plan(nn.Linear(3, 2), recipe=function)


def test_a_plan_says_how_many_keep_the_values_they_have():
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    assert ", 2 with the values they have;" in sb.plan(net, recipe="he").summary


def test_a_thread_that_calls_a_layer_waits_until_its_model_is_started():
    begun, go_on, outs = threading.Event(), threading.Event(), []

    def slow(draw, spec):
        begun.set()
        assert go_on.wait(20)
        return draw.uniform()

    net, rows = sb.initialize(Coder(), recipe=i.Custom(slow)), torch.ones(2, 5)
    whole = threading.Thread(target=lambda: net(rows))
    whole.start()
    assert begun.wait(20)
    part = threading.Thread(target=lambda: outs.append(net.enc(rows)))
    part.start()
    part.join(0.3)
    assert part.is_alive()
    go_on.set()
    whole.join()
    part.join()
    assert torch.equal(outs[0], net.enc(rows))


def test_a_wish_for_a_part_asked_for_after_its_models_is_the_parts():
    net = nn.Sequential(nn.Sequential(nn.LazyLinear(4)), nn.LazyLinear(3))
    sb.initialize(net, recipe=i.Ones())
    sb.initialize(net[0], recipe=i.Constant(value=7))
    net(torch.ones(2, 5))
    assert (net[0][0].weight == 7).all()
    assert (net[1].weight == 1).all()
    assert not any(m._forward_pre_hooks for m in net.modules())
    sb.initialize(again := nn.Sequential(nn.Sequential(nn.LazyLinear(4))), recipe=i.Ones())
    sb.initialize(again[0], recipe=i.Constant(value=7))
    sb.initialize(again, recipe=i.Zeros())
    again(torch.ones(2, 5))
    assert not again[0][0].weight.any()


def test_a_layer_is_judged_by_what_hooks_leave_it():
    net = nn.Sequential(nn.Linear(4, 3).double())
    net[0].register_forward_pre_hook(lambda m, i: (i[0].double(),))
    assert sb.trace(net, sb.Input((2, 4), "float32"))["0.weight"].reached
    net[0]._forward_pre_hooks.clear()
    with pytest.raises(InputError, match="expects float64 values, got float32"):
        sb.trace(net, sb.Input((2, 4), "float32"))


def test_sizes_that_only_fit_each_other_are_changed_together():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(8)

        def forward(self, x, y):
            return self.layer(x + y)

    spec = sb.trace(Sum(), (None, None), (2, None))["layer.weight"]
    assert spec.shown_shape == "(8, ?)"
    assert spec.varies == "input 0 axis 1, input 1 axis 1"
