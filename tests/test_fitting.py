"""Part of a start from a checkpoint: what it holds is loaded unchanged, the rest starts as without it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import seedbed as sb
from seedbed.cli import app
from seedbed.errors import CheckpointError, InputError, PlanError, UnknownSizeError
from seedbed.fill import fill
from seedbed.initializers import Keep, Loaded, Normal, Ones, Zeros
from seedbed.plan import Plan
from seedbed.region import Region


def net(classes=3):
    with sb.deferred():
        return nn.ModuleDict(
            {"body": nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16)), "head": nn.Linear(16, classes)}
        )


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.safetensors"
    sb.write(sb.plan(net(5), seed=9), path)
    return path


def test_what_the_checkpoint_holds_is_loaded_and_the_rest_starts_as_without_it(base):
    held, alone = load_file(base), sb.initialize(net(), seed=4).state_dict()
    state = sb.initialize(net(), seed=4, checkpoint=base, leave=["head.*"]).state_dict()
    for path, tensor in state.items():
        expected = held[path] if path.startswith("body.") else alone[path]
        assert torch.equal(tensor, expected), path


def test_loaded_parameters_stay_the_same_objects(base):
    model = net()
    before = list(model.parameters())
    sb.initialize(model, checkpoint=base, leave=["head.*"])
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_any_region_of_what_is_loaded_equals_that_of_the_file(base):
    entry = sb.plan(net(), checkpoint=base, leave="head.*")["body.0.weight"]
    region = Region((3, 2), (11, 7))
    assert np.array_equal(fill(entry, region), load_file(base)["body.0.weight"].numpy()[region.slices])


def test_rules_are_for_the_rest_alone(base):
    plan = sb.plan(
        net(),
        checkpoint=base,
        leave="head.*",
        recipe={"body.0.*": Ones(), "head.*": Normal(std=3.0), "body.*": Keep()},
    )
    assert {p.spec.path: type(p.start) for p in plan if p.spec.kind == "parameter"} == {
        "body.0.weight": Loaded, "body.0.bias": Loaded, "body.1.weight": Loaded, "body.1.bias": Loaded,
        "head.weight": Normal, "head.bias": Normal,
    }  # fmt: skip
    only_the_head = sb.plan(net(), checkpoint=base, leave="head.*", recipe={"head.*": Zeros()})
    assert only_the_head["head.weight"].start == Zeros()


def test_check_finds_a_changed_byte_of_what_was_loaded(base):
    model = net()
    plan = sb.plan(model, checkpoint=base, leave="head.*")
    assert sb.check(plan.materialize(model), plan)
    with torch.no_grad():
        model.body[0].weight[2, 3] += 1e-3
    assert sb.check(model, plan)["body.0.weight"].differing == 1


def test_a_tied_parameter_is_found_under_any_of_its_names(tmp_path):
    def tied():
        with sb.deferred():
            model = nn.ModuleDict({"embed": nn.Embedding(10, 4), "head": nn.Linear(4, 10, bias=False)})
            model["head"].weight = model["embed"].weight
        return model

    values = torch.arange(40.0).reshape(10, 4)
    save_file({"head.weight": values}, tmp_path / "tied.safetensors")
    model = sb.initialize(tied(), checkpoint=tmp_path / "tied.safetensors")
    assert torch.equal(model["embed"].weight, values)
    assert model["embed"].weight is model["head"].weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_is_loaded_bit_for_bit(tmp_path, dtype):
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({"weight": values, "bias": values[:, 0].contiguous()}, tmp_path / "one.safetensors")
    with sb.deferred():
        model = nn.Linear(4, 3).to(dtype)
    assert torch.equal(sb.initialize(model, checkpoint=tmp_path / "one.safetensors").weight, values)


def test_a_plan_with_a_checkpoint_is_written_to_disk(base, tmp_path):
    plan = sb.plan(net(), checkpoint=base, leave="head.*")
    sb.write(plan, tmp_path / "out.safetensors")
    assert torch.equal(load_file(tmp_path / "out.safetensors")["body.0.weight"], load_file(base)["body.0.weight"])


def test_a_plan_read_from_a_file_names_its_checkpoint_and_holds_no_values(base):
    plan = sb.plan(net(), checkpoint=base, leave="head.*")
    again = Plan.from_json(plan.to_json())
    assert again == plan
    with pytest.raises(PlanError, match="names a checkpoint"):
        fill(again["body.0.weight"])


def test_all_that_does_not_fit_is_listed(base):
    with pytest.raises(CheckpointError) as told:
        sb.plan(net(), checkpoint=base)
    assert set(told.value.names) == {"head.weight", "head.bias"}
    with sb.deferred():
        other = nn.ModuleDict({"trunk": net()["body"], "head": nn.Linear(16, 5)})
    with pytest.raises(CheckpointError, match=r"body\.0\.weight +near trunk\.0\.weight"):
        sb.plan(other, checkpoint=base)


def test_another_dtype_does_not_fit(base):
    with pytest.raises(CheckpointError, match="float32 there, bfloat16 in the model"):
        sb.plan(net().to(torch.bfloat16), checkpoint=base, leave="head.*")


def test_a_model_is_untouched_by_a_checkpoint_that_does_not_fit(base):
    model = net()
    with pytest.raises(CheckpointError):
        sb.initialize(model, checkpoint=base)
    assert all(t.is_meta for t in model.parameters())


def test_a_pattern_that_leaves_nothing_and_one_without_a_checkpoint_are_errors(base):
    with pytest.raises(CheckpointError, match=r"leave: 'tail\.\*' leaves nothing"):
        sb.plan(net(), checkpoint=base, leave=["head.*", "tail.*"])
    with pytest.raises(InputError, match="leave"):
        sb.plan(net(), leave=["head.*"])


def test_sizes_must_be_known_for_a_checkpoint_to_fit(base):
    with pytest.raises((CheckpointError, UnknownSizeError)):
        sb.initialize(nn.Sequential(nn.LazyLinear(16)), checkpoint=base)


def test_the_command_line_starts_from_a_base_and_checks_against_it(base, tmp_path, monkeypatch, capsys):
    (tmp_path / "model.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.ModuleDict({'body': nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16)), 'head': nn.Linear(16, 3)})\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ["--base", str(base), "--leave", "head.*", "--seed", "4"]
    for arguments in (
        ["init", "model.py:net", "--out", "out.safetensors"],
        ["check", "out.safetensors", "model.py:net"],
    ):
        app([*arguments, *options], standalone_mode=False)
    assert "9 of 9 arrays equal the plan bit for bit." in capsys.readouterr().out
    made, expected = load_file("out.safetensors"), sb.initialize(net(), seed=4, checkpoint=base, leave="head.*")
    assert all(torch.equal(made[path], tensor) for path, tensor in expected.state_dict().items())
