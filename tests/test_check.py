"""What did happen: findings of every kind."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import seedbed as sb
from seedbed.check import compare
from seedbed.errors import UnknownSizeError
from seedbed.fill import fill
from seedbed.frameworks.torch.place import values
from seedbed.initializers import Constant, Keep, Normal, Ones, Zeros
from seedbed.store import NAMES, load


def net():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def started(**options):
    model = net()
    plan = sb.plan(model, recipe="he", **options)
    return plan.materialize(model), plan


def verdicts(findings):
    return {f.path: f.verdict for f in findings}


def test_what_equals_its_plan_is_equal():
    model, plan = started()
    findings = sb.check(model, plan)
    assert findings
    assert findings.ok
    assert set(verdicts(findings).values()) == {"equal"}
    assert str(findings) == "9 of 9 arrays equal the plan bit for bit."


@pytest.mark.parametrize("form", ["model", "state dict", "arrays", "file", "folder", "index"])
def test_every_form_of_parameters_is_checked(form, tmp_path):
    model, plan = started()
    with torch.no_grad():
        model[0].weight[1, 2] += 1
    if form in ("file", "folder", "index"):
        whole = sb.plan(
            model,
            recipe=sb.Recipe((sb.Rule("*", Keep(values=True)), sb.Rule(sb.Where(role="buffer"), Keep(values=True)))),
        )
        target = tmp_path / "x.safetensors" if form == "file" else tmp_path / "out"
        files = sb.write(whole, target, model=model, shard_size="5GB" if form == "file" else 20)
        held = files[-1] if form == "index" else target
    else:
        held = {"model": model, "state dict": model.state_dict(),
                "arrays": {k: v.numpy() for k, v in model.state_dict().items()}}[form]  # fmt: skip
    findings = sb.check(held, plan)
    assert [f.path for f in findings.different] == ["0.weight"]
    assert findings["0.weight"].verdict == "moved"
    assert findings["0.weight"].differing == 1
    assert findings["0.weight"].largest == pytest.approx(1, abs=1e-6)
    assert findings["0.weight"].detail == "1 of 12 values, first at [1, 2], by up to 1"


def test_every_verdict_is_found_at_once():
    model, plan = started()
    held = {k: v.clone() for k, v in model.state_dict().items()}
    del held["0.weight"]
    held["0.bias"] = torch.zeros(4)
    held["2.weight"] = held["2.weight"].double()
    held["2.bias"] += 2
    held["extra"] = torch.zeros(2, 3)
    findings = sb.check(held, plan)
    assert {p: v for p, v in verdicts(findings).items() if v != "equal"} == {
        "0.weight": "missing", "0.bias": "shape", "2.weight": "dtype", "2.bias": "moved", "extra": "extra",
    }  # fmt: skip
    assert {f.path: f.detail for f in findings.different} == {
        "0.weight": "(3, 4)", "0.bias": "expected (3,), got (4,)", "2.weight": "expected float32, got float64",
        "2.bias": "2 of 2 values, first at [0], by up to 2", "extra": "(2, 3)",
    }  # fmt: skip
    assert not findings
    assert findings.summary == "5 of 10 arrays equal the plan bit for bit, 5 do not."
    assert [line.split()[0] for line in str(findings).split("\n")[2:-1]] == [f.path for f in findings.different]


def test_what_the_plan_keeps_is_neither_equal_nor_moved():
    model = nn.Linear(2, 2)
    plan = sb.plan(model, recipe={"weight": Keep(values=True), "bias": Zeros()})
    sb.materialize(plan, model)
    findings = sb.check(model, plan)
    assert verdicts(findings) == {"weight": "kept", "bias": "equal"}
    assert findings.ok
    assert findings.summary.endswith("1 keep values that the plan does not hold.")
    assert verdicts(sb.check({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, plan))["weight"] == "shape"


def test_buffers_that_do_not_persist_are_not_missed_in_a_state_dict():
    model = net()
    model.register_buffer("mask", torch.ones(2), persistent=False)
    plan = sb.plan(model, recipe=sb.Recipe((sb.Rule("*", Zeros()), sb.Rule(sb.Where(role="buffer"), Zeros()))))
    sb.materialize(plan, model)
    assert sb.check(model.state_dict(), plan)
    assert "mask" in verdicts(sb.check(model, plan))


def test_a_tied_parameter_is_found_under_any_of_its_paths():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    plan = sb.plan(model, recipe="he")
    held = plan.materialize(model).state_dict()
    assert sb.check(held, plan)
    held.pop("0.weight")
    findings = sb.check(held, plan)
    assert findings
    assert set(verdicts(findings)) == {"0.weight", "0.bias", "1.bias"}


def test_a_tie_that_has_come_apart_is_found():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    plan = sb.plan(model, recipe="he")
    held = {k: v.clone() for k, v in plan.materialize(model).state_dict().items()}
    assert sb.check(held, plan), "a copy of the same values is equal"
    held["1.weight"] += 1
    assert {f.path: f.verdict for f in sb.check(held, plan).different} == {"1.weight": "moved"}


def test_values_that_must_be_copied_are_copied_when_they_are_asked_for():
    """As from a device: a model on it need not fit into this memory."""
    there = torch.tensor([1 + 2j, 3 - 1j]).conj()
    held = values({"w": there})["w"]
    there.conj()[0] = 5 + 5j
    assert held.array.tolist() == [5 - 5j, 3 + 1j]
    specs = sb.Specs((sb.ParamSpec(path="w", shape=(2,), dtype="complex64"),))
    plan = sb.plan(specs, recipe=Ones())
    assert sb.fingerprint(plan, {"w": there}) == sb.fingerprint(plan, {"w": there.resolve_conj()})


def test_each_array_is_fetched_once_and_two_ties_are_held_together():
    """A copy that took the memory of one just dropped would look like the same array."""

    class Fetched:
        dtype, shape, count = "float32", (2**20, 3), 0

        def __init__(self, value):
            self.value = value

        @property
        def array(self):
            self.count += 1
            return np.full(self.shape, self.value, np.float32)

    spec = sb.ParamSpec(path="w", shape=Fetched.shape, aliases=("tied",))
    plan = sb.plan(sb.Specs((spec,)), recipe=Ones())
    held = {"w": Fetched(1), "tied": Fetched(2)}
    assert {f.path: f.verdict for f in compare(held, plan)} == {"w": "equal", "tied": "moved"}
    assert [one.count for one in held.values()] == [2, 2]


@pytest.mark.parametrize("dtype", [*NAMES, "complex128"])
def test_one_bit_of_any_dtype_is_found(dtype):
    start = Normal(std=1.0) if "float" in dtype else Ones()
    specs = sb.Specs((sb.ParamSpec(path="w", shape=(3, 2), dtype=dtype), sb.ParamSpec(path="b", shape=(), dtype=dtype)))
    plan = sb.plan(specs, recipe=start)
    held = {
        e.spec.path: torch.from_numpy(fill(e).reshape(-1).view("u1").copy())
        .view(getattr(torch, dtype))
        .reshape(e.spec.shape)
        for e in plan
    }
    assert sb.check(held, plan)
    held["w"].view(torch.uint8)[1, 0] ^= 1
    finding = sb.check(held, plan)["w"]
    assert (finding.verdict, finding.differing) == ("moved", 1)
    assert finding.detail.startswith("1 of 6 values, first at [1, 0]")
    assert finding.largest > 0


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16", "float16"])
def test_distances_of_small_dtypes_are_those_of_the_numbers(dtype):
    plan = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=(6,), dtype=dtype),)), recipe=Zeros())
    for value in (0.5, -3.5, 1.0, 0.015625, -0.001953125 if dtype != "float8_e5m2" else 2.0**-16):
        held = {"w": torch.tensor([0, 0, value, 0, 0, 0]).to(getattr(torch, dtype))}
        assert sb.check(held, plan)["w"].largest == abs(float(held["w"][2]))


def test_zeros_of_two_signs_differ_and_equal_nan_is_equal():
    plan = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=(2,)),)), recipe=Zeros())
    finding = sb.check({"w": torch.tensor([0.0, -0.0])}, plan)["w"]
    assert (finding.verdict, finding.differing, finding.largest) == ("moved", 1, 0.0)
    nan = sb.check({"w": torch.tensor([0.0, math.nan])}, plan)["w"]
    assert nan.verdict == "moved"
    assert math.isnan(nan.largest)
    signaling = np.array([0x7F800001, 0], np.uint32).view(np.float32)
    assert math.isnan(sb.check({"w": signaling}, plan)["w"].largest)
    same = sb.initializers.Custom(lambda draw, spec: np.full(draw.shape, np.nan, np.float32))
    again = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=(2,)),)), recipe=same)
    assert sb.check({"w": torch.from_numpy(fill(again["w"]))}, again)


def test_a_difference_in_a_later_block_is_counted_from_the_whole():
    specs = sb.Specs((sb.ParamSpec(path="w", shape=(3000, 700)),))
    plan = sb.plan(specs, recipe=Constant(value=3))
    held = np.full((3000, 700), 3, np.float32)
    held[2, 5] = 4
    held[2999, 699] = 1
    finding = sb.check({"w": held}, plan)["w"]
    assert finding.differing == 2
    assert finding.largest == 2.0
    assert "first at [2, 5]" in finding.detail
    held[2, 5] = 3
    assert "first at [2999, 699]" in sb.check({"w": held}, plan)["w"].detail


@pytest.mark.parametrize("order", ["F", "negative", "strided"])
def test_arrays_in_any_layout_are_compared_by_place(order):
    plan = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=(5, 4)),)), recipe=Normal(std=1.0))
    values = fill(plan["w"])
    held = {"F": np.asfortranarray(values), "negative": values[::-1].copy()[::-1],
            "strided": np.repeat(values, 2, axis=1)[:, ::2]}[order]  # fmt: skip
    assert sb.check({"w": held}, plan)


def test_empty_arrays_are_equal():
    plan = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=(0, 3)),)), recipe=Normal(std=1.0))
    assert sb.check({"w": np.empty((0, 3), np.float32)}, plan)


def test_a_plan_that_is_not_settled_cannot_be_checked():
    with pytest.raises(UnknownSizeError):
        sb.check({}, sb.plan(nn.LazyLinear(3)))


def test_names_in_a_file_do_not_break_the_table(tmp_path):
    specs = sb.Specs((sb.ParamSpec(path="a\nb\x1b[2J", shape=(2,)),))
    sb.write(sb.plan(specs, recipe=Zeros()), tmp_path / "x.safetensors")
    findings = sb.check(load(tmp_path / "x.safetensors"), sb.plan(sb.Specs(())))
    assert str(findings).split("\n")[2].split() == ["a\\nb\\x1b[2J", "extra", "(2,)"]


def test_progress_is_told_the_bytes_that_were_compared():
    _, plan = started()
    model, told = net(), []
    sb.check(plan.materialize(model), plan, progress=lambda path, size: told.append((path, size)))
    assert told == [(e.spec.path, e.spec.nbytes) for e in plan]


def test_a_compiled_model_is_checked():
    model = nn.Sequential(nn.Linear(4, 3))
    plan = sb.plan(model)
    compiled = torch.jit.script(plan.materialize(model))
    assert sb.check(compiled, plan)
