"""Chains: what treats each element by itself is computed for any region alone, equal to the whole bit for bit."""

import math
import random
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy import special
from tests.frameworks.pairs import same
from tests.strategies import bits
from torch import nn

import seedbed as sb
from seedbed.fill import Draw, fill
from seedbed.frameworks.torch import chains
from seedbed.frameworks.torch.place import view_of
from seedbed.initializers import Chain, Recorded
from seedbed.plan import key
from seedbed.region import Region, blocks

SHAPES = [(5000,), (2048,), (2049,), (70, 300), (3, 41, 57), (1, 2500), (2500, 1), (9, 5)]

# Each in PyTorch's words and, of the same numbers, in NumPy's.
BEGINNINGS = [
    ("torch.rand(SHAPE, dtype=DT)", "draw.uniform()"),
    ("torch.randn(SHAPE, dtype=DT)", "draw.normal()"),
    ("torch.empty(SHAPE, dtype=DT).uniform_(0.2, 3)", "draw.uniform(0.2, 3)"),
    ("torch.empty(SHAPE, dtype=DT).exponential_(2.0)", "-np.log1p(-draw.uniform().astype(float)) / 2"),
    ("torch.empty(SHAPE, dtype=DT).log_normal_(0, 0.3)", "np.exp(draw.normal() * 0.3)"),
    ("nn.init.trunc_normal_(torch.empty(SHAPE, dtype=DT), 0, 1, -2, 1.5)", "cut(draw.uniform())"),
]
STEPS = [
    ("x = torch.exp(x.clamp(-3, 3))", "x = np.exp(x.clip(-3, 3))"),
    ("x = torch.exp2(x.clamp(-3, 3))", "x = np.exp2(x.clip(-3, 3))"),
    ("x = torch.expm1(x.clamp(max=2))", "x = np.expm1(x.clip(None, 2))"),
    ("x = torch.log(x.abs() + 0.5)", "x = np.log(abs(x) + 0.5)"),
    ("x = torch.log1p(x.abs())", "x = np.log1p(abs(x))"),
    ("x = torch.erfinv(x.clamp(-0.9, 0.9))", "x = special.erfinv(x.clip(-0.9, 0.9))"),
    ("x = torch.sqrt(x * x + 0.1)", "x = np.sqrt(x * x + 0.1)"),
    ("x = (x.abs() + 0.1) ** 1.7", "x = (abs(x) + 0.1) ** 1.7"),
    ("x = torch.where(x > 0.3, x, x * 0.5)", "x = np.where(x > 0.3, x, x * 0.5)"),
    ("x = -x", "x = -x"),
    ("x = x + x", "x = x + x"),
    ("x = x * torch.rand(SHAPE, dtype=DT)", "x = x * draw.uniform()"),
    ("x = x + torch.randn_like(x)", "x = x + draw.normal()"),
    ("x = x - torch.tensor(0.25)", "x = x - 0.25"),
    ("x = torch.full((), 0.5, dtype=DT).expand(SHAPE) * x", "x = 0.5 * x"),
    ("x.mul_(0.5).add_(1)", "x = x * 0.5 + 1"),
    ("x.sigmoid_()", "x = special.expit(x)"),
    ("x.copy_(x.double().sin())", "x = np.sin(x)"),
    ("x = x.reshape(-1).tanh().reshape(SHAPE)", "x = np.tanh(x)"),
    ("x = torch.maximum(x, torch.full_like(x, 0.2))", "x = np.maximum(x, 0.2)"),
    ("x = torch.addcmul(x, x, torch.ones_like(x), value=0.1)", "x = x + 0.1 * x"),
    ("x = x.masked_fill(x > 2, 0.7)", "x = np.where(x > 2, 0.7, x)"),
]
LAST = [STEPS[1], STEPS[7], ("x = torch.sigmoid(x)", "x = special.expit(x)")]
"""Those that have shown other last bits at the end of an array."""


def chain(seed):
    """Lines that make an `x`, in both languages, a shape and a dtype."""
    rng = random.Random(seed)
    lines = [rng.choice(STEPS) for _ in range(rng.randint(0, 6))] + [rng.choice(LAST)]
    first = rng.choice(BEGINNINGS)
    ours, theirs = (["x = " + first[n], *(line[n] for line in lines)] for n in (0, 1))
    return "\n".join(ours), "\n".join(theirs), rng.choice(SHAPES), rng.choice(["float32", "bfloat16", "float64"])


def build(source, **names):
    """A model whose parameter `w` is the `x` that lines of code make; other names that they set are buffers."""
    scope = {"torch": torch, "nn": nn, "math": math, **names}
    exec(textwrap.dedent(source), scope)
    net = nn.Module()
    net.w = nn.Parameter(scope["x"])
    for name in ("y", "z"):
        if name in scope:
            net.register_buffer(name, scope[name])
    return net


def planned(source, **names):
    """The plan of such a model, and the model."""
    with sb.deferred():
        net = build(source, **names)
    return sb.plan(net), net


def reference(source, shape):
    """What NumPy makes in double precision of the same numbers."""

    def cut(u):
        low, high = special.ndtr(-2), special.ndtr(1.5)
        return special.ndtri(low + (high - low) * u.astype(float))

    scope = {"np": np, "special": special, "draw": Draw(key(0, ["w"]), shape, Region.whole(shape)), "cut": cut}
    with np.errstate(all="ignore"):
        exec(source.replace("x = draw", "x = 0.0 + draw", 1), scope)
    return scope["x"].astype(np.float64)


def cuts(rng, shape):
    """Regions that together are the whole."""
    region = Region.whole(shape)
    todo, done = [region], []
    while todo:
        region = todo.pop()
        axes = [n for n, size in enumerate(region.shape) if size > 1]
        if not axes or rng.random() < 0.25:
            done.append(region)
            continue
        axis = rng.choice(axes)
        at = rng.randint(region.start[axis] + 1, region.stop[axis] - 1)
        stop, start = list(region.stop), list(region.start)
        stop[axis] = start[axis] = at
        todo += [Region(region.start, tuple(stop)), Region(tuple(start), region.stop)]
    return done


@pytest.mark.parametrize("first", range(0, 120, 30))
def test_regions_of_random_chains_are_those_of_the_whole(first):
    for seed in range(first, first + 30):
        rng = random.Random(seed)
        ours, theirs, shape, dtype = chain(seed)
        plan, net = planned(ours, SHAPE=shape, DT=getattr(torch, dtype))
        (entry,) = plan
        assert type(entry.start) is Chain, ours
        whole = fill(entry)
        joined = np.zeros_like(whole)
        for region in cuts(rng, shape):
            fill(entry, region, joined[region.slices])
        assert (bits(joined) == bits(whole)).all(), ours
        sb.materialize(plan, net, threads=rng.choice([1, 3]))
        assert (bits(view_of(net.w.detach(), dtype)) == bits(whole)).all(), ours
        if dtype != "bfloat16":
            close = np.isclose(whole, reference(theirs, shape), rtol=1e-3, atol=1e-4)
            assert close.mean() > 0.998, f"{close.mean()} of\n{ours}"


MAMBA = """
    dt = torch.exp(torch.rand(SHAPE) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)).clamp(min=1e-4)
    x = dt + torch.log(-torch.expm1(-dt))
"""
ROUGH = "x = torch.sigmoid(torch.exp2(torch.rand(SHAPE))) ** 1.7"


def test_the_plan_says_that_a_chain_is_one():
    plan, _ = planned(MAMBA, SHAPE=(5000,))
    assert str(plan["w"].start) == "elementwise: rand, mul, 7 more, add"
    again = sb.Plan.from_json(plan.to_json())
    assert again["w"].start == plan["w"].start


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(count):
    plan, net = planned(ROUGH, SHAPE=(300, 4001))
    (entry,) = plan
    whole, before = fill(entry), torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        assert (bits(fill(entry)) == bits(whole)).all()
        sb.materialize(plan, net, threads=count)
    finally:
        torch.set_num_threads(before)
    assert (bits(net.w.detach().numpy()) == bits(whole)).all()
    with ThreadPoolExecutor(count) as pool:
        parts = [*pool.map(lambda region: fill(entry, region), blocks((300, 4001), 30_000))]
    assert (bits(np.concatenate([p.reshape(-1) for p in parts])) == bits(whole.reshape(-1))).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_shards_are_those_of_the_whole(axis):
    (entry,), _ = planned(ROUGH, SHAPE=(264, 520))
    whole, size = fill(entry), (264, 520)[axis]
    for n in range(8):
        start, stop = [0, 0], [264, 520]
        start[axis], stop[axis] = size * n // 8, size * (n + 1) // 8
        region = Region(tuple(start), tuple(stop))
        out = np.empty(region.shape[::-1], np.float32).T  # any strides
        assert (bits(fill(entry, region, out)) == bits(whole[region.slices])).all()


def test_only_the_blocks_of_a_region_are_computed(monkeypatch):
    (entry,), _ = planned(ROUGH, SHAPE=(8192, 8192))
    done, carry_out = [], chains._carry_out
    monkeypatch.setattr(chains, "_carry_out", lambda step, *rest: (done.append(step), carry_out(step, *rest)))
    fill(entry, Region((8191, 8000), (8192, 8192)))
    assert len(done) == len(set(map(id, done))) == 4  # each operation once: rand, exp2, sigmoid, pow
    done.clear()
    fill(entry, Region((4000, 100), (4003, 101)))
    assert len(done) == 3 * 4


LARGE = """
import resource, sys
import torch, seedbed as sb
from torch import nn
from seedbed.fill import fill
from seedbed.region import Region, blocks
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.sigmoid(torch.exp(torch.rand(8192, 8192))))
with sb.deferred():
    net = Net()
(entry,) = sb.plan(net)
fill(entry, Region((0, 0), (1, 1)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for region in [*blocks((8192, 8192), 1 << 20)][::9]:
    fill(entry, region)
fill(entry, Region((0, 4000), (8192, 4008)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // (1024 if sys.platform == "linux" else 1 << 20))
"""


def test_a_large_chain_holds_its_blocks_alone():
    grown = subprocess.run([sys.executable, "-c", LARGE], check=True, capture_output=True, text=True).stdout
    assert int(grown) < 40, f"{grown} MB, and the tensor has 268"


PROGRAMS = {
    "nothing is drawn": "x = torch.log(torch.arange(1, 17.0))",
    "constants": "x = torch.where(torch.ones(3000) > 0, torch.full((3000,), 0.1), torch.zeros(3000)).exp()",
    "sums": "x = torch.rand(50, 60).exp(); x = x / x.sum()",
    "softmax": "x = torch.softmax(torch.rand(3000), 0)",
    "transposed": "x = torch.rand(50, 50).exp(); x = x + x.t()",
    "transposed in place": "x = torch.rand(50, 50).exp(); x.mul_(x.t().contiguous())",
    "laid out otherwise": "x = torch.rand(50, 60).exp().t()",
    "in an order other than its draws": "x = torch.rand(50, 60).t().exp_()",
    "a part": "x = torch.rand(3000).exp(); x[5:10] = x[5:10].log()",
    "every other": "x = torch.rand(3000).exp()[::2]",
    "broadcast rows": "x = torch.rand(60) * torch.randn(50, 60)",
    "a row": "x = torch.rand(50, 60).exp()[3] * 1",
    "one of many": "x = torch.rand(3000).exp(); x = x * x[7]",
    "joined": "x = torch.cat([torch.rand(1500), torch.randn(1500)])",
    "a sequence": "x = torch.rand(3000) * torch.arange(3000)",
    "sorted": "x = torch.randperm(3000).float().exp()",
    "given values": "x = torch.rand(4) * torch.tensor([1.0, 2.0, 3.0, 4.0])",
    "an embedding's padding": "x = nn.Embedding(50, 60, padding_idx=0).weight.detach().exp()",
    "a matrix": "x = nn.init.orthogonal_(torch.empty(50, 60)).exp()",
    "complex": "x = torch.randn(3000, dtype=torch.complex64).exp()",
    "one element": "x = torch.rand(1).exp()",
    "bits": "x = torch.rand(3000).exp(); x = (x.view(torch.int32) + 1).view(torch.float32)",
    "unwritten": "x = torch.empty(3000).mul_(torch.rand(3000))",
}


@pytest.mark.parametrize("source", PROGRAMS.values(), ids=PROGRAMS)
def test_what_is_more_than_elements_stays_a_program(source):
    plan, net = planned(source)
    assert type(plan["w"].start) is Recorded
    assert str(plan["w"].start).startswith("computed: ")
    if "empty(3000)" not in source:
        sb.materialize(plan, net)


CHAINS = {
    "one element drawn": "x = torch.exp(torch.rand(3000) * torch.rand(1))",
    "one element computed": "c = torch.tensor(3.0).log() + 1; x = torch.exp(torch.rand(3000) * c)",
    "one element of two axes": "x = torch.exp(torch.rand(50, 60) * torch.full((1, 1), 0.3, dtype=torch.float64))",
    "whole numbers": "x = torch.randint(0, 9, (3000,)) / 7",
    "a choice": "x = torch.where(torch.rand(3000) < 0.2, torch.randn(3000), torch.bernoulli(torch.rand(3000)))",
    "a layer's weight": "x = nn.Linear(50, 60).weight.detach().exp()",
    "over itself": "x = torch.rand(3000).exp(); x.copy_(x); x.fill_(1); x.copy_(torch.randn(3000).exp())",
    "two results": "x, _ = torch.frexp(torch.randn(3000)); x = x.exp()",
    "mean and spread of each": "x = torch.normal(torch.rand(3000).exp(), torch.rand(3000))",
}


@pytest.mark.parametrize("source", CHAINS.values(), ids=CHAINS)
def test_what_is_still_a_chain(source):
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            plan, net = planned(source)
        finally:
            torch.set_default_dtype(torch.float32)
        entry = plan["w"]
        assert type(entry.start) is Chain, entry.start
        whole = fill(entry)
        joined = np.zeros_like(whole)
        for region in cuts(random.Random(1), whole.shape):
            fill(entry, region, joined[region.slices])
        assert (bits(joined) == bits(whole)).all()
        sb.materialize(plan, net)
        assert (bits(net.w.detach().numpy()) == bits(whole)).all()
        assert np.isfinite(whole).all()
        assert len(np.unique(whole)) > 5


def test_what_reads_a_chain_reads_what_it_holds():
    plan, net = planned(ROUGH + "; y = torch.softmax(x, 0); z = x[5:5007].clone()", SHAPE=(5007,))
    net.held = net.w.detach().clone()
    assert type(plan["y"].start) is type(plan["z"].start) is Recorded
    sb.materialize(plan, net)
    assert torch.equal(net.y, torch.softmax(net.w.detach(), 0))
    assert torch.equal(net.z, net.w.detach()[5:])


def test_a_tensor_that_is_no_parameter_is_made_the_same_way():
    with sb.deferred():
        net = build(ROUGH, SHAPE=(5000,))
        net.held = net.w.detach().clone()
        net.apart = [torch.sigmoid(net.w.detach())]
    sb.initialize(net)
    assert torch.equal(net.held, net.w)
    assert torch.isfinite(net.apart[0]).all()


def test_a_chain_follows_its_model_to_another_dtype():
    plan, net = planned(ROUGH, SHAPE=(50, 60))
    single = sb.materialize(plan, net).w
    _, net = planned(ROUGH, SHAPE=(50, 60))
    net = net.to(torch.bfloat16)
    assert same(sb.initialize(net).w.detach(), single.detach().to(torch.bfloat16))


def test_copies_share_their_draws_and_parts_keep_theirs():
    plan, net = planned(ROUGH + "; y = x.detach().clone()", SHAPE=(5000,))
    sb.materialize(plan, net)
    assert type(plan["y"].start) is Chain
    assert torch.equal(net.w, net.y)
