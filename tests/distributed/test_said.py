"""What a sharded start refuses, and what it keeps: one process that stands for the first of two."""

import pytest
import torch
from tests.distributed.emulated import process
from torch import nn

import seedbed as sb
from seedbed.initializers import Keep, Normal, Zeros
from seedbed.recipe import Rule


@pytest.fixture
def first_of_two():
    with process(0, 2):
        yield


def laid_out(model):
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 6)
        nn.init.normal_(self.fc.weight, std=0.02)

    def forward(self, x):
        return self.fc(x)


@pytest.mark.usefixtures("first_of_two")
def test_values_that_a_plan_keeps_are_not_written_from_a_shard(tmp_path):
    model = laid_out(Net())
    plan = sb.plan(model, recipe=sb.Recipe((Rule("fc.weight", Keep(values=True)), Rule("*", Zeros()))))
    with pytest.raises(
        sb.SeedbedError, match=r"^fc\.weight: the plan keeps its values, and this process has only a shard"
    ):
        sb.write(plan, tmp_path / "made", model=model)
    assert not (tmp_path / "made").exists()


@pytest.mark.usefixtures("first_of_two")
def test_what_is_laid_out_inside_deferred_is_not_taken_for_a_layers_own_start():
    with sb.deferred():
        model = laid_out(Net())
    assert sb.plan(model)["fc.weight"].why.startswith("laid out inside deferred()")
    with pytest.raises(sb.SeedbedError, match="it was built without memory"):
        sb.initialize(model)
    with sb.deferred():
        model = Net()
    assert str(sb.plan(laid_out(model))["fc.weight"].start) == "Normal(std=0.02)"


WRITES = {
    "mul_": lambda m: m.fc.weight.mul_(2),
    "normal_": lambda m: nn.init.normal_(m.fc.weight),
    "reset_parameters": lambda m: m.fc.reset_parameters(),
}


@pytest.mark.parametrize("late", [False, True], ids=["before it is sharded", "after"])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.filterwarnings("ignore:DTensor random operators")
@pytest.mark.usefixtures("first_of_two")
def test_what_is_written_after_deferred_is_not_forgotten(write, late):
    with sb.deferred():
        model = Net()
    with torch.no_grad():
        if late:
            laid_out(model)
        WRITES[write](model)
        if not late:
            laid_out(model)
    assert sb.plan(model)["fc.weight"].why.startswith("written to after deferred()")


@pytest.mark.usefixtures("first_of_two")
def test_attributes_of_parameters_stay():
    for build in (Net, lambda: Net().to("meta")):
        model = laid_out(build())
        model.fc.weight.decay = 0.5
        sb.initialize(model, recipe=Normal(std=1.0))
        assert model.fc.weight.decay == 0.5


@pytest.mark.usefixtures("first_of_two")
def test_a_function_of_layers_is_refused():
    with pytest.raises(sb.SeedbedError, match=r"^apply_init: the model is sharded"):
        sb.apply_init(laid_out(Net()), (2, 4), lambda layer: None)
    sb.apply_init(laid_out(Net()), (2, 4), "he")


def test_findings_say_of_which_rank_they_speak():
    found = sb.Findings((sb.Finding(path="a", verdict="equal"),), elsewhere=((1, "a moved: 1 of 3 values"),))
    assert str(found) == "1 of 1 array equal the plan bit for bit on this rank.\nrank 1: a moved: 1 of 3 values"
