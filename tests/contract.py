"""What every framework's adapter must do. A test file of a framework holds `class Test...(Contract)` with its house.

A house (tests/frameworks/houses) builds the same networks in its framework, and reads their values.
"""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.equality import EXACT, GOLDEN, INPUTS, NETS, RECIPES, canonical, digest, seen

import seedbed as sb
from seedbed import initializers as si
from seedbed.errors import ModelError, ShapeError, UnmatchedError, UnusedRuleError
from seedbed.fill import fill
from seedbed.frameworks import framework_of

ROOT = Path(__file__).parents[1]
GROWTH = """
import os, resource, sys
import seedbed as sb
from tests.frameworks.houses import {house} as house
net, inputs = house.mlp()
{act}(net, *inputs, recipe="he")  # imports, and what the framework makes once
net, inputs = house.large()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{act}(net, *inputs, recipe="he")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def growth(house, act):
    """Kilobytes by which the most memory that a process of its own held grew."""
    program = GROWTH.format(house=house, act=act)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


class Contract:
    """The tests; `house` is a module of tests/frameworks/houses."""

    house = None

    def plan(self, built, **options):
        net, inputs = built
        return sb.plan(net, *inputs, **options)

    def start(self, built, **options):
        net, inputs = built
        return sb.initialize(net, *inputs, **options)

    def values(self, built, **options):
        return self.house.arrays(self.start(built, **options))

    # Tracing

    def test_tracing_allocates_nothing(self):
        assert growth(self.house.name, "sb.plan") < 64_000

    @pytest.mark.parametrize("net", NETS)
    def test_tracing_changes_nothing(self, net):
        model, inputs = getattr(self.house, net)()
        before = self.house.state(model)
        sb.trace(model)
        first = sb.trace(model, *inputs)
        assert self.house.state(model) == before
        assert sb.trace(model, *inputs) == first

    @pytest.mark.parametrize("net", NETS)
    def test_the_plan_tells_the_shapes_and_dtypes_that_come(self, net):
        built = getattr(self.house, net)()
        plan = self.plan(built, recipe="he")
        arrays = self.house.arrays(sb.materialize(plan, built[0]))
        assert {e.spec.path: e.spec.sizes for e in plan} == {p: a.shape for p, a in arrays.items()}
        assert {e.spec.dtype for e in plan if e.spec.kind == "parameter"} == {"float32"}

    @pytest.mark.parametrize("net", NETS)
    def test_what_was_started_equals_its_plan(self, net):
        built = getattr(self.house, net)()
        plan = self.plan(built, recipe="he", seed=3)
        started = sb.materialize(plan, built[0])
        findings = sb.check(started, plan)
        assert findings, str(findings)
        arrays = self.house.arrays(started)
        for entry in plan:
            if not entry.kept:
                assert np.array_equal(arrays[entry.spec.path], fill(entry)), entry.spec.path

    def test_unknown_sizes_are_shown_and_never_made_up(self):
        specs = sb.trace(self.house.mlp()[0])
        weights = [s for s in specs if s.role == "weight"]
        assert all(s.shown_shape.count("?") == 1 for s in weights[:1])
        assert "?" in str(sb.plan(self.house.mlp()[0], recipe="he"))
        assert {n for s in specs for n in s.shape} <= {256, 10, None}

    # Numbers

    def test_the_same_seed_gives_the_same_values_and_another_others(self):
        one, same, other = (self.values(self.house.mlp(), recipe="he", seed=s) for s in (1, 1, 2))
        assert all(np.array_equal(one[p], same[p]) for p in one)
        assert not all(np.array_equal(one[p], other[p]) for p in one)

    def test_the_order_of_filling_decides_nothing(self):
        built, other = self.house.lenet(), self.house.lenet()
        plan = self.plan(built, recipe="he")
        backwards = replace(plan, entries=plan.entries[::-1])
        one = self.house.arrays(sb.materialize(plan, built[0], threads=1))
        same = self.house.arrays(sb.materialize(backwards, other[0], threads=3))
        assert all(np.array_equal(one[p], same[p]) for p in one)

    def test_a_layer_put_between_others_leaves_them_their_bits(self):
        before = self.values(self.house.named("first", "last"), recipe="xavier")
        after = self.values(self.house.named("first", "between", "last"), recipe="xavier")
        assert set(before) < set(after)
        assert all(np.array_equal(before[p], after[p]) for p in before)

    def test_bfloat16_is_the_rounding_of_float32(self):
        whole = self.values(self.house.mlp(), recipe="he")
        half = self.values(self.house.mlp("bfloat16"), recipe="he")
        for path, values in whole.items():
            bits = values.view(np.uint32).astype(np.uint64)
            rounded = (bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
            assert np.array_equal(half[path].view(np.uint16), rounded.astype(np.uint16)), path

    def test_the_frameworks_own_start_has_its_spread(self):
        for net in NETS:
            built = getattr(self.house, net)()
            plan = self.plan(built)
            arrays = self.house.arrays(sb.materialize(plan, built[0]))
            assert all(np.isfinite(a).all() for a in arrays.values())
            assert all(e.spec.origin for e in plan), net

    # Structure

    def test_a_tie_is_one_parameter(self):
        built = self.house.tied()
        plan = self.plan(built, recipe="he")
        assert len(plan) == 2
        started = sb.materialize(plan, built[0])
        assert sb.check(started, plan)

    def test_statistics_of_batch_norm_are_buffers_and_start_as_the_framework_has_them(self):
        built = self.house.resnet_block()
        plan = self.plan(built, recipe="he")
        buffers = {e.spec.leaf or e.spec.path.rpartition(".")[2] for e in plan if e.spec.kind == "buffer"}
        assert {"running_mean", "running_var"} <= buffers
        arrays = self.house.arrays(sb.materialize(plan, built[0]))
        for entry in plan:
            if entry.spec.kind == "buffer" and "var" in (entry.spec.leaf or entry.spec.path):
                assert (arrays[entry.spec.path] == 1).all()

    def test_a_wish_before_shapes_gives_what_inputs_give(self):
        x = np.ones((2, 20), np.float32)
        wished = self.house.arrays(self.house.wished(self.house.mlp()[0], "he", 5, x))
        known = self.values(self.house.mlp(), recipe="he", seed=5)
        assert all(np.array_equal(wished[p], known[p]) for p in known)

    def test_memory_grows_by_the_parameters_and_little_more(self):
        parameters = 4 * (1024 * 8192 + 2 * 8192 * 8192 + 3 * 8192) // 1024
        assert growth(self.house.name, "kept = sb.initialize") < parameters + 1.1 * 4 * 8192 * 8192 // 1024

    # Errors

    def test_a_parameter_without_a_rule_is_named(self):
        net, inputs = self.house.mlp()
        with pytest.raises(UnmatchedError) as error:
            sb.plan(net, *inputs, recipe={"*bias": si.Zeros()})
        assert len(error.value.paths) == 2

    def test_a_rule_without_a_parameter_is_named(self):
        net, inputs = self.house.mlp()
        with pytest.raises(UnusedRuleError):
            sb.plan(net, *inputs, recipe={"encoder.*": si.Zeros(), "*": si.Ones()})

    def test_inputs_of_another_width_are_an_error_and_start_nothing(self):
        net, inputs = self.house.mlp()
        started = sb.initialize(net, *inputs, recipe="he")
        if started is net:  # the model holds its values: it has its width now
            with pytest.raises(ShapeError) as error:
                sb.plan(net, (2, 21))
            assert error.value.path

    def test_a_class_is_no_model(self):
        net, _ = self.house.mlp()
        with pytest.raises(ModelError, match="A model is needed"):
            sb.trace(type(net))
        assert framework_of(net).name

    # One start for all frameworks

    @pytest.mark.parametrize("recipe", RECIPES)
    @pytest.mark.parametrize("net", NETS)
    def test_the_same_start_in_every_framework(self, net, recipe):
        built = getattr(self.house, net)()
        plan = self.plan(built, recipe=RECIPES[recipe], seed=7, streams="position")
        found = canonical(plan, self.house.arrays(sb.materialize(plan, built[0])))
        known = GOLDEN[f"{net}, {recipe}"]
        for stream, facts in known["arrays"].items():
            if stream not in found:  # one of two biases that are added: a framework may have only the other
                assert facts["zero"], f"{stream} is missing"
                continue
            assert list(found[stream].shape) == facts["shape"], stream
            if recipe in EXACT:
                assert digest(found[stream]) == facts["digest"], stream
            else:
                assert np.allclose(seen(found[stream]), facts["seen"], rtol=0, atol=1e-6), stream
        more = [stream for stream in found if stream not in known["arrays"]]  # two biases kept in one array
        assert not any(found[stream].any() for stream in more), more

    @pytest.mark.parametrize("net", NETS)
    def test_and_the_same_answers(self, net):
        model, inputs = getattr(self.house, net)()
        started = self.start((model, inputs), recipe=RECIPES["he"], seed=7, streams="position")
        answer = self.house.forward(model, started, INPUTS[net]())
        known = np.array(GOLDEN[f"{net}, he"]["answer"], np.float32)
        assert answer.size == known.size
        assert math.isfinite(float(np.abs(answer).sum()))
        assert np.allclose(np.ravel(answer), known, rtol=0, atol=1e-5)
