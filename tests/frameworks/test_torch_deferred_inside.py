"""What a model's code may do inside `deferred()`, and what goes wrong there."""

import copy
import gc
import io
import threading
import weakref

import numpy as np
import pytest
import torch
from tests.frameworks.pairs import deferred, net
from torch import nn
from torch.nn import init
from torch.nn.modules import module as hooks
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import seedbed as sb
from seedbed.errors import CaptureError, InputError
from seedbed.frameworks.torch import diverted
from seedbed.frameworks.torch.record import Cell
from seedbed.initializers import Keep, Normal, Ones


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


def values_of(tensor):
    """Ways to read values."""
    return [
        tensor.tolist(), tensor.sum().item(), float(tensor[1]), bool((tensor > 1).any()), tensor.numpy().tolist(),
        np.asarray(tensor, dtype=np.float64).tolist(), tensor[tensor > 1].tolist(), f"{tensor[1]:.2f}", repr(tensor),
        [int(v) for v in tensor], list(range(tensor[1].int())), torch.equal(tensor, tensor + 0), tensor.argmax().item(),
        tensor.nonzero().tolist(), torch.allclose(tensor, tensor), str(tensor.dtype), tensor.device.type, tensor.is_meta,
    ]  # fmt: skip


def test_values_that_are_not_random_are_read_as_ever():
    with sb.deferred():
        inside = values_of(torch.arange(4.0).clamp_(min=1) * 2)
    assert inside == values_of(torch.arange(4.0).clamp_(min=1) * 2)


@pytest.mark.parametrize(
    "read",
    [
        lambda w: w.sum().item(), lambda w: bool(w[0] > 0), torch.Tensor.tolist, torch.Tensor.numpy, repr,
        lambda w: float(w[0]), lambda w: w[w > 0], torch.nonzero, lambda w: f"{w[0]:.2f}", torch.unique,
    ],
)  # fmt: skip
def test_values_that_are_drawn_cannot_be_read_and_the_line_is_told(read):
    with sb.deferred():
        weight = torch.randn(3) * 2
        with pytest.raises(CaptureError, match=r"test_torch_deferred_inside.py:\d+") as caught:
            read(weight)
    assert "drawn  randn at" in str(caught.value)


def test_a_constructor_that_fails_leaves_nothing_behind():
    codes = [f.__code__ for _, f in diverted._functions()]
    before = list(hooks._global_parameter_registration_hooks.values())

    def build(self):
        init.trunc_normal_(nn.Linear(3, 3).weight)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        deferred(net(build))
    assert [f.__code__ for _, f in diverted._functions()] == codes
    assert not _get_current_dispatch_mode_stack()
    assert not _get_current_function_mode_stack()
    assert list(hooks._global_parameter_registration_hooks.values()) == before
    assert not hooks._global_module_registration_hooks
    assert vars(nn.Linear(2, 2)).keys() == vars(small().body[0]).keys()
    assert not torch.empty(2).is_meta


VERBS = {
    "apply_init": lambda model, _: sb.apply_init(model, (1, 3)),
    "check": sb.check,
    "check ": lambda model, plan: sb.check(model.state_dict(), plan),
    "fingerprint": lambda model, plan: sb.fingerprint(plan, model),
    "initialize": lambda model, _: sb.initialize(model, recipe="he"),
    "initialize ": lambda model, _: model.lazy(torch.ones(1, 3)),
    "materialize": lambda model, plan: plan.materialize(model),
    "plan": lambda model, _: sb.plan(model, (1, 3)),
    "trace": lambda model, _: sb.trace(model),
    "write": lambda model, plan: sb.write(plan, "elsewhere", model=model),
}


@pytest.mark.parametrize("which", ["inside", "before", "started"])
@pytest.mark.parametrize("verb", VERBS)
def test_verbs_wait_until_the_construction_has_ended(verb, which):
    def built():
        model = nn.Sequential(nn.Linear(3, 3))
        model.lazy = lazy
        return model

    lazy = sb.initialize(nn.LazyLinear(3))
    plan = sb.plan(built(), (1, 3))
    earlier = built() if which == "started" else deferred(built)
    with sb.deferred():
        model = built()
        with pytest.raises(
            CaptureError, match=rf"^{verb.strip()}: .*deferred\(\)[^\0]*\n    seedbed\.{verb.strip()}\("
        ):
            VERBS[verb](model if which == "inside" else earlier, plan)
    assert not _get_current_dispatch_mode_stack()
    assert not _get_current_function_mode_stack()
    assert bool(sb.check(sb.initialize(model, (1, 3)), sb.plan(model, (1, 3))))


def test_what_needs_no_model_is_done_inside_as_well(tmp_path):
    plan = sb.plan(deferred(small))
    expected = sb.fingerprint(plan)
    with sb.deferred():
        model = small()
        assert sb.fingerprint(plan) == expected
        sb.write(plan, tmp_path, threads=1)
        assert sb.check(tmp_path, plan)
        assert sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=(2,)),)), recipe=Normal(std=1.0)).seed == 0
    assert sb.fingerprint(plan, sb.initialize(model)) == expected


def test_tensors_of_tensors_are_made_of_their_values():
    def build(self):
        ends = torch.linspace(0, 1, 3)
        self.register_buffer("pair", torch.tensor([ends[1], [ends[2]][0]]))
        self.register_buffer("nested", torch.as_tensor([[ends[0], 5.0], (ends[1], 6)]))

    model = sb.initialize(deferred(net(build)))
    assert model.pair.tolist() == [0.5, 1.0]
    assert model.nested.tolist() == [[0.0, 5.0], [0.5, 6.0]]


def test_a_layer_at_two_places_has_one_start_whichever_part_is_started():
    def build(self):
        self.first = nn.Sequential(nn.Linear(4, 4))
        self.second = nn.ModuleList([self.first[0]])
        self.second.table = torch.rand(3)

    whole = sb.initialize(deferred(net(build)))
    part = sb.initialize(deferred(net(build)).second)
    assert torch.equal(part[0].weight, whole.first[0].weight)
    assert torch.equal(part.table, whole.second.table)


def test_what_was_recorded_goes_with_the_model():
    model = deferred(small)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert not [o for o in gc.get_objects() if type(o) is Cell]


def test_one_inside_another_is_part_of_it():
    with sb.deferred():
        with sb.deferred():
            first = nn.Linear(3, 3)
        second = nn.Linear(3, 3)
        assert second.weight.untyped_storage().device.type == "meta"
    assert torch.equal(sb.initialize(first).weight, sb.initialize(second).weight)


def test_other_threads_build_ordinary_models_meanwhile():
    built, go = {}, threading.Event()

    def build():
        torch.manual_seed(0)
        layer = nn.Linear(5, 5)
        init.trunc_normal_(layer.weight)
        return init.orthogonal_(layer.weight)

    def other():
        go.wait()
        built["weight"] = build()

    thread = threading.Thread(target=other)
    thread.start()
    with sb.deferred():
        nn.Linear(3, 3)
        go.set()
        thread.join()
        assert init.trunc_normal_(nn.Linear(3, 3).weight).untyped_storage().device.type == "meta"
    assert torch.equal(built["weight"], build())


def test_several_threads_are_deferred_at_once():
    weights = []

    def build():
        for _ in range(5):
            with sb.deferred():
                model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
                init.orthogonal_(model[1].weight)
            weights.append(sb.initialize(model)[1].weight)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(weights) == 20
    assert all(torch.equal(w, weights[0]) for w in weights)


def test_given_values_stay():
    pretrained = nn.Linear(5, 5)
    given = {k: v.clone() for k, v in pretrained.state_dict().items()}

    def build(self):
        self.body, self.head = pretrained, nn.Linear(5, 2)
        self.copied, self.loaded, self.taken = copy.deepcopy(pretrained), nn.Linear(5, 5), nn.Linear(5, 5)
        self.loaded.load_state_dict(pretrained.state_dict())
        self.taken.weight.data = pretrained.weight.data

    model = sb.initialize(deferred(net(build)))
    assert model.body is pretrained
    for layer in (model.body, model.copied, model.loaded):
        assert all(torch.equal(v, given[k]) for k, v in layer.state_dict().items())
    assert torch.equal(model.taken.weight, given["weight"])
    sb.initialize(model, recipe={"head.*": Keep(), "*": Ones()})
    assert (pretrained.weight == 1).all()


def test_numpy_may_write_to_its_memory_again():
    memory = np.zeros(100_000)

    def build(self):
        for number in range(3):
            memory[:] = number
            self.register_buffer(f"n{number}", torch.from_numpy(memory).float())

    model = sb.initialize(deferred(net(build)))
    assert [t.unique().tolist() for t in model.buffers()] == [[0.0], [1.0], [2.0]]


def test_files_are_read_inside():
    file = io.BytesIO()
    torch.save({"w": torch.arange(4.0), "b": torch.ones(3)}, file)

    def build(self):
        file.seek(0)
        saved = torch.load(file)
        self.weight = nn.Parameter(saved["w"])
        self.register_buffer("twice", saved["b"] * 2)

    model = sb.initialize(deferred(net(build)))
    assert model.weight.tolist() == [0, 1, 2, 3]
    assert model.twice.tolist() == [2, 2, 2]


def test_the_device_that_is_asked_for_is_seen_and_no_other_is_needed():
    with sb.deferred():
        layer = nn.Linear(3, 3, device="cuda:1")
        assert layer.weight.device == torch.device("cuda:1")
        assert layer.weight.is_cuda
        assert nn.Linear(3, 3).to("cuda").weight.device.type == "cuda"
        assert nn.Linear(3, 3).cuda().weight.device == torch.device("cuda")
        assert nn.Linear(3, 3).cuda(1).weight.device == torch.device("cuda:1")
        assert torch.ones(3, device=layer.weight.device).sum().item() == 3
    with pytest.raises(InputError, match="asks for the device cuda:1"):
        sb.initialize(layer)
    assert layer.weight.is_meta
    assert torch.equal(
        sb.initialize(layer, device="cpu").weight, sb.initialize(deferred(lambda: nn.Linear(3, 3))).weight
    )
