"""Names that wrappers put before a path are no part of it: plans, streams and findings are the same."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import seedbed as sb


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def inside(model):
    for n in (0, 2):
        model[n] = checkpoint_wrapper(model[n])
    return model


WRAPPERS = {
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "compile": torch.compile,
    "compile of DistributedDataParallel": lambda m: torch.compile(nn.parallel.DistributedDataParallel(m)),
    "checkpoint inside": inside,
    "compile inside": lambda m: nn.Sequential(torch.compile(m[0]), m[1], torch.compile(m[2])),
}


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_model_has_the_plan_and_the_values_of_the_bare_one(wrap, group):
    bare, wrapped = net(), WRAPPERS[wrap](net())
    plan = sb.plan(bare, recipe="he", seed=5)
    assert sb.plan(wrapped, recipe="he", seed=5) == plan
    assert sb.plan(wrapped, (7, 3), recipe={"0.*": sb.initializers.Ones(), "2.*": sb.initializers.Zeros()})["0.bias"]
    parameters = list(wrapped.parameters())
    assert sb.initialize(wrapped, recipe="he", seed=5) is wrapped
    assert all(a is b for a, b in zip(parameters, wrapped.parameters(), strict=True))
    sb.materialize(plan, bare)
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), wrapped.parameters(), strict=True))
    assert sb.check(wrapped, plan)
    assert sb.check(wrapped.state_dict(), plan)
    assert sb.fingerprint(plan, wrapped) == sb.fingerprint(plan)


def test_a_layer_of_ones_own_that_is_called_module_keeps_its_name():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

    assert next(s.path for s in sb.trace(Holder())) == "module.weight"
    plan = sb.plan(Holder(), recipe="he")
    model = sb.materialize(plan, Holder())
    assert sb.check(model, plan)
    assert sb.check(model.state_dict(), plan)


def test_what_was_wrapped_inside_deferred_keeps_its_record():
    with sb.deferred():
        model = inside(net())
    with sb.deferred():
        bare = net()
    plan = sb.plan(model, seed=2)
    assert plan == sb.plan(bare, seed=2)
    assert "nn.Linear" not in plan["0.weight"].why
    assert sb.check(sb.materialize(plan, model), plan)


def test_a_wish_for_a_compiled_lazy_model_is_carried_out_under_the_bare_paths():
    lazy = torch.compile(nn.Sequential(nn.LazyLinear(4)), backend="eager")
    sb.initialize(lazy, recipe="he", seed=1)
    lazy(torch.ones(2, 3))
    assert sb.check(lazy, sb.plan(nn.Sequential(nn.Linear(3, 4)), recipe="he", seed=1))
