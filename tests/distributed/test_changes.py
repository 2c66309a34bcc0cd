"""What is done to a deferred model before it is laid out over devices: it is followed, or it is an error with the path."""

import pytest
import torch

pytest.importorskip("torch.testing._internal.distributed.fake_pg", reason="this PyTorch has no fake process group")
from tests.distributed.emulated import held, process
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import seedbed as sb
from seedbed.errors import PlanError
from seedbed.initializers import Keep, Ones


class Net(nn.Module):
    """Its head does not start as its layer would."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        nn.init.normal_(self.head.weight, std=3.0)

    def forward(self, x):
        return self.head(self.body(x))


def shard(model):
    for layer in (model.body, model.head, model):
        fully_shard(layer)


def cut(model):
    plan = {"body": ColwiseParallel(), "head": ColwiseParallel()}
    parallelize_module(model, init_device_mesh("cpu", (4,)), plan, src_data_rank=None)


def cut_and_shard(model):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    plan = {"body": ColwiseParallel(), "head": ColwiseParallel()}
    parallelize_module(model, mesh["tp"], plan, src_data_rank=None)
    fully_shard(model, mesh=mesh["dp"])


LAYOUTS = [shard, cut, cut_and_shard]


def replaced(model):
    model.head.weight = nn.Parameter(torch.empty(4, 4, device="meta"))


def doubled(model):
    model.head.weight = nn.Parameter(model.head.weight * 2)


def taken_out(model):
    del model.head.weight
    model.head.weight = nn.Parameter(torch.zeros(4, 4, device="meta"))


def seen_by_an_optimizer(model):
    model.optimizer = [torch.optim.SGD(model.parameters())]
    replaced(model)


def written(model):
    nn.init.zeros_(model.head.weight)


@pytest.mark.parametrize("inputs", [(), ((1, 4),)])
@pytest.mark.parametrize("lay", LAYOUTS)
@pytest.mark.parametrize("change", [replaced, doubled, taken_out, seen_by_an_optimizer, written])
def test_what_is_lost_is_said(change, lay, inputs):
    with process(1, 4):
        with sb.deferred():
            model = Net()
        change(model)
        lay(model)
        with pytest.raises(PlanError, match=r"^head\.weight: ") as caught:
            sb.initialize(model, *inputs)
        assert f"{'written to' if change is written else 'replaced'} after deferred()" in str(caught.value)
        rules = (sb.Rule("head.weight", Ones()), sb.Rule("*", Keep()))
        sb.initialize(model, *inputs, recipe=sb.Recipe(rules))
        assert (held(model.head.weight) == 1).all()


def tied(model):
    model.head.weight = model.body.weight


def tied_and_back(model):
    own = model.head.weight
    tied(model)
    model.head.weight = own


def in_another_layer(model):
    class Quiet(nn.Linear):
        """As libraries put one of their own in the place of a layer."""

    with torch.device("meta"):
        made = Quiet(4, 4)
    made.weight, made.bias = model.head.weight, model.head.bias
    model.head = made


def of_another_dtype(model):
    model.bfloat16()


def nothing(model):
    """As it was built."""


@pytest.mark.parametrize("lay", LAYOUTS)
@pytest.mark.parametrize("change", [nothing, tied, tied_and_back, in_another_layer, of_another_dtype])
def test_what_can_be_followed_starts_as_on_one_process(change, lay):
    def built():
        with sb.deferred():
            model = Net()
        change(model)
        return model

    whole = sb.initialize(built())
    assert change is not in_another_layer or type(whole.head).__name__ == "Quiet"
    assert (whole.head.weight.std() > 1) == (change is not tied)
    for rank in range(4):
        with process(rank, 4):
            model = built()
            lay(model)
            plan = sb.plan(model)
            assert plan["head.weight"].spec.copied in ("", "body.weight" if change is tied else "")
            plan.materialize(model)
            for path, p in whole.named_parameters(remove_duplicate=False):
                found = model.get_parameter(path)
                counts = torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape)
                numbered = Net().double()
                with torch.no_grad():
                    numbered.get_parameter(path).copy_(counts)
                lay(numbered)
                places = held(numbered.get_parameter(path)).long()
                assert torch.equal(held(found), p.detach().flatten()[places]), path
