"""Meshes of 64 processes, emulated in one: every shard is what PyTorch cuts out of the whole."""

import pytest
import torch

pytest.importorskip("torch.testing._internal.distributed.fake_pg", reason="this PyTorch has no fake process group")
from tests.distributed.emulated import counted, held, process
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, distribute_tensor
from torch.distributed.tensor import Shard as Cut
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import seedbed as sb

WORLD = 64
PLAN = {"tall": ColwiseParallel(), "odd": ColwiseParallel(), "wide": RowwiseParallel(), "nine": ColwiseParallel(),
        "three": RowwiseParallel(), "thin": ColwiseParallel()}  # fmt: skip


class Net(nn.Module):
    """Sizes that nothing divides."""

    def __init__(self):
        super().__init__()
        self.tall = nn.Linear(2, 50257)
        self.odd = nn.Linear(3, 32001, bias=False)
        self.wide = nn.Linear(32001, 2)
        self.nine = nn.Linear(5, 9)
        self.three = nn.Embedding(130, 3, padding_idx=4)
        self.thin = nn.Embedding(107, 3)  # fewer columns than processes: empty shards, of shapes of their own


def fsdp(model):
    return fully_shard(model)


def tensor_parallel(*sizes, names=("dp", "tp"), then=("dp",)):
    """Cut over the last axis of a mesh by tensor parallelism, then over others by `fully_shard`."""

    def lay(model):
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
        parallelize_module(model, mesh["tp"], PLAN, src_data_rank=None)
        return fully_shard(model, mesh=mesh[then]) if then else model

    return lay


def placed(sizes, *placements):
    """Placements given one by one."""

    def lay(model):
        mesh = init_device_mesh("cpu", sizes)
        for module in model.modules():
            for name, p in list(module._parameters.items()):
                if p is None:
                    continue
                ways = [Cut(way.dim % p.ndim) if isinstance(way, Cut) else way for way in placements]
                made = distribute_tensor(p.detach(), mesh, ways, src_data_rank=None)
                module._parameters[name] = nn.Parameter(made)
        return model

    return lay


def hybrid(*sizes):
    """Replicas of what `fully_shard` cuts."""

    def lay(model):
        return fully_shard(model, mesh=init_device_mesh("cpu", sizes, mesh_dim_names=("replicate", "shard")))

    return lay


LAYOUTS = {
    "fsdp": (fsdp, 1),
    "tp 64": (tensor_parallel(64, names=("tp",), then=()), None),
    "tp 4, fsdp 16": (tensor_parallel(16, 4), None),
    "tp 8, fsdp 8": (tensor_parallel(8, 8), None),
    "tp 2, fsdp 32": (tensor_parallel(32, 2), None),
    "hsdp 4 x 16": (hybrid(4, 16), 4),
    "hsdp 2 x 8, tp 4": (tensor_parallel(2, 8, 4, names=("replicate", "shard", "tp"), then=("replicate", "shard")), None),
    "Shard(0)": (placed((64,), Cut(0)), 1),
    "Shard(1)": (placed((64,), Cut(1)), 1),
    "Shard(0), Shard(1)": (placed((16, 4), Cut(0), Cut(1)), 1),
    "Shard(1), Shard(0)": (placed((4, 16), Cut(1), Cut(0)), 1),
    "Shard(0), Shard(0)": (placed((8, 8), Cut(0), Cut(0)), 1),
    "Shard(1), Shard(1)": (placed((8, 8), Cut(1), Cut(1)), 1),
    "Replicate, Shard(0)": (placed((8, 8), Replicate(), Cut(0)), 8),
    "Shard(-1), Replicate, Shard(0)": (placed((4, 2, 8), Cut(-1), Replicate(), Cut(0)), 2),
}  # fmt: skip
"""Ways to lay a model out; and how many processes hold each element, where that is one number."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """PyTorch's threads cost more than they bring where all is small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone():
    model = sb.initialize(Net(), seed=3)
    return {path: p.detach().flatten() for path, p in model.named_parameters()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_are_what_pytorch_cuts(layout, alone):
    lay, copies = LAYOUTS[layout]
    times = {path: torch.zeros(values.numel(), dtype=torch.int64) for path, values in alone.items()}
    for rank in range(WORLD):
        with process(rank, WORLD):
            numbers = {path: held(p) for path, p in lay(counted(Net())).named_parameters()}
            with sb.deferred():
                model = Net()
            lay(model)
            plan = sb.plan(model, seed=3)
            plan.materialize(model)
            for path, p in model.named_parameters():
                places = numbers[path].long()
                assert torch.equal(held(p), alone[path][places]), (rank, path, p.placements)
                times[path][places] += 1
            if rank % 9 == 0:
                assert sb.check(model, plan).ok
    for path, counts in times.items():
        assert counts.min() > 0, f"nobody holds some of {path}"
        assert counts.min() == counts.max() == (copies or counts.max()), f"more hold some of {path} than others"


@pytest.mark.parametrize("rank", [0, 5])
def test_a_check_sees_one_element_of_a_shard(rank):
    with process(rank, 8):
        with sb.deferred():
            model = Net()
        tensor_parallel(4, 2)(model)
        plan = sb.plan(model, seed=3)
        plan.materialize(model)
        assert sb.check(model, plan).ok
        held(model.tall.weight)[17, 1] += 1
        (finding,) = sb.check(model, plan).different
        assert (finding.path, finding.verdict, finding.differing) == ("tall.weight", "moved", 1)
