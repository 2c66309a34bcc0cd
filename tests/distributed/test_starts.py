"""Every way to start a parameter sees the whole of it, whatever part of it a process holds."""

import copy

import pytest
import torch

pytest.importorskip("torch.testing._internal.distributed.fake_pg", reason="this PyTorch has no fake process group")
from tests.distributed.emulated import counted, held, named, process
from tests.strategies import EVERY
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard as Cut
from torch.distributed.tensor import distribute_tensor

import seedbed as sb

WORLD = 4


def rows(model):
    return fully_shard(model)


def cut(*placements, sizes=(WORLD,)):
    """Every parameter and buffer laid out over a mesh."""

    def lay(model):
        mesh = init_device_mesh("cpu", sizes)
        for module in model.modules():
            for kind in (module._parameters, module._buffers):
                for name, t in [(n, t) for n, t in kind.items() if t is not None]:
                    ways = [Cut(p.dim % t.ndim) for p in placements]
                    made = distribute_tensor(t.detach(), mesh, ways, src_data_rank=None)
                    kind[name] = nn.Parameter(made) if isinstance(t, nn.Parameter) else made
        return model

    return lay


def strided(model):
    """Rows cut in two, and each half by `fully_shard`."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    for module in model.modules():
        for name, p in [(n, p) for n, p in module._parameters.items() if p is not None]:
            made = distribute_tensor(p.detach(), mesh["tp"], [Cut(0)], src_data_rank=None)
            module._parameters[name] = nn.Parameter(made)
    return fully_shard(model, mesh=mesh["dp"])


LAYOUTS = {
    "rows": rows,
    "columns": cut(Cut(1)),
    "rows and columns": cut(Cut(0), Cut(1), sizes=(2, 2)),
    "strided": strided,
}


def of_shape(shape):
    """A layer whose weight has this shape."""
    out, into, *window = shape
    layer = nn.Conv1d(into, out, window[0], bias=False) if window else nn.Linear(into, out, bias=False)
    return nn.Sequential(layer)


class Computed(nn.Module):
    """What constructors do besides filling with numbers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 9)
        self.ramp = nn.Parameter(torch.linspace(-1, 1, 54).reshape(9, 6))
        self.chain = nn.Parameter(torch.randn(10, 6).abs().add_(0.5).log())
        self.rotation = nn.Parameter(torch.empty(9, 6))
        nn.init.orthogonal_(self.rotation)
        self.cut_off = nn.Parameter(nn.init.trunc_normal_(torch.empty(9, 6), std=0.02, a=-0.03, b=0.03))
        self.register_buffer("table", torch.outer(torch.arange(9.0), torch.arange(6.0)).cos())
        self.register_buffer("noise", torch.rand(9, 6), persistent=False)


class Layered(nn.Module):
    """What is cut into stages."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 9) for _ in range(3))
        self.head = nn.Linear(9, 2)


def agrees(build, lay, alone, forms=("deferred",), **options):
    """Every rank's part is that part of what one process makes."""
    whole = {path: t.detach().flatten() for path, t in named(alone).items()}
    for rank in range(WORLD):
        with process(rank, WORLD):
            numbers = {path: held(t).long() for path, t in named(lay(counted(build()))).items()}
            for form in forms:
                with torch.device("meta") if form == "meta" else sb.deferred():
                    model = build()
                lay(model)
                sb.initialize(model, **options)
                assert named(model).keys() == whole.keys()
                for path, t in named(model).items():
                    assert torch.equal(held(t), whole[path][numbers[path]]), (rank, path, form)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", EVERY)
def test_an_initializer_sees_the_whole(name, layout):
    start, shape = EVERY[name]
    options = {"recipe": start, "seed": 11}
    alone = sb.initialize(of_shape(shape), **options)
    agrees(lambda: of_shape(shape), LAYOUTS[layout], alone, ("deferred", "meta"), **options)


@pytest.mark.parametrize("layout", ["rows", "rows and columns", "columns", "strided"])
def test_what_a_constructor_computes_is_cut_like_the_rest(layout):
    with sb.deferred():
        alone = Computed()
    agrees(Computed, LAYOUTS[layout], sb.initialize(alone, seed=11), seed=11)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shard_of_a_checkpoint_is_its_slice(layout, tmp_path):
    saved = nn.Linear(6, 9)
    plan = sb.plan(saved, recipe=sb.initializers.Normal(std=3.0), seed=99)
    file = tmp_path / "fc.safetensors"
    sb.write(plan, file)
    alone = sb.initialize(nn.Linear(6, 9), checkpoint=file)
    assert torch.equal(alone.weight, plan.materialize(saved).weight)
    agrees(lambda: nn.Linear(6, 9), LAYOUTS[layout], alone, ("deferred", "meta"), checkpoint=file)


def test_a_stage_is_a_part_of_the_whole():
    """Stages of a pipeline: a layer of the deferred model, the model without its other layers, or streams that say so."""

    def build(where):
        with where:
            return Layered()

    alone = sb.initialize(build(sb.deferred()), seed=5).layers[1]
    layer = build(sb.deferred()).layers[1]
    pruned = build(torch.device("meta"))
    pruned.layers, pruned.head = nn.ModuleDict({"1": pruned.layers[1]}), None
    named = build(torch.device("meta")).layers[1]
    with process(1, WORLD):
        sb.initialize(fully_shard(layer), seed=5)
        sb.initialize(fully_shard(pruned), seed=5)
        streams = {path: f"layers.1.{path}" for path, _ in named.named_parameters()}
        sb.initialize(fully_shard(named), seed=5, streams=streams)
        for found in (layer, pruned.layers["1"], named):
            assert torch.equal(held(found.weight), alone.weight[3:6])
            assert torch.equal(held(found.bias), alone.bias[3:6])


def test_a_model_that_is_sharded_is_planned_as_the_whole():
    with sb.deferred():
        model = Computed()
    plan = sb.plan(copy.deepcopy(model))
    with process(0, WORLD):
        sharded = sb.plan(fully_shard(model))
        assert sharded == plan
        assert sharded["linear.weight"].spec.shape == (9, 6)
