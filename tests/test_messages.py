"""Every error message, compared whole with its file in tests/messages.

`pytest tests/test_messages.py --update-messages` writes the files anew; read the difference before keeping it.
"""

import ast
import errno
import functools
import json
import os
import resource
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.distributed.emulated import process
from tests.messages_flax import CASES as OF_FLAX
from tests.messages_ranks import CASES as OF_RANKS
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial
from torch.distributed.tensor import Shard as Cut

import seedbed as sb
from seedbed import cli, engine, errors, frameworks
from seedbed.errors import SeedbedError
from seedbed.fill import fill
from seedbed.initializers import (
    Constant,
    Custom,
    Dirac,
    HeNormal,
    Identity,
    Keep,
    Mixture,
    Native,
    Normal,
    Ones,
    Orthogonal,
    Overlay,
    Sparse,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    XavierUniform,
    Zeros,
    from_dict,
    gain,
)
from seedbed.region import Region
from seedbed.spec import Layout
from seedbed.store import load
from seedbed.store.aside import Aside
from seedbed.verbs import asked

FOLDER = Path(__file__).parent / "messages"
SOURCE = Path(sb.__file__).parent
FOREIGN = torch.ones(2, device="meta")
HOSTILE = runpy.run_path(str(Path(__file__).parent / "hostile" / "files.py"))


# Models and specs that the cases share.


class Closed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.function = lambda x: self.fc(x) + 1

    def forward(self, x):
        return self.function(x)


def with_torch_alone(act):
    """As in a process that has imported no other framework, whatever other tests did in this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frameworks, "NAMES", dict.fromkeys(frameworks.NAMES, "not imported") | {"torch": "torch"})
        act()


def engine_not_here():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEDBED_ENGINE", "c")
        patch.setattr(engine, "_engine", None)
        engine.chosen()


def built(source):
    """Run lines in deferred(), as a file of their own."""
    code = compile(source, "model.py", "exec")
    with sb.deferred():
        exec(code, {"torch": torch, "nn": nn, "foreign": FOREIGN})


def modelled(body):
    """A deferred model whose constructor has these lines."""
    lines = ["class Net(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    scope = {"torch": torch, "nn": nn, "sb": sb}
    exec(compile("\n".join([*lines, *(f"        {line}" for line in body.split("\n"))]), "model.py", "exec"), scope)
    with sb.deferred():
        return scope["Net"]()


def with_a_sparse_buffer():
    net = nn.Linear(3, 3)
    net.register_buffer("graph", torch.eye(3).to_sparse())
    return net


def started(body):
    sb.initialize(modelled(body))


def deferred_without_framework():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seedbed.verbs.building.loaded", list)
        with sb.deferred():
            pass


def sharded(*placements, rows=4, within=None, more=()):
    """Start a layer whose weight lies on a mesh of four processes, as the first of them."""
    with process(0, 4):
        mesh = DeviceMesh("cpu", within or [0, 1, 2, 3])
        net = nn.ModuleDict({name: nn.Linear(2, 4, bias=False, device="meta") for name in ("fc", *more)})
        for layer in net.values():
            held = torch.empty(rows, 2, device="meta")
            layer.weight = nn.Parameter(DTensor.from_local(held, mesh, placements, shape=(4, 2), stride=(2, 1)))
        sb.initialize(net)


def sharded_inside():
    with process(1, 4):
        with sb.deferred():
            net = fully_shard(nn.Linear(2, 4))
        sb.initialize(net)


def small_checkpoint():
    sb.write(sb.plan(nn.ModuleDict({"fc": nn.Linear(2, 2)})), "base.safetensors")
    return "base.safetensors"


def plan_with_a_checkpoint():
    plan = sb.plan(nn.ModuleDict({"fc": nn.Linear(2, 2)}), checkpoint=small_checkpoint())
    fill(sb.Plan.from_json(plan.to_json())["fc.weight"])


def plan_with_a_program():
    (entry,) = sb.Plan.from_json(sb.plan(modelled("self.w = nn.Parameter(torch.rand(3) * torch.randn(3))")).to_json())
    fill(entry)


def mlp():
    return nn.Sequential(nn.LazyLinear(256), nn.ReLU(), nn.LazyLinear(10))


def small():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def deep_known():
    return nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(4)))


def deep():
    return nn.Sequential(*(nn.LazyLinear(8) for _ in range(4)))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(2)
        self.unused = nn.LazyLinear(3)

    def forward(self, x, mask=None):
        return self.fc(x)


class Overlapping(nn.Module):
    def __init__(self):
        super().__init__()
        memory = torch.zeros(10)
        self.low = nn.Parameter(memory[:6])
        self.high = nn.Parameter(memory[4:])


class HoldsLock(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle '_thread.lock' object")


def one(shape=(4, 6), axes=("out", "in"), **facts):
    return sb.Specs((sb.ParamSpec(path="fc.weight", shape=shape, axes=axes, layer="Linear", **facts),))


def several():
    return sb.Specs(tuple(sb.ParamSpec(path=f"mix.{n}", shape=(3, 4), layer="Mix") for n in range(7)))


def entry(start=None, **facts):
    (made,) = sb.plan(one(**facts), recipe=start or Normal(std=0.02))
    return made


def changed_plan():
    data = json.loads(sb.plan(one(), recipe=Normal(std=0.02)).to_json())
    data["entries"][0]["start"]["std"] = 0.03
    return sb.Plan.from_json(json.dumps(data))


def other_version():
    data = json.loads(sb.plan(one(), recipe=Zeros()).to_json())
    return sb.Plan.from_json(json.dumps({**data, "seedbed": 7}))


def with_custom():
    return sb.Plan.from_json(sb.plan(one(), recipe=Custom(noise)).to_json())


def noise(draw, spec):
    return draw.normal()


noise.__module__ = "mine"  # the name of this module depends on how the tests are started


def rows(draw, spec):
    return np.zeros(spec.sizes[0])


def text(draw, spec):
    return np.full(draw.shape, "x")


def by_hand(tensor):
    with torch.no_grad():
        return tensor.copy_(torch.ones(()))


def does_nothing(tensor):
    return tensor


def toml(content):
    Path("mine.toml").write_text(content)
    return sb.plan(one(), recipe="mine.toml")


def in_json(content):
    Path("mine.json").write_text(content)
    return sb.plan(one(), recipe="mine.json")


def rule(line):
    return toml(f"[[rule]]\npath = '*'\n{line}\n")


def not_utf8():
    Path("mine.toml").write_bytes(b"\xff")
    return sb.plan(one(), recipe="mine.toml")


def full_disk():
    """Real enough: the system lets no file grow beyond a limit."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        sb.write(sb.plan(nn.Linear(100, 100)), "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def written_twice(**second):
    sb.write(sb.plan(small(), seed=1), "there", shard_size=60)
    sb.write(sb.plan(small()), "there", shard_size=60, **second)


def full_at_the_third_file():
    """Not real: here a limit on files stops the first one that is too large, not what fills a disk."""
    real, calls = os.posix_fallocate, []

    def fills(descriptor, offset, length):
        calls.append(length)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "no")
        real(descriptor, offset, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fills)
        sb.write(sb.plan(deep_known()), "there", shard_size=60)


def written_at_the_same_time():
    with Aside(Path("model.safetensors")):
        sb.write(sb.plan(small()), "model.safetensors")


def changed_meanwhile():
    def meddle(draw, spec):
        Path("model.safetensors").write_bytes(b"another's")
        return draw.normal()

    sb.write(sb.plan(small(), recipe=Custom(meddle)), "model.safetensors")


def told_by_torchrun(**environment):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        asked.process_told(None)


def onto(make):
    """Write where something else stands."""
    make()
    sb.write(sb.plan(small()), "there.safetensors" if Path("there.safetensors").exists() else "there")


def model_file(content, name):
    Path("net.py").write_text(content)
    return cli.loading.named(f"net.py:{name}")


def unreadable_file():
    os.mkfifo("pipe.safetensors")
    return load("pipe.safetensors")


def disk_fails():
    """Not real: no disk here fails on demand."""
    Path("model.safetensors").write_bytes(b"")

    def refuse(*_, **__):
        raise OSError(errno.EIO, "no")

    real, Path.open = Path.open, refuse
    try:
        return load("model.safetensors")
    finally:
        Path.open = real


def meta():
    with torch.device("meta"):
        return small()


def too_early(read):
    net = mlp()
    sb.initialize(net)
    return read(net[0].weight)


def loaded_into_lazy():
    net = nn.Sequential(nn.LazyLinear(4))
    sb.initialize(net)
    net.load_state_dict({"0.weight": torch.zeros(5, 3), "0.bias": torch.zeros(5)})
    return net(torch.zeros(1, 3))


def kept():
    specs = sb.Specs((sb.ParamSpec(path="w", shape=(2,)),))
    return sb.write(sb.plan(specs), "model.safetensors")


class Chain(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(count))


def attention():
    return sb.lazy(nn.MultiheadAttention, sb.dim(-1), 4)


def loaded_into_open():
    net = nn.Sequential(attention())
    net.load_state_dict(nn.Sequential(nn.MultiheadAttention(24, 4)).state_dict())
    sb.plan(net[0], (5, 2, 20), (5, 2, 20), (5, 2, 20))


CASES = {
    # Initializers.
    "std_negative": lambda: Normal(std=-0.5),
    "std_nan": lambda: Normal(std=float("nan")),
    "mean_infinite": lambda: Normal(mean=float("inf"), std=1.0),
    "std_text": lambda: Normal(std="0.02"),
    "std_beyond_float32": lambda: Normal(std=1e39),
    "value_of_400_digits": lambda: Constant(value=10**400),
    "value_missing_from_table": lambda: from_dict("Constant"),
    "scale_zero": lambda: VarianceScaling(scale=0),
    "fan_unknown": lambda: HeNormal(fan="inn"),
    "distribution_unknown": lambda: VarianceScaling(scale=1.0, distribution="gauss"),
    "bounds_wrong_way_round": lambda: Uniform(low=1, high=-1),
    "bounds_too_far_apart": lambda: Uniform(low=-3e38, high=3e38),
    "cut_zero": lambda: TruncatedNormal(std=1.0, cut=0),
    "cut_tiny": lambda: TruncatedNormal(std=1.0, cut=0.0001),
    "sparsity_above_one": lambda: Sparse(sparsity=1.5),
    "groups_zero": lambda: Dirac(groups=0),
    "probabilities_do_not_sum": lambda: Mixture([(0.5, Zeros()), (0.25, Uniform(low=5, high=10))]),
    "probability_negative": lambda: Mixture([(-0.5, Zeros()), (1.5, Ones())]),
    "part_not_elementwise": lambda: Mixture([(0.5, Zeros()), (0.5, Orthogonal())]),
    "parts_not_pairs": lambda: Mixture([Zeros(), Ones()]),
    "custom_not_a_function": functools.partial(Custom, 3),
    "keep_values_text": lambda: Keep(values="yes"),
    "overlay_box_backwards": lambda: Overlay(base=Zeros(), boxes=((((3, 1),), Ones()),)),
    "overlay_keeps": lambda: Overlay(base=Keep()),
    "nonlinearity_unknown": lambda: gain("rellu"),
    # Initializers from data.
    "initializer_unknown": lambda: from_dict({"name": "HeNorml"}),
    "initializer_unknown_far": lambda: from_dict("qqqqqqqq"),
    "initializer_not_a_table": lambda: from_dict(3),
    "initializer_argument_unknown": lambda: from_dict({"name": "Normal", "sdt": 0.02}),
    "initializer_custom_from_data": lambda: from_dict({"name": "Custom", "function": "mine:noise"}),
    "mixture_parts_not_a_list": lambda: from_dict({"name": "Mixture", "parts": 3}),
    "mixture_part_not_a_table": lambda: from_dict({"name": "Mixture", "parts": [[0.5, "Zeros"]]}),
    "native_to_data": lambda: Native(function=nn.init.orthogonal_).to_dict(),
    # Specs and inputs.
    "input_not_a_shape": lambda: sb.Input(3),
    "input_negative": lambda: sb.Input((2, -1)),
    "input_too_large": lambda: sb.plan(nn.LazyLinear(2), (2**40, 2**40)),
    "input_dtype_unknown": lambda: sb.Input((2, 3), "int46"),
    "spec_role_unknown": lambda: sb.ParamSpec(path="w", shape=(2,), role="wieght"),
    "spec_dtype_unknown": lambda: sb.ParamSpec(path="w", shape=(2,), dtype="float31"),
    "spec_kind_unknown": lambda: sb.ParamSpec(path="w", shape=(2,), kind="constant"),
    "spec_shape_negative": lambda: sb.ParamSpec(path="w", shape=(2, -3)),
    "spec_shape_not_whole": lambda: sb.ParamSpec(path="w", shape=(2, 3.0)),
    "spec_shape_not_a_tuple": lambda: sb.ParamSpec(path="w", shape=3),
    "spec_elements_too_many": lambda: sb.ParamSpec(path="w", shape=(2**40, 2**40)),
    "spec_axes_too_few": lambda: sb.ParamSpec(path="w", shape=(2, 3), axes=("out",)),
    "spec_axis_unknown": lambda: sb.ParamSpec(path="w", shape=(2,), axes=("row",)),
    "spec_packed_too_few": lambda: sb.ParamSpec(path="w", shape=(2, 3), packed=(3,)),
    "specs_path_unknown": lambda: one()["fc.wieght"],
    "specs_label_matches_nothing": lambda: several().label("head.*", role="weight"),
    "specs_not_json": lambda: sb.Specs.from_json("{"),
    "specs_of_another_form": lambda: sb.Specs.from_json("{}"),
    "sizes_of_one_unknown": lambda: one(shape=(4, None))["fc.weight"].sizes,
    "fan_of_unlabelled_axes": lambda: sb.plan(one(axes=()), recipe=XavierUniform()),
    "fan_of_one_axis": lambda: sb.plan(nn.Linear(2, 3), recipe={"bias": HeNormal(), "*": Zeros()}),
    "fan_of_several_unlabelled": lambda: sb.plan(several(), recipe=HeNormal()),
    # Recipes.
    "where_empty": sb.Where,
    "where_role_unknown": lambda: sb.Where(role="wieght"),
    "where_path_not_text": lambda: sb.Where(path=3),
    "rule_where_of_another_kind": lambda: sb.Rule(3, Zeros()),
    "rule_class_in_place_of_instance": lambda: sb.Rule("*", HeNormal),
    "rule_without_initializer": lambda: sb.Rule("*", 0.02),
    "rule_initializer_unknown": lambda: sb.plan(one(), recipe={"*": "he"}),
    "rule_initializer_out_of_range": lambda: sb.plan(one(), recipe={"*": {"name": "Normal", "std": -1}}),
    "recipe_without_rules": lambda: sb.Recipe(()),
    "recipe_of_something_else": lambda: sb.Recipe(("*",)),
    "recipe_of_a_number": lambda: sb.plan(one(), recipe=0.02),
    "recipe_unknown": lambda: sb.plan(one(), recipe="xaver"),
    "recipe_like_an_initializer": lambda: sb.plan(one(), recipe="zeros"),
    "recipe_file_missing": lambda: sb.plan(one(), recipe="missing.toml"),
    "recipe_file_not_text": not_utf8,
    "recipe_gpt2_without_blocks": lambda: sb.plan(small(), recipe="gpt2"),
    "toml_broken": lambda: toml("[[rule]]\npath = '*'\ninitializer = = 'Zeros'\n"),
    "toml_cut_short": lambda: toml("[[rule]]\npath = "),
    "toml_nested_deep": lambda: toml("name = " + "[" * 20_000),
    "toml_without_rules": lambda: toml("name = 'mine'\n"),
    "toml_key_unknown": lambda: toml("[[rules]]\npath = '*'\n"),
    "toml_name_not_text": lambda: toml("name = 3\n[[rule]]\npath = '*'\ninitializer = 'Zeros'\n"),
    "toml_rule_not_a_table": lambda: toml("rule = ['*']\n"),
    "toml_rule_without_initializer": lambda: toml("[[rule]]\npath = '*'\n"),
    "toml_rule_key_unknown": lambda: rule("initializer = 'Zeros'\noptinal = true"),
    "toml_rule_optional_not_boolean": lambda: rule("initializer = 'Zeros'\noptional = 1"),
    "toml_rule_path_not_text": lambda: toml("[[rule]]\npath = 3\ninitializer = 'Zeros'\n"),
    "toml_initializer_unknown": lambda: rule("initializer = 'Zeroes'"),
    "toml_std_negative": lambda: rule("initializer = { name = 'Normal', std = -1 }"),
    "json_broken": lambda: in_json('{"rule": [}'),
    "json_nested_deep": lambda: in_json("[" * 50_000),
    "json_not_a_table": lambda: in_json("[]"),
    # From recipe to plan.
    "unmatched_one": lambda: sb.plan(small(), recipe={"0.*": Zeros(), "2.weight": Ones()}),
    "unmatched_all_are_listed": lambda: sb.plan(deep(), (2, 8), recipe={"0.weight": Zeros()}),
    "rule_matches_nothing": lambda: sb.plan(small(), recipe={"head.*": Ones(), "*": Zeros()}),
    "rules_shadowed": lambda: sb.plan(small(), recipe={"*": Zeros(), "0.weight": Ones(), "2.*": Ones()}),
    "seed_negative": lambda: sb.plan(one(), recipe=Zeros(), seed=-1),
    "seed_too_large": lambda: sb.plan(one(), recipe=Zeros(), seed=2**64),
    "seed_not_whole": lambda: sb.plan(one(), recipe=Zeros(), seed=1.5),
    "streams_not_a_mapping": lambda: sb.plan(one(), recipe=Zeros(), streams="place"),
    "sharding_of_torch": lambda: sb.initialize(nn.Linear(2, 2), sharding="rows"),
    "layout_of_other_axes": lambda: sb.ParamSpec(path="a", shape=(2, 3), layout=Layout(order=((0,), (0,)))),
    "streams_path_unknown": lambda: sb.plan(small(), recipe=Zeros(), streams={"0.wieght": "a"}),
    "streams_equal": lambda: sb.plan(small(), recipe=Zeros(), streams={"0.weight": "a", "2.weight": "a"}),
    "parts_not_a_mapping": lambda: sb.plan(one(), parts={"*": ("q", "k")}),
    "parts_names_not_text": lambda: sb.Parts((1, 2)),
    "parts_names_with_two_numbers": lambda: sb.Parts(("q.{}", "k.{}"), stacked=True),
    "parts_names_with_a_number": lambda: sb.Parts("q.{}"),
    "parts_axis_not_whole": lambda: sb.Parts("q", axis=1.0),
    "parts_stacked_text": lambda: sb.Parts("q.{}", stacked="yes"),
    "parts_sizes_zero": lambda: sb.Parts(("q", "k"), sizes=(4, 0)),
    "parts_sizes_too_few": lambda: sb.Parts(("q", "k"), sizes=(4,)),
    "parts_sizes_of_a_stack": lambda: sb.Parts(("q", "k"), sizes=(1, 1), stacked=True),
    "parts_repeats_zero": lambda: sb.Parts(("q", "k"), repeats=0),
    "parts_repeats_of_a_stack": lambda: sb.Parts(("q", "k"), repeats=2, stacked=True),
    "parts_order_twice": lambda: sb.Parts("q", order=(0, 0)),
    "parts_axes_unknown": lambda: sb.Parts("q", axes=("rows",)),
    "parts_role_unknown": lambda: sb.Parts("q", role="wieght"),
    "parts_match_nothing": lambda: sb.plan(small(), parts={"0.wieght": sb.Parts("q")}),
    "parts_taken_by_another_pattern": lambda: sb.plan(
        small(), parts={"*.bias": sb.Parts("b.*"), "0.bias": sb.Parts("q")}
    ),
    "parts_named_as_the_array": lambda: sb.plan(one(), parts={"*": sb.Parts(("fc.weight", "k"))}),
    "parts_of_one_name": lambda: sb.plan(small(), parts={"*.weight": sb.Parts("q")}),
    "parts_name_with_more_stars": lambda: sb.plan(small(), parts={"0.weight": sb.Parts("*.q")}),
    "parts_axis_not_there": lambda: sb.plan(one(), parts={"*": sb.Parts(("q", "k"), axis=2)}),
    "parts_do_not_divide": lambda: sb.plan(one(), parts={"*": sb.Parts(("q", "k", "v"))}),
    "parts_do_not_sum": lambda: sb.plan(one(), parts={"*": sb.Parts(("q", "k"), sizes=(2, 1))}),
    "parts_do_not_repeat": lambda: sb.plan(one(), parts={"*": sb.Parts(("q", "k"), sizes=(1, 1), repeats=3)}),
    "parts_of_a_stack_too_few": lambda: sb.plan(one(), parts={"*": sb.Parts(("q", "k"), stacked=True)}),
    "parts_order_too_long": lambda: sb.plan(one(), parts={"*": sb.Parts("q.{}", stacked=True, order=(1, 0))}),
    "parts_of_an_unknown_size": lambda: sb.plan(mlp(), parts={"0.weight": sb.Parts(("q", "k"), axis=1)}),
    "parts_of_a_wish": lambda: sb.initialize(mlp(), parts={"0.weight": sb.Parts(("q", "k"))}),
    "parts_without_roles": lambda: sb.plan(one(axes=()), recipe="he", parts={"*": sb.Parts("q", role="weight")}),
    "parts_kept_in_part": lambda: sb.plan(
        one(start=Orthogonal()), recipe={"q": Zeros(), "*": Keep()}, parts={"*": sb.Parts(("q", "k"))}
    ),
    "native_without_framework": lambda: sb.plan(one(), recipe=nn.init.orthogonal_),
    "orthogonal_of_a_vector": lambda: sb.plan(nn.Linear(2, 2), recipe={"bias": Orthogonal(), "*": Zeros()}),
    "orthogonal_of_several_vectors": lambda: sb.plan(nn.GRU(2, 2), recipe=Orthogonal()),
    "identity_of_a_convolution": lambda: sb.plan(one(shape=(2, 2, 3), axes=()), recipe=Identity()),
    "dirac_of_a_matrix": lambda: sb.plan(one(), recipe=Dirac()),
    "dirac_groups_do_not_divide": lambda: sb.plan(one(shape=(4, 2, 3), axes=()), recipe=Dirac(groups=3)),
    "normal_of_whole_numbers": lambda: sb.plan(one(dtype="int64"), recipe=Normal(std=1.0)),
    "fraction_in_whole_numbers": lambda: sb.plan(one(dtype="int64"), recipe=Constant(value=0.5)),
    "constant_out_of_range": lambda: sb.plan(one(dtype="uint8"), recipe=Constant(value=256)),
    "constant_out_of_float16": lambda: sb.plan(one(dtype="float16"), recipe=Constant(value=70_000)),
    "overlay_box_outside": lambda: sb.plan(one(), recipe=Overlay(base=Zeros(), boxes=((((0, 5), (0, 6)), Ones()),))),
    # Plans as text, and what is in them.
    "plan_path_unknown": lambda: sb.plan(small())["0.wieght"],
    "plan_not_json": lambda: sb.Plan.from_json('{"seedbed": 1,\n'),
    "plan_of_another_form": lambda: sb.Plan.from_json('{"seedbed": 1}'),
    "plan_of_another_version": other_version,
    "plan_changed": changed_plan,
    "plan_with_a_function": with_custom,
    "findings_path_unknown": lambda: sb.check(small(), sb.plan(small()))["0.wieght"],
    # The numbers.
    "region_outside": lambda: fill(entry(), Region((0, 0), (5, 6))),
    "region_not_whole": lambda: fill(entry(), Region((0, 0.5), (4, 6))),
    "region_not_a_region": lambda: fill(entry(), (slice(0, 2), slice(0, 6))),
    "region_beyond_arrays": lambda: fill(entry(shape=(2**30, 2**31))),
    "device_unknown": lambda: sb.initialize(nn.Linear(2, 2), device="foo"),
    "threads_none": lambda: sb.initialize(nn.Linear(2, 2), threads=0),
    "shape_that_is_a_list": lambda: sb.trace(mlp(), [2, 20]),
    "shape_that_is_text": lambda: sb.trace(mlp(), "2x20"),
    "model_called_past_its_copy": lambda: sb.trace(Closed(), (2, 2)),
    "path_with_nul": lambda: sb.write(sb.plan(nn.Linear(2, 2)), "a\0b.safetensors"),
    "plan_and_model_swapped": lambda: sb.materialize(nn.Linear(2, 2), sb.plan(nn.Linear(2, 2))),
    "plan_left_out_of_check": lambda: sb.check(nn.Linear(2, 2), None),
    "plan_left_out_of_write": lambda: sb.write(None, "x.safetensors"),
    "checkpoint_of_a_training": lambda: sb.check(
        {"model": nn.Linear(2, 2).state_dict(), "epoch": 3}, sb.plan(nn.Linear(2, 2))
    ),
    "out_read_only": lambda: fill(entry(), out=np.broadcast_to(np.float32(0), (4, 6))),
    "engine_not_here": engine_not_here,
    "out_of_another_shape": lambda: fill(entry(), out=np.empty((6, 4), np.float32)),
    "out_not_an_array": lambda: fill(entry(), out=[0.0] * 24),
    "out_of_foreign_byte_order": lambda: fill(entry(), out=np.empty((4, 6), np.dtype(np.float32).newbyteorder())),
    "fill_of_kept_values": lambda: fill(entry(Keep(values=True))),
    "fill_of_unresolved": lambda: fill(
        sb.Entry(spec=one()["fc.weight"], initializer=HeNormal(), start=HeNormal(), why="", stream="a", seed=0)
    ),
    "custom_wrong_shape": lambda: fill(entry(Custom(rows))),
    "custom_not_numbers": lambda: fill(entry(Custom(text))),
    # Models and their inputs.
    "model_of_no_framework": lambda: with_torch_alone(lambda: sb.plan([1, 2])),
    "model_class_in_place_of_instance": lambda: sb.plan(nn.Linear),
    "model_that_cannot_be_copied": lambda: sb.plan(HoldsLock(2, 2)),
    "model_with_overlapping_parameters": lambda: sb.plan(Overlapping()),
    "forward_reads_values": lambda: sb.plan(model_file(READS_VALUES, "Net")(), (1, 2)),
    "forward_argument_missing": lambda: sb.plan(Named(), mask=(1, 2)),
    "forward_arguments_too_many": lambda: sb.plan(Named(), (1, 2), (1, 2), (1, 2)),
    "forward_argument_unknown": lambda: sb.plan(Named(), (1, 2), maks=(1, 2)),
    "specs_with_inputs": lambda: sb.plan(one(), (1, 2)),
    "shape_does_not_fit": lambda: sb.plan(nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(128, 10)), (2, 20)),
    "shape_does_not_fit_from_input": lambda: sb.plan(nn.Conv2d(3, 8, 3), (1, 1, 8, 8)),
    "shape_does_not_fit_whatever_varies": lambda: sb.plan(small(), (None, 5)),
    "shape_too_small_for_window": lambda: sb.plan(nn.Conv2d(3, 8, 5), (1, 3, 2, 2)),
    "dtype_of_input_wrong": lambda: sb.plan(nn.Embedding(10, 4), (1, 5)),
    "unknown_one": lambda: sb.initialize(nn.Sequential(nn.LazyLinear(2, bias=False)), (2, None)),
    "unknown_without_input": lambda: sb.materialize(sb.plan(mlp()), mlp()),
    "unknown_many": lambda: sb.write(sb.plan(deep()), "model.safetensors"),
    "unknown_never_reached": lambda: sb.initialize(Named(), (2, 4)),
    "value_too_early": lambda: too_early(lambda w: w.mean()),
    "value_too_early_shape": lambda: too_early(lambda w: w.shape),
    "value_too_early_data": lambda: too_early(lambda w: w.data),
    "value_too_early_written": lambda: too_early(lambda w: setattr(w, "data", torch.ones(256, 20))),
    "value_too_early_in_check": lambda: sb.check(mlp(), sb.plan(mlp(), (2, 20))),
    "value_on_meta": lambda: sb.check(meta(), sb.plan(small())),
    "loaded_values_do_not_fit": loaded_into_lazy,
    "dim_of_no_axis": lambda: sb.dim("last"),
    "dim_that_the_input_lacks": lambda: sb.plan(nn.Sequential(sb.lazy(nn.LSTM, sb.dim(3), 4)), (5, 2, 20)),
    "lazy_of_no_class": lambda: sb.lazy(nn.Linear(2, 2), sb.dim(-1)),
    "lazy_without_an_open_size": lambda: sb.lazy(nn.LSTM, 20, 64),
    "lazy_of_a_lazy_class": lambda: sb.lazy(nn.LazyLinear, sb.dim(-1)),
    "lazy_that_cannot_be_built": lambda: sb.lazy(nn.LSTM, sb.dim(-1), 64, layers=2),
    "lazy_that_no_size_suits": lambda: sb.lazy(nn.GroupNorm, 5000, sb.dim(1)),
    "lazy_with_other_parameters": lambda: sb.lazy(Chain, sb.dim(-1)),
    "lazy_of_sizes_it_does_not_take": lambda: sb.plan(nn.Sequential(attention()), (5, 2, 21)),
    "lazy_called_in_part": lambda: attention().out_proj(torch.ones(2, 20)),
    "lazy_loaded_with_other_sizes": loaded_into_open,
    "plan_of_another_model": lambda: sb.materialize(sb.plan(nn.Linear(2, 3)), small()),
    "plan_of_other_sizes": lambda: sb.materialize(sb.plan(small()), small().double()),
    "plan_keeps_what_is_not_there": lambda: sb.materialize(sb.plan(meta(), recipe=Keep(values=True)), meta()),
    "native_unknown_write": lambda: sb.plan(nn.Linear(2, 2), recipe=by_hand),
    "native_without_write": lambda: sb.plan(nn.Linear(2, 2), recipe=does_nothing),
    "native_with_other_arguments": lambda: sb.plan(nn.Linear(2, 2), recipe=noise),
    "native_shape_unsuited": lambda: sb.plan(nn.Linear(2, 2), recipe=nn.init.xavier_uniform_),
    "native_cut_not_symmetric": lambda: sb.plan(
        nn.Linear(2, 2), recipe=functools.partial(nn.init.trunc_normal_, a=-1.0, b=2.0)
    ),
    # Writing.
    "shard_size_not_a_size": lambda: sb.write(sb.plan(small()), "model.safetensors", shard_size="5 apples"),
    "folder_missing": lambda: sb.write(sb.plan(small()), "missing/model.safetensors"),
    "folder_of_folder_missing": lambda: sb.write(sb.plan(small()), "missing/checkpoint"),
    "target_is_a_folder": lambda: onto(lambda: Path("there.safetensors").mkdir()),
    "target_is_a_file": lambda: onto(lambda: Path("there").write_text("")),
    "disk_full": full_disk,
    "disk_full_at_the_third_file": full_at_the_third_file,
    "write_over_another_model": written_twice,
    "write_over_another_model_by_several": lambda: written_twice(replace=True, process=(0, 2)),
    "write_at_the_same_time": written_at_the_same_time,
    "write_changed_meanwhile": changed_meanwhile,
    "write_process_not_one": lambda: sb.write(sb.plan(small()), "there", process=(4, 4)),
    "write_kept_without_model": kept,
    "write_dtype_without_name": lambda: sb.write(
        sb.plan(one(dtype="complex128", axes=()), recipe=Zeros()), "model.safetensors"
    ),
    "write_name_of_the_format": lambda: sb.write(
        sb.plan(sb.Specs((sb.ParamSpec(path="__metadata__", shape=(2,)),)), recipe=Zeros()), "model.safetensors"
    ),
    # Reading.
    "checkpoint_missing": lambda: load("missing.safetensors"),
    "checkpoint_not_a_file": unreadable_file,
    "checkpoint_unreadable": disk_fails,
    # The command line.
    "command_model_not_named": lambda: cli.loading.named("net.py"),
    "command_file_missing": lambda: cli.loading.named("missing.py:net"),
    "command_file_not_python": lambda: (Path("net.txt").touch(), cli.loading.named("./net.txt:net")),
    "command_module_missing": lambda: cli.loading.named("missing_package.module:net"),
    "command_name_missing": lambda: model_file("net = 3\nother = 4\n", "nett"),
    "command_function_with_arguments": lambda: (
        model_file("def net(width, depth, *, bias=True): ...\n", "net"),
        cli.loading.model_of("net.py:net", False),
    ),
    "command_input_not_an_input": lambda: cli._inputs(["1,28,28"]),
    "command_process_not_one": lambda: asked.process_told("4/4"),
    "command_process_without_its_number": lambda: told_by_torchrun(WORLD_SIZE="4"),
    "command_input_twice": lambda: cli._inputs(["x=1", "x=2"]),
    "command_input_dtype_unknown": lambda: cli._inputs(["1x28:flaot32"]),
    # Deferred construction.
    "capture_reads_what_is_drawn": lambda: built("weight = torch.randn(3)\nscale = weight.std().item()"),
    "capture_needs_what_is_drawn": lambda: built("weight = torch.randn(3)\nplaces = weight.nonzero()"),
    "capture_of_another_draw": lambda: built("chances = torch.eye(3).to_sparse().bernoulli_()"),
    "capture_of_a_draw_without_numbers": lambda: started(
        "self.w = nn.Parameter(torch.poisson(torch.ones(3), torch.Generator()))"
    ),
    "capture_of_a_model_compiled_by_jit": lambda: sb.plan(
        nn.Sequential(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)))
    ),
    "capture_of_a_foreign_meta_tensor": lambda: built("size = foreign.sum().item()"),
    "capture_of_another_size": lambda: started(
        "self.register_buffer('b', torch.native_batch_norm(torch.ones(2, 3), None, None, torch.zeros(3), torch.ones(3), False, 0.1, 1e-5)[1])"
    ),
    "capture_of_a_foreign_value": lambda: built("size = foreign[0].item()"),
    "capture_of_a_part_not_written": lambda: started("self.w = nn.Parameter(torch.empty(3, 3).triu())"),
    "capture_not_written": lambda: started("self.w = nn.Parameter(torch.empty(3, 3))"),
    "capture_partly_written": lambda: started("self.w = nn.Parameter(torch.empty(3, 3))\nself.w.data[0] = 1"),
    "plan_of_a_sparse_buffer": lambda: sb.plan(with_a_sparse_buffer()),
    "capture_of_a_sparse_buffer": lambda: started("self.register_buffer('mask', torch.eye(3).to_sparse())"),
    "checkpoint_of_other_names": lambda: sb.plan(
        nn.ModuleDict({"trunk": nn.Linear(2, 2)}), checkpoint=small_checkpoint()
    ),
    "checkpoint_of_other_shapes": lambda: sb.plan(
        nn.ModuleDict({"fc": nn.Linear(3, 2)}), checkpoint=small_checkpoint()
    ),
    "checkpoint_leave_nothing": lambda: sb.plan(
        nn.ModuleDict({"fc": nn.Linear(2, 2)}), checkpoint=small_checkpoint(), leave="head.*"
    ),
    "checkpoint_leave_without": lambda: sb.plan(nn.Linear(2, 2), leave=["head.*"]),
    "plan_with_a_checkpoint": plan_with_a_checkpoint,
    "device_not_here": lambda: started("self.fc = nn.Linear(2, 2, device='cuda:63')"),
    "deferred_without_framework": deferred_without_framework,
    "deferred_not_left": lambda: started("sb.initialize(nn.Linear(2, 2), recipe='he')"),
    "shard_of_a_mesh_without_values": sharded_inside,
    "shard_of_a_sum": lambda: sharded(Partial()),
    "shard_of_another_process": lambda: sharded(Cut(0), within=[1, 2, 3]),
    "shard_of_another_size": lambda: sharded(Cut(0), rows=3),
    "shards_of_sums": lambda: sharded(Partial(), more=("up", "down")),
    "plan_with_a_program": plan_with_a_program,
    "command_constructor_computes": lambda: (
        Path("computed.py").write_text(COMPUTED),
        cli.init_command("computed.py:net", Path("model.safetensors")),
    ),
}
READS_VALUES = """
from torch import nn

class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x
"""
COMPUTED = """
import torch
from torch import nn

class net_class(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.register_buffer("frequencies", torch.empty(3))

def net():
    return net_class()
"""
CASES |= OF_FLAX | OF_RANKS
CASES |= {f"hostile_{name}": functools.partial(load, f"{name}.safetensors") for name in sorted(HOSTILE["FILES"])}
CASES |= {f"hostile_{name}": functools.partial(load, name) for name in sorted(HOSTILE["FOLDERS"])}


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    """Paths in messages are relative to a folder that holds the hostile files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    HOSTILE["write"](tmp_path)


def raised(case):
    with pytest.raises(SeedbedError) as caught:
        CASES[case]()
    return caught.value


@pytest.mark.parametrize("case", CASES)
def test_the_message_is_the_one_on_file(case, update_messages, tmp_path):
    error = raised(case)
    text = f"{type(error).__name__}: {error}\n"
    file = FOLDER / f"{case}.txt"
    if update_messages:
        file.write_text(text, "utf-8")
    assert file.exists(), "there is no file; write it with --update-messages, and read it"
    assert text == file.read_text("utf-8")
    assert str(tmp_path) not in text
    assert not any(mark in text for mark in (" at 0x", "/site-packages/"))


def test_every_file_of_a_message_has_its_case():
    assert sorted(f.name for f in FOLDER.iterdir()) == sorted(f"{case}.txt" for case in CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_message_is_built_as_the_design_says(case):
    error = raised(case)
    sentence, *rest = str(error).split("\n\n")
    assert sentence.endswith("."), "a whole sentence first"
    assert "\n" not in sentence
    assert len(rest) <= 4
    facts = [line for line in str(error).split("\n") if line.startswith("    ")]
    assert "unmatched" in case or len(facts) <= 14, "five facts and a count of the rest, and what to paste"
    assert isinstance(error, tuple(c for c in (ValueError, TypeError, RuntimeError, LookupError, OSError)))


def sites():
    """Where errors are made: file, first and last line of each call."""
    classes = {name for name, c in vars(errors).items() if isinstance(c, type) and issubclass(c, SeedbedError)}
    makers = classes | {"foreign", "unsound", "no_path", "unknown_sizes", "unreadable", "unstarted"}
    for file in sorted(SOURCE.rglob("*.py")):
        if file.relative_to(SOURCE).parts[:2] in {("frameworks", "gluon"), ("frameworks", "keras")}:
            continue  # those are raised by tests/gluon/test_gluon_messages.py and tests/keras/test_keras_messages.py
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            again = isinstance(called, ast.Call) and ast.unparse(called) in ("type(error)", "type(first)")
            if again or getattr(called, "id", "") in makers:
                yield file, node.lineno, node.end_lineno


def test_every_error_in_the_source_is_raised_here(monkeypatch):
    places = set()
    plain = SeedbedError.__init__

    def noted(self, *args, **kwargs):
        frame = sys._getframe(1)
        while frame:
            places.add((Path(frame.f_code.co_filename), frame.f_lineno))
            frame = frame.f_back
        plain(self, *args, **kwargs)

    monkeypatch.setattr(SeedbedError, "__init__", noted)
    for number, case in enumerate(CASES):
        folder = Path(f"case{number}")
        folder.mkdir()
        HOSTILE["write"](folder)
        monkeypatch.chdir(folder)
        raised(case)
        monkeypatch.chdir("..")
    lost = [
        f"{file.relative_to(SOURCE)}:{first}"
        for file, first, last in sites()
        if not any((file, line) in places for line in range(first, last + 1))
    ]
    assert not lost


def test_every_class_of_error_is_in_the_tree_of_the_module():
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, SeedbedError)}
    for cls in classes - {SeedbedError}:
        builtin = cls.__mro__[2] if cls.__mro__[1] is SeedbedError else cls.__mro__[1]
        assert f"── {cls.__name__} " in errors.__doc__.replace("Error\n", "Error \n")
        line = next(line for line in errors.__doc__.split("\n") if f"── {cls.__name__} " in line)
        assert builtin.__name__ in line


def test_the_facts_are_attributes():
    error = raised("shape_does_not_fit")
    assert (error.path, error.expected, error.got, error.source) == ("2", "(..., 128)", (2, 256), "0")
    assert raised("unmatched_all_are_listed").paths == (
        "0.bias",
        *(f"{n}.{w}" for n in "123" for w in ("weight", "bias")),
    )
    assert raised("unknown_many").paths[0] == "0.weight"
    assert raised("std_negative").argument == "std"
    assert [str(r) for r in raised("rule_matches_nothing").rules] == ["'head.*' -> Ones()"]


def test_errors_survive_being_sent_to_another_process():
    import pickle

    for case in ("disk_full", "findings_path_unknown", "unmatched_one"):
        error = raised(case)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
