"""What people do with a deferred model between its construction and its start, and after it."""

import copy
import gc
import io
import weakref
from pathlib import Path

import pytest
import torch
from tests.frameworks.pairs import deferred, named, net, same
from torch import nn
from torch.nn import init

import seedbed as sb
from seedbed.errors import CaptureError, PlanError
from seedbed.fill import Region, fill
from seedbed.initializers import Chain, Keep, Normal


@net
def small(self):
    self.embedding = nn.Embedding(7, 4)
    self.head = nn.Linear(4, 7, bias=False)
    self.head.weight = self.embedding.weight
    self.body = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
    self.register_buffer("table", torch.arange(4.0) / 3)
    self.product = nn.Parameter(torch.rand(40) * torch.randn(40))
    self.minus = nn.Parameter(-self.body[0].weight.detach())
    self.plain = torch.arange(3.0)


def started(**options):
    return sb.initialize(deferred(small), **options)


# Before the start.


def test_every_tensor_is_on_the_meta_device_and_no_memory_is_taken():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def build():
        model = nn.Sequential(*[nn.Linear(8000, 8000) for _ in range(20)])
        model.register_buffer("noise", torch.randn(20000, 20000))
        model.mask = torch.ones(30000, 30000).tril()
        return model

    deferred(small)
    before = resident()
    model = deferred(build)
    assert resident() - before < 50e6
    assert all(t.is_meta for t in named(model).values())


def test_a_state_dict_has_names_and_shapes():
    saved = deferred(small).state_dict()
    assert all(v.is_meta for v in saved.values())
    assert {k: tuple(v.shape) for k, v in saved.items()} == {k: tuple(v.shape) for k, v in small().state_dict().items()}


def test_a_copy_starts_as_the_first_does():
    first = deferred(small)
    second = copy.deepcopy(first)
    for model in (first, second):
        sb.initialize(model)
        assert model.head.weight is model.embedding.weight
    for path, tensor in named(first).items():
        assert same(tensor, named(second)[path]), path
    assert torch.equal(first.plain, second.plain)


def test_copies_made_after_the_construction_start_alike_and_the_plan_says_so():
    one, other = deferred(lambda: nn.Linear(9, 9)), deferred(lambda: nn.Linear(9, 9))
    model = nn.ModuleList([one, copy.deepcopy(one), other])
    remarks = {e.spec.path: e.spec.copied for e in sb.plan(model)}
    assert remarks["1.weight"] == "0.weight"
    assert remarks["2.weight"] == ""
    sb.initialize(model)
    assert torch.equal(model[0].weight, model[1].weight)
    assert not torch.equal(model[0].weight, model[2].weight)


def test_parts_of_models_put_together_have_numbers_of_their_own():
    one, other = deferred(small), deferred(small)
    model = sb.initialize(nn.Sequential(one.body[0], other.body[0], other.body[1], one.body[1]))
    assert len({layer.weight[0, 0].item() for layer in model}) == 4
    both = sb.initialize(nn.ModuleDict({"a": deferred(small), "b": deferred(small)}))
    assert not torch.equal(both["a"].product, both["b"].product)
    assert torch.equal(both["b"].minus, -both["b"].body[0].weight)


def test_dtype_gradients_and_mode_may_change_before_the_start():
    model = deferred(small).to(torch.bfloat16).requires_grad_(False).eval()
    sb.initialize(model)
    assert model.table.dtype == torch.bfloat16
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert torch.equal(model.table, small().table.bfloat16())
    assert torch.equal(model.product, started().product.bfloat16())


def test_an_optimizer_built_in_between_trains_the_model():
    model = deferred(lambda: nn.Linear(3, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    before = sb.initialize(model).weight.detach().clone()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


class Hooked(nn.Module):
    """Its constructor hooks the gradient of a weight, which is tied."""

    def __init__(self, how):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
        self.layers[2].weight = self.weight = self.layers[0].weight
        self.seen = []
        if "removed" in how:
            self.weight.register_hook(self.double).remove()
        if "hook" in how:
            self.handle = self.weight.register_hook(self.double)
        if "accumulated" in how:
            self.weight.register_post_accumulate_grad_hook(lambda p: self.seen.append(p is self.weight))
        if "frozen" in how:
            self.weight.requires_grad_(requires_grad=False)

    def double(self, gradient):
        self.seen.append("hook")
        return gradient * 2

    def backward(self):
        with torch.no_grad():
            for p in self.parameters():
                p.fill_(0.5)
        self.weight.requires_grad_().grad = None
        self.layers(torch.ones(1, 3)).sum().backward()
        return self.weight.grad.tolist(), self.seen


@pytest.mark.parametrize("how", ["hook", "accumulated", "hook accumulated", "hook frozen", "removed"])
def test_hooks_on_parameters_see_each_gradient_once(how):
    eager, model = Hooked(how), deferred(lambda: Hooked(how))
    weight = model.weight
    assert sb.initialize(model).weight is weight
    assert model.backward() == eager.backward()
    for each in (eager, model) if how == "removed" else ():
        each.handle = each.weight.register_hook(each.double)
    assert model.backward() == eager.backward()
    assert len(model.seen) == {"hook accumulated": 4, "removed": 1}.get(how, 2)
    for each in (eager, model) if how != "accumulated" else ():
        each.handle.remove()
    model.seen.clear()
    model.backward()
    assert "hook" not in model.seen


class Referred(nn.Module):
    """Tensors that carry attributes, and that something refers to weakly."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("table", torch.arange(3.0))
        self.fc.weight.kind, self.table.kind = "matrix", "vector"
        self.refs = [weakref.ref(t) for t in (self.fc.weight, self.fc.bias, self.table)]
        self.table.again = self.refs


def test_attributes_and_weak_references_stay():
    model = deferred(Referred)
    tensors = [model.fc.weight, model.fc.bias, model.table]
    assert sb.check(sb.initialize(model), sb.plan(model))
    assert all(ref() is t and not t.is_meta for ref, t in zip(model.refs, tensors, strict=True))
    assert (model.fc.weight.kind, model.table.kind, model.table.again) == ("matrix", "vector", model.refs)
    model.fc(torch.ones(1, 3)).sum().backward()
    assert model.refs[0]().grad is not None
    del tensors, model.fc
    gc.collect()
    assert [ref() is None for ref in model.refs] == [True, True, False]


def test_a_buffer_that_nothing_refers_to_keeps_its_attributes():
    def build(self):
        self.register_buffer("table", torch.arange(3.0))
        self.table.kind = "vector"

    assert sb.initialize(deferred(net(build))).table.kind == "vector"


# The start.


@pytest.mark.parametrize("part", ["head", "embedding", "body", "body.1"])
def test_a_part_alone_gets_the_numbers_it_has_in_the_whole(part):
    whole, model = started(), deferred(small)
    alone = sb.initialize(model.get_submodule(part))
    for path, tensor in named(alone).items():
        assert same(tensor, named(whole)[f"{part}.{path}"])


def test_a_model_is_started_again_after_it_went_to_meta():
    model, first = started(), started()
    sb.initialize(model.to("meta"))
    for path, tensor in named(model).items():
        assert same(tensor, named(first)[path]), path


def test_a_started_model_compiles_and_is_saved():
    model = sb.initialize(deferred(lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))))
    torch.testing.assert_close(torch.compile(model, backend="eager")(torch.ones(2, 3)), model(torch.ones(2, 3)))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)[0].weight, model[0].weight)


def test_rules_go_before_what_was_recorded():
    model = deferred(small)
    plan = sb.plan(model, recipe={"*.weight": Normal(std=0.02), "*": Keep()})
    kinds = {e.spec.path: type(e.start) for e in plan}
    assert kinds["body.0.weight"] is Normal
    assert kinds["product"] is Chain
    plan.materialize(model)
    assert torch.equal(model.table, small().table)
    assert torch.equal(model.product, started().product)
    assert model.body[0].weight.std() < 0.05


def test_a_plan_goes_to_a_file_and_back_but_programs_do_not():
    model = deferred(small)
    plan = sb.plan(model)
    read = sb.Plan.from_json(plan.to_json())
    assert read == plan
    assert (fill(read["body.0.weight"]) == fill(plan["body.0.weight"])).all()
    with pytest.raises(PlanError, match=r"^product: the plan names what a constructor computes"):
        fill(read["product"])


@pytest.mark.parametrize("path", ["product", "table", "minus"])
def test_any_region_of_what_is_computed_is_that_region_of_the_whole(path):
    entry = sb.plan(deferred(small))[path]
    whole = fill(entry)
    for axis, size in enumerate(whole.shape):
        for a in range(size):
            start = tuple(a if n == axis else 0 for n in range(whole.ndim))
            region = Region(start, whole.shape)
            assert (fill(entry, region) == whole[region.slices]).all()


def test_what_is_written_twice_says_so():
    def build(self):
        self.linear = nn.Linear(3, 3)
        init.normal_(self.linear.weight)

    entry = sb.plan(deferred(net(build)))["linear.weight"]
    assert entry.start == Normal(std=1.0)
    assert "over Linear.reset_parameters" in entry.why


@pytest.mark.parametrize(
    "write",
    [
        lambda w: None,
        lambda w: w.data[:2].fill_(1),
        lambda w: w.data[0].normal_(),
        lambda w: w.data.triu_(),
        lambda w: w.data.add_(1),
        lambda w: w.data[torch.tensor([0, 1])].mul_(2),
    ],
)
def test_memory_that_nothing_writes_is_an_error_with_the_path_and_the_line(write):
    def build(self):
        self.weight = nn.Parameter(torch.empty(4, 4))
        write(self.weight)

    with pytest.raises((PlanError, CaptureError), match=r"^weight: ") as caught:
        sb.initialize(deferred(net(build)))
    assert "(test_torch_deferred_uses.py:" in str(caught.value)
