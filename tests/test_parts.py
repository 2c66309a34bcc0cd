"""Fused and stacked arrays start as the logical parameters that they hold, bit for bit."""

import copy
import dataclasses
import math

import jax
import keras
import numpy as np
import pytest
import torch
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from torch import nn

import seedbed as sb
from seedbed.errors import PlanError, UnmatchedError
from seedbed.fill import fill, pieces
from seedbed.initializers import (
    Custom,
    HeNormal,
    Identity,
    Keep,
    Mixture,
    Normal,
    Ones,
    Orthogonal,
    Overlay,
    Recorded,
    Sparse,
    Uniform,
    XavierUniform,
    Zeros,
)
from seedbed.region import Region
from seedbed.shard import Shard
from seedbed.spec import Layout, captured

SPIKES = Mixture([(0.5, Zeros()), (0.25, Uniform(low=5, high=10)), (0.25, Uniform(low=-10, high=-5))])
WEIGHTS = sb.Where(role="weight")
RECIPES = {
    "own": None,
    "he": "he",
    "xavier": "xavier",
    "orthogonal": {WEIGHTS: Orthogonal(gain=2.0), "*": Zeros()},
    "spikes": {WEIGHTS: SPIKES, "*": Normal(std=0.1)},
    "he out": {WEIGHTS: HeNormal(fan="out"), "*": Ones()},
    "torch": {WEIGHTS: nn.init.xavier_normal_, "*": nn.init.zeros_},
}
QKV = {"*.qkv.*": sb.Parts(("*.q.*", "*.k.*", "*.v.*"), sizes=(32, 16, 16))}
GATE_UP = {"*.gate_up.*": sb.Parts(["*.gate.*", "*.up.*"])}
EXPERTS = {
    "*.weight": sb.Parts("*.experts.{}.weight", stacked=True, order=(1, 0), axes=("out", "in"), role="weight"),
    "*.bias": sb.Parts("*.experts.{}.bias", stacked=True, role="bias"),
}


def block(fused):
    """GQA's projections and a gated pair, in one array each or apart."""
    if fused:
        return nn.ModuleDict({"qkv": nn.Linear(32, 64), "gate_up": nn.Linear(32, 48, bias=False)})
    sizes = {"q": 32, "k": 16, "v": 16}
    return nn.ModuleDict(
        {
            **{name: nn.Linear(32, n) for name, n in sizes.items()},
            **{n: nn.Linear(32, 24, bias=False) for n in ("gate", "up")},
        }
    )


def blocks(fused, count=2):
    return nn.ModuleDict({"h": nn.ModuleList(block(fused) for _ in range(count)), "head": nn.Linear(32, 5)})


class Experts(nn.Module):
    """Experts stacked, (expert, in, out)."""

    def __init__(self, experts=3, into=8, out=6):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, into, out))
        self.bias = nn.Parameter(torch.zeros(experts, out))


def held(plan):
    """Every array of a plan, filled."""
    return {entry.spec.path: fill(entry) for entry in plan}


def specs(shape, **facts):
    return sb.Specs((sb.ParamSpec(path="a.all.w", shape=shape, **facts),))


@pytest.mark.parametrize("recipe", RECIPES)
def test_packed_projections_start_as_separate_ones(recipe):
    apart = dict(sb.initialize(blocks(False), recipe=RECIPES[recipe], seed=3).named_parameters())
    fused = sb.initialize(blocks(True), recipe=RECIPES[recipe], seed=3, parts=QKV | GATE_UP)
    for name, value in fused.named_parameters():
        found = [p for n, p in apart.items() if n.replace(".q.", ".qkv.").replace(".gate.", ".gate_up.") == name]
        first = next(n for n, p in apart.items() if p is found[0])
        others = [first.replace(".q.", f".{o}.") for o in "kv"] if ".qkv." in name else []
        others += [first.replace(".gate.", ".up.")] if ".gate_up." in name else []
        assert torch.equal(value, torch.cat([apart[n] for n in (first, *others)])), name


def test_fans_are_those_of_the_parts():
    plan = sb.plan(blocks(True), recipe="xavier", parts=QKV | GATE_UP)
    alone = sb.plan(blocks(False), recipe="xavier")
    for entry in alone:
        assert plan[entry.spec.path].start == entry.start
    assert sb.plan(blocks(True), recipe="xavier")["h.0.qkv.weight"].start not in {e.start for e in alone}


@pytest.mark.parametrize("recipe", ["he", "xavier", "orthogonal", "spikes", "he out", "torch"])
def test_stacked_experts_start_as_a_list_of_layers(recipe):
    fused = sb.initialize(nn.ModuleDict({"mlp": Experts()}), recipe=RECIPES[recipe], parts=EXPERTS)
    layers = nn.ModuleList(nn.Linear(8, 6) for _ in range(3))
    apart = nn.ModuleDict({"mlp": nn.ModuleDict({"experts": layers})})
    apart = sb.initialize(apart, recipe=RECIPES[recipe])
    for number, layer in enumerate(apart.mlp.experts):
        assert torch.equal(fused.mlp.weight[number], layer.weight.T)
        assert torch.equal(fused.mlp.bias[number], layer.bias)


def test_heads_that_lie_together_start_as_separate_projections():
    heads = {"qkv.*": sb.Parts(("q.*", "k.*", "v.*"), sizes=(4, 2, 2), repeats=3)}
    recipe = {WEIGHTS: XavierUniform(), "*": Normal(std=1.0)}
    fused = sb.initialize(nn.ModuleDict({"qkv": nn.Linear(5, 24)}), recipe=recipe, parts=heads)["qkv"]
    apart = sb.initialize(
        nn.ModuleDict({n: nn.Linear(5, s) for n, s in zip("qkv", (12, 6, 6), strict=True)}), recipe=recipe
    )
    weights = [apart[name].weight.reshape(3, -1, 5) for name in "qkv"]
    assert torch.equal(fused.weight, torch.cat(weights, 1).reshape(24, 5))
    biases = [apart[name].bias.reshape(3, -1) for name in "qkv"]
    assert torch.equal(fused.bias, torch.cat(biases, 1).reshape(24))


def test_what_an_array_holds_may_hold_more():
    parts = {
        "mlp.weight": sb.Parts("mlp.{}.gate_up", stacked=True, order=(1, 0), axes=("out", "in"), role="weight"),
        "mlp.*.gate_up": sb.Parts(("mlp.*.gate.weight", "mlp.*.up.weight"), sizes=(2, 4)),
    }
    net = nn.ModuleDict({"mlp": Experts()})
    plan = sb.plan(net, recipe={"*.bias": Zeros(), "*": Orthogonal()}, parts=parts)
    apart = nn.ModuleDict(
        {
            "mlp": nn.ModuleList(
                nn.ModuleDict({"gate": nn.Linear(8, 2, bias=False), "up": nn.Linear(8, 4, bias=False)})
                for _ in range(3)
            )
        }
    )
    apart = sb.initialize(apart, recipe=Orthogonal())
    sb.materialize(plan, net)
    for number, layer in enumerate(apart.mlp):
        assert torch.equal(net.mlp.weight[number], torch.cat([layer.gate.weight, layer.up.weight]).T)
    assert [e.spec.path for e in plan.all()][:4] == [
        "mlp.weight",
        "mlp.0.gate_up",
        "mlp.0.gate.weight",
        "mlp.0.up.weight",
    ]
    assert sb.Plan.from_json(plan.to_json()) == plan
    assert "· · mlp.2.up.weight" in str(plan)


class Layer(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        return linen.Dense(7, name="up")(x) @ np.ones((7, 5), np.float32), None


class Stack(linen.Module):
    count: int

    @linen.compact
    def __call__(self, x):
        scan = linen.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.count)
        return scan(name="layers")(x, None)[0]


class Apart(linen.Module):
    count: int

    @linen.compact
    def __call__(self, x):
        for number in range(self.count):
            x, _ = Layer(name=f"layers_{number}")(x, None)
        return x


LAYERS = {"*layers.*": sb.Parts("*layers_{}.*", stacked=True)}


@pytest.mark.parametrize(
    "start",
    [HeNormal(), XavierUniform(), SPIKES, jax.nn.initializers.orthogonal()],
    ids=["he", "xavier", "spikes", "jax"],
)
def test_layers_stacked_for_scan_start_as_separate_ones(start):
    recipe = {WEIGHTS: start, "*": Normal(std=1.0)}
    stacked = sb.initialize(Stack(3), (2, 5), recipe=recipe, parts=LAYERS)["params"]["layers"]["up"]
    apart = sb.initialize(Apart(3), (2, 5), recipe=recipe)["params"]
    for number in range(3):
        for name in ("kernel", "bias"):
            assert (stacked[name][number] == apart[f"layers_{number}"]["up"][name]).all()


@pytest.mark.parametrize("recipe", [None, "he", Orthogonal()], ids=str)
def test_layers_that_vmap_stacks_start_as_separate_ones(recipe):
    def layer(rngs):
        return nnx.Linear(5, 7, rngs=rngs)

    class Two(nnx.Module):
        def __init__(self, layers):
            self.layers = layers

    stacked = Two(nnx.vmap(layer)(nnx.Rngs(0).split(3)))
    apart = Two(nnx.List([layer(nnx.Rngs(n)) for n in range(3)]))
    recipe = {WEIGHTS: recipe, "*": Zeros()} if isinstance(recipe, Orthogonal) else recipe
    parts = {"layers.*": sb.Parts("layers.{}.*", stacked=True)}
    stacked, apart = sb.initialize(stacked, recipe=recipe, parts=parts), sb.initialize(apart, recipe=recipe)
    for number, one in enumerate(apart.layers):
        assert (stacked.layers.kernel[number] == one.kernel[...]).all()
        assert (stacked.layers.bias[number] == one.bias[...]).all()


def test_shards_of_stacked_layers_are_those_of_the_whole():
    mesh = Mesh(np.array(jax.devices()[:1]), ("x",))
    where = NamedSharding(mesh, PartitionSpec(None, "x"))
    for start in (Normal(std=1.0), Orthogonal()):
        recipe = {WEIGHTS: start, "*": Zeros()}
        whole = sb.initialize(Stack(3), (2, 5), recipe=recipe, parts=LAYERS)["params"]["layers"]["up"]["kernel"]
        cut = sb.initialize(Stack(3), (2, 5), recipe=recipe, parts=LAYERS, sharding={"layers.up.kernel": where})
        assert (cut["params"]["layers"]["up"]["kernel"] == whole).all()


def test_fused_kernels_of_keras_start_as_separate_ones():
    def net(**layers):
        into = keras.Input((6,))
        return keras.Model(into, [keras.layers.Dense(n, name=name)(into) for name, n in layers.items()])

    parts = {
        "qkv.kernel": sb.Parts(("q.kernel", "k.kernel", "v.kernel"), axis=-1, sizes=(4, 2, 2)),
        "qkv.bias": sb.Parts(("q.bias", "k.bias", "v.bias"), sizes=(4, 2, 2)),
    }
    recipe = {WEIGHTS: Orthogonal(), "*": Normal(std=1.0)}
    fused = sb.initialize(net(qkv=8), recipe=recipe, parts=parts)
    apart = sb.initialize(net(q=4, k=2, v=2), recipe=recipe)
    for number in range(2):
        found = [np.asarray(layer.weights[number]) for layer in apart.layers[1:]]
        assert np.array_equal(np.asarray(fused.layers[1].weights[number]), np.concatenate(found, -1))
    assert sb.check(fused, sb.plan(fused, recipe=recipe, parts=parts))


def test_a_block_put_between_changes_no_other():
    few, many = (held(sb.plan(blocks(True, n), recipe="xavier", parts=QKV | GATE_UP)) for n in (2, 3))
    assert len(many) == len(few) + 3
    assert all(np.array_equal(values, many[path]) for path, values in few.items())


STARTS = [
    Normal(std=0.5),
    SPIKES,
    Orthogonal(),
    Sparse(sparsity=0.3),
    Identity(),
    Custom(lambda draw, spec: draw.normal() + draw.uniform()),
    Overlay(base=Normal(std=1.0), boxes=((((0, 1), (0, 1)), Ones()),)),
]


@st.composite
def arrays(draw):
    """A shape, how it is cut into matrices, a layout of it and a region."""
    stacked = draw(st.booleans())
    shape = tuple(draw(st.integers(1, 5)) for _ in range(3 if stacked else 2))
    axis = draw(st.integers(0, len(shape) - 1))
    cuts = sorted(draw(st.sets(st.integers(1, shape[axis]), max_size=3)) - {shape[axis]})
    sizes = tuple(b - a for a, b in zip([0, *cuts], [*cuts, shape[axis]], strict=True))
    repeats = 1 if stacked else draw(st.integers(1, 3))
    shape = (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :])
    names = "p.{}" if stacked else tuple(f"p.{n}" for n in range(len(sizes)))
    order = draw(st.sampled_from([None, (0, 1), (1, 0)]))
    own = axis - len(shape) if draw(st.booleans()) else axis
    parts = sb.Parts(names, axis=own, sizes=None if stacked else sizes, repeats=repeats, stacked=stacked, order=order)
    flat = draw(st.permutations(range(len(shape))))
    layout = draw(st.sampled_from([None, Layout(order=tuple((a,) for a in flat))]))
    ends = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
    return shape, parts, layout, Region(tuple(a for a, _ in ends), tuple(b for _, b in ends))


@pytest.mark.parametrize("start", STARTS, ids=lambda s: type(s).__name__)
@given(arrays())
@settings(max_examples=60, deadline=None)
def test_any_region_of_an_array_holds_its_parts_numbers(start, case):
    shape, parts, layout, region = case
    (entry,) = sb.plan(specs(shape, layout=layout), recipe=start, parts={"a.all.w": parts})
    axis = parts.axis % len(shape)
    apart = []
    for _, part in entry.parts:
        flat = [g[0] for g in layout.groups(len(shape)) if g[0] != axis or not parts.stacked] if layout else None
        left = [a for a in range(len(shape)) if a != axis or not parts.stacked]
        place = [left[n] for n in parts.order or range(len(left))]
        alone = Layout(order=tuple((place.index(a),) for a in flat)) if flat else None
        whole = sb.ParamSpec(path=part.spec.path, shape=part.spec.shape, layout=alone)
        values = fill(sb.plan(sb.Specs((whole,)), recipe=start)[part.spec.path])
        values = values.transpose(np.argsort(parts.order)) if parts.order else values
        apart.append(np.expand_dims(values, axis) if parts.stacked else values)
    runs = [np.split(values, parts.repeats, axis) for values in apart]
    expected = np.concatenate([run[n] for n in range(parts.repeats) for run in runs], axis)
    assert np.array_equal(fill(entry), expected)
    assert np.array_equal(fill(entry, region), expected[region.slices])
    turned = np.zeros(region.shape[::-1], np.float32).T
    assert np.array_equal(fill(entry, region, turned), expected[region.slices])


@given(arrays(), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_blocks_of_an_array_follow_each_other_and_cut_no_whole_part_twice(case, most):
    shape, parts, layout, _ = case
    for start in (Normal(std=1.0), Orthogonal()):
        (entry,) = sb.plan(specs(shape, layout=layout), recipe=start, parts={"a.all.w": parts})
        found = [here for _, here in pieces(entry, most)]
        places = np.arange(math.prod(shape)).reshape(shape)
        assert [n for region in found for n in places[region.slices].reshape(-1)] == list(range(places.size))
        if start == Orthogonal():
            ahead = math.prod(shape[: parts.axis % len(shape)])
            assert len(found) == (len(entry.parts) if ahead == parts.repeats == 1 else 1)
        else:
            assert max(math.prod(region.shape) for region in found) <= most


@given(arrays(), st.integers(1, 30), st.data())
@settings(max_examples=60, deadline=None)
def test_a_shard_of_an_array_is_that_part_of_it(case, most, data):
    shape, parts, layout, _ = case
    axis, count = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.integers(1, 4))
    for start in (Normal(std=1.0), Orthogonal()):
        (entry,) = sb.plan(specs(shape, layout=layout), recipe=start, parts={"a.all.w": parts})
        whole = fill(entry)
        for number in range(count):
            shard = Shard.whole(shape).cut(axis, count, number, pieces=data.draw(st.integers(1, 2)))
            made = np.zeros(shard.shape, np.float32)
            for there, here in pieces(entry, most, shard):
                fill(entry, there, made[here.slices])
            places = [np.concatenate([np.arange(*run) for run in runs]) for runs in shard.runs]
            assert np.array_equal(made, whole[np.ix_(*places)])


def test_parts_that_are_numbers_and_empty_stacks():
    (entry,) = sb.plan(specs((3,)), recipe=Normal(std=1.0), parts={"*": sb.Parts("b.{}", stacked=True)})
    assert [e.spec.shape for _, e in entry.parts] == [()] * 3
    for number, value in enumerate(fill(entry)):
        (alone,) = sb.plan(sb.Specs((sb.ParamSpec(path=f"b.{number}", shape=()),)), recipe=Normal(std=1.0))
        assert value == fill(alone)
    (none,) = sb.plan(specs((0, 2)), recipe=Normal(std=1.0), parts={"*": sb.Parts("b.{}", stacked=True)})
    assert fill(none).shape == (0, 2)


def test_a_file_of_fused_arrays_holds_what_separate_ones_hold(tmp_path):
    recipe = {WEIGHTS: Orthogonal(), "*": Zeros()}
    plan = sb.plan(blocks(True), recipe=recipe, parts=QKV | GATE_UP)
    (file,) = sb.write(plan, tmp_path / "a.safetensors")
    assert sb.check(file, plan)
    assert not sb.check(file, sb.plan(blocks(True), recipe=recipe))
    net = sb.materialize(plan, blocks(True))
    with torch.no_grad():
        net.h[0].qkv.weight[40, 1] += 1
    findings = sb.check(net, plan)
    assert [f.path for f in findings.different] == ["h.0.qkv.weight"]
    assert "first at [40, 1]" in findings["h.0.qkv.weight"].detail


def test_a_plan_with_parts_is_data():
    made = sb.plan(blocks(True), recipe="xavier", parts=QKV | GATE_UP)
    assert sb.Plan.from_json(made.to_json()) == made
    assert made.summary.startswith("8 parameters and buffers: ")
    assert made["h.1.k.weight"].spec.shape == (16, 32)
    assert np.array_equal(fill(made["h.1.k.weight"]), fill(made["h.1.qkv.weight"])[32:48])
    folded = made.table(fold=True, width=200)
    assert "h.{0-1}.qkv.weight" in folded
    assert "· h.{0-1}.q.weight" in folded


def test_fingerprints_and_differences_know_the_parts():
    def planned(**facts):
        parts = sb.Parts(("b.q", "b.k"), **{"sizes": (2, 2), **facts})
        return sb.plan(specs((4, 4)), recipe=Normal(std=1.0), parts={"a.*": parts})

    plans = [planned(), planned(sizes=(1, 3)), planned(axis=1), planned(order=(1, 0)), planned(sizes=(1, 1), repeats=2)]
    plans += [sb.plan(specs((4, 4)), recipe=Normal(std=1.0))]
    assert len({p.fingerprint() for p in plans}) == len(plans)
    assert planned().fingerprint() == planned().fingerprint()
    assert not planned().diff(planned())
    assert all(sb.Plan.from_json(p.to_json()) == p for p in plans)
    assert all(planned().diff(other) for other in plans[1:])
    assert (
        "a.all.w",
        "parts",
        "b.q at 0:2 of axis 0, b.k at 2:4 of axis 0",
        "b.q at 0:2 of axis 1, b.k at 2:4 of axis 1",
    ) in (planned().diff(planned(axis=1)).rows)
    other = sb.plan(
        specs((4, 4)), recipe={"b.q": Ones(), "*": Normal(std=1.0)}, parts={"a.*": sb.Parts(("b.q", "b.k"))}
    )
    assert ("b.q", "starts as", "Normal(std=1)", "Ones()") in planned().diff(other).rows
    assert other.fingerprint() != planned().fingerprint()


def test_names_of_streams_are_those_of_the_parts():
    streams = {f"h.{n}.{o}.weight": f"{n}.{o}" for n in range(2) for o in "qkv"}
    fused = held(sb.plan(blocks(True), recipe="he", parts=QKV, streams=streams))
    apart = held(sb.plan(blocks(False), recipe="he", streams=streams))
    assert np.array_equal(fused["h.1.qkv.weight"], np.concatenate([apart[f"h.1.{o}.weight"] for o in "qkv"]))
    positions = sb.plan(blocks(True), recipe="he", parts=QKV | GATE_UP, streams="position")
    expected = sb.plan(blocks(False), recipe="he", streams="position")
    assert all(positions[e.spec.path].stream == e.stream for e in expected)


def test_rules_see_the_parts_and_not_the_array():
    plan = sb.plan(block(True), recipe={"*q.weight": Ones(), "*": Zeros()}, parts={"qkv.*": sb.Parts(("q.*", "k.*"))})
    assert fill(plan["qkv.weight"]).sum(1).tolist() == [32.0] * 32 + [0.0] * 32
    with pytest.raises(UnmatchedError) as caught:
        sb.plan(
            nn.ModuleDict({"qkv": nn.Linear(2, 2)}),
            recipe={"qkv.*": Zeros()},
            parts={"qkv.*": sb.Parts(("q.*", "k.*"))},
        )
    assert caught.value.paths == ("q.weight", "k.weight", "q.bias", "k.bias")


def test_packed_counts_fall_with_the_cut():
    spec = specs((12, 4), axes=("out", "in"), packed=(3, 1), role="weight")
    for names, packed in ((("q", "k", "v"), ()), (("q",), (3, 1))):
        plan = sb.plan(spec, recipe=HeNormal(fan="out"), parts={"*": sb.Parts(names)})
        assert plan["q"].spec.packed == packed
        assert plan["q"].start == Normal(std=math.sqrt(2 / 4))
    halves = sb.plan(specs((12, 4), packed=(4, 1)), recipe=Zeros(), parts={"*": sb.Parts(("p", "q"))})
    assert halves["p"].spec.packed == (2, 1)


def test_stacks_lose_their_axis_and_names_may_tell_its_places():
    spec = specs((2, 6, 4), axes=("stack", "out", "in"), role="weight")
    plan = sb.plan(spec, recipe=HeNormal(), parts={"*.all.*": sb.Parts(("*.q.*", "*.k.*"), stacked=True)})
    assert [(e.spec.path, e.spec.axes, e.spec.shape) for e in plan.all()][1:] == [
        ("a.q.w", ("out", "in"), (6, 4)),
        ("a.k.w", ("out", "in"), (6, 4)),
    ]


def test_ties_are_ties_of_the_parts():
    net = nn.ModuleDict({"a": nn.ModuleDict({"qkv": nn.Linear(4, 6)}), "b": nn.ModuleDict({"qkv": nn.Linear(4, 6)})})
    net["b"]["qkv"].weight = net["a"]["qkv"].weight
    plan = sb.plan(net, recipe={"b.q.weight": Ones(), "*": Zeros()}, parts={"*.qkv.*": sb.Parts(("*.q.*", "*.kv.*"))})
    assert plan["a.q.weight"].spec.aliases == ("b.q.weight",)
    assert plan["a.q.weight"].start == Ones()


def own(shape, start, **facts):
    """The plan of an array in two parts that start as it does."""
    return sb.plan(specs(shape, start=start, **facts), parts={"*": sb.Parts(("p.q", "p.k"))})


def test_own_starts_of_single_elements_are_those_of_the_parts():
    boxes = ((((1, 3), (0, 1)), Ones()), (((3, 4), (1, 2)), Zeros()))
    plan = own((4, 2), Overlay(base=Normal(std=1.0), boxes=boxes), origin="there")
    assert plan["p.q"].start == Overlay(base=Normal(std=1.0), boxes=((((1, 2), (0, 1)), Ones()),))
    assert plan["p.k"].start == Overlay(
        base=Normal(std=1.0), boxes=((((0, 1), (0, 1)), Ones()), (((1, 2), (1, 2)), Zeros()))
    )
    assert own((4, 2), Overlay(base=SPIKES, boxes=boxes[:1]))["p.q"].start.base == SPIKES
    assert plan["p.q"].why == "there"
    he = own((4, 2), XavierUniform(), axes=("out", "in"))
    assert he["p.q"].start == XavierUniform().resolve(he["a.all.w"].spec)


def test_other_starts_of_its_own_leave_an_array_whole():
    computed = Recorded(text="x", digest="0")
    for start in (Orthogonal(), computed, Overlay(base=Zeros(), boxes=((((0, 1), (0, 2)), computed),)), None):
        (entry,) = own((4, 2), start)
        (alone,) = sb.plan(specs((4, 2), start=start))
        assert entry == dataclasses.replace(alone, why=f"{alone.why}, as a whole")
    (entry,) = sb.plan(specs((4, 2)), recipe={"p.*": Keep(values=True)}, parts={"*": sb.Parts(("p.q", "p.k"))})
    assert entry.kept
    assert entry.why == "rule 1: 'p.*', as a whole"
    stack = specs((2, 3, 3), start=Orthogonal(), axes=("stack", "out", "in"))
    assert sb.plan(stack, parts={"*": sb.Parts("p.{}", stacked=True)})["p.1"].start == Orthogonal()


def test_a_checkpoint_of_the_array_comes_first(tmp_path):
    net = nn.ModuleDict({"qkv": nn.Linear(4, 6)})
    (file,) = sb.write(
        sb.plan(net, recipe={"qkv.weight": Ones(), "*": Keep(values=True)}), tmp_path / "a.safetensors", model=net
    )
    recipe = {"*.weight": Zeros(), "*": Normal(std=1.0)}
    plan = sb.plan(net, recipe=recipe, checkpoint=file, parts={"qkv.*": sb.Parts(("q.*", "k.*", "v.*"))})
    assert (fill(plan["qkv.weight"]) == 1).all()
    assert plan["qkv.weight"].why == "the checkpoint, as a whole"


class Deferred(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.trunk = blocks(fused)
        for name, weight in self.named_parameters():
            nn.init.normal_(weight, std=0.02 if "weight" in name else 1.0)


def test_what_a_constructor_draws_is_drawn_for_the_parts():
    with sb.deferred():
        fused, apart = Deferred(True), Deferred(False)
    plan, other = sb.plan(fused, parts=QKV | GATE_UP), sb.plan(apart)
    assert all(plan[e.spec.path].start == e.start for e in other)
    assert np.array_equal(
        held(plan)["trunk.h.1.gate_up.weight"],
        np.concatenate([held(other)[f"trunk.h.1.{n}.weight"] for n in ("gate", "up")]),
    )
    alone, apart = sb.plan(fused.trunk, parts=QKV | GATE_UP), sb.plan(apart.trunk)
    assert [e.stream for e in apart] == [alone[e.spec.path].stream for e in apart]
    assert alone["h.0.q.weight"].stream == "trunk.h.0.q.weight"


def test_copies_stay_copies():
    def built(fused):
        with sb.deferred():
            first = block(fused)
            return nn.ModuleDict({"h": nn.ModuleList([first, copy.deepcopy(first)])})

    fused, apart = held(sb.plan(built(True), parts=QKV | GATE_UP)), held(sb.plan(built(False)))
    assert np.array_equal(fused["h.0.qkv.weight"], fused["h.1.qkv.weight"])
    assert np.array_equal(fused["h.0.qkv.bias"], np.concatenate([apart[f"h.1.{o}.bias"] for o in "qkv"]))
    only = sb.plan(built(True), parts={"h.1.qkv.*": sb.Parts(("q.*", "k.*", "v.*"), sizes=(32, 16, 16))})
    assert not only["h.1.qkv.weight"].parts, "the start of the whole, which is that of an array without parts"
    assert np.array_equal(fill(only["h.1.qkv.weight"]), fill(only["h.0.qkv.weight"]))


def test_what_stars_stand_for():
    assert captured("*.a.*", "x.a.a.y") == ["x", "a.y"]
    assert captured("h.?.w", "h.1.w") == []
    assert captured("h.[0*].w", "h.*.w") == []
    assert captured("h.**", "h.1.w") == ["1.w"]
    assert captured("h", "g") is None


@pytest.mark.parametrize(
    "starts",
    [{"p.q": Ones(), "*": Keep(values=True)}, {"p.q": Ones(), "*": Keep()}, {"p.q": Keep(), "*": Keep(values=True)}],
)
def test_an_array_that_is_kept_is_kept_whole(starts):
    with pytest.raises(PlanError, match="some of its parts start by themselves"):
        sb.plan(specs((4, 2), start=Orthogonal()), recipe=starts, parts={"*": sb.Parts(("p.q", "p.k"))})
