"""What processes that hold one model together tell each other: run by `test_meeting.py`, two of them.

Every process prints one line of JSON for each case.
"""

import json
import os
import sys
import tempfile
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import seedbed as sb


def net(real=False):
    with torch.device("meta"):
        made = nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3))
    if real:
        made[0] = nn.Linear(9, 5)
    return made


def sharded(**options):
    model = net(**options)
    for layer in (model[0], model[2], model):
        fully_shard(layer)
    return model


def one_mesh(order):
    """Two ranks that stand, each, where the other thinks it does."""
    mesh = DeviceMesh("cpu", order, mesh_dim_names=("dp",), _init_backend=False)
    model = net()
    for layer in (model[0], model[2]):
        local = torch.empty(-(-layer.weight.shape[0] // 2), layer.weight.shape[1], device="meta")
        shape, stride = layer.weight.shape, layer.weight.stride()
        layer.weight = nn.Parameter(
            DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
        )
    return model


def stages():
    """The two halves of a pipeline: each rank has its own layers and what both have is started alike."""
    with sb.deferred():
        whole = nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3))
    rank = dist.get_rank()
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("pp", "dp"))
    stage = fully_shard(whole[2 * rank], mesh=mesh["dp"])
    sb.initialize(stage, seed=3)
    alone = sb.initialize(nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)), seed=3)
    return torch.equal(stage.weight.full_tensor(), alone[2 * rank].weight)


def one_rank_differs():
    model = sharded()
    plan = sb.plan(model, recipe="he", seed=1)
    sb.materialize(plan, model)
    if dist.get_rank() == 1:
        model[0].weight.to_local().data[0, 0] += 1
    return [str(sb.check(model, plan)), bool(sb.check(model, plan)), bool(sb.check(model, plan, collective=False))]


def replicas_differ():
    model = net()
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    parallelize_module(model, mesh, {"0": ColwiseParallel()})
    plan = sb.plan(model, recipe="he", seed=1)
    sb.materialize(plan, model)
    model[2].weight.data.add_(dist.get_rank())
    sb.fingerprint(plan, model)


def loaded_again():
    """What torch.distributed.checkpoint saved of one layout, in another."""
    model = sharded()
    plan = sb.plan(model, recipe="he", seed=1)
    sb.materialize(plan, model)
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder)
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=folder[0])
    other = net()
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    parallelize_module(other, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    sb.initialize(other, recipe="he", seed=2)
    before = bool(sb.check(other, plan))
    state = {"model": get_model_state_dict(other)}
    dcp.load(state, checkpoint_id=folder[0])
    same = sb.fingerprint(plan, other) == sb.fingerprint(plan) == sb.fingerprint(plan, state["model"])
    return [before, bool(sb.check(other, plan)), bool(sb.check(state["model"], plan)), same]


def written_from_a_sharded_plan():
    """Each rank writes its files of the plan of a model that none of them holds whole."""
    model = sharded()
    plan = sb.plan(model, recipe="he", seed=1)
    sb.materialize(plan, model)
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder)
    sb.write(plan, Path(folder[0]) / "made", shard_size=100, process=(dist.get_rank(), 2))
    dist.barrier()
    file = Path(folder[0]) / "made"
    return [bool(sb.check(file, plan)), sb.fingerprint(plan, file) == sb.fingerprint(plan, model)]


def rank():
    return dist.get_rank()


def one_cannot(act):
    """Rank 1 has a tensor that is still a sum, or no values: both say so, and nobody waits."""
    from torch.distributed.tensor import Partial

    model = sharded()
    plan = sb.plan(model, recipe="he", seed=1)
    if act != "start":
        sb.materialize(plan, model)
    if dist.get_rank() == 1:
        old = model[2].weight
        placements = [Partial()] if act == "start" else old.placements
        local = torch.empty(old.shape if act == "start" else old.to_local().shape, device="meta")
        made = DTensor.from_local(
            local, old.device_mesh, placements, run_check=False, shape=old.shape, stride=old.stride()
        )
        model[2]._parameters["weight"] = nn.Parameter(made)
    if act == "start":
        sb.materialize(plan, model)
    elif act == "check":
        sb.check(model, plan)
    else:
        sb.fingerprint(plan, model)


def two_meshes(seed):
    """Layers over the two axes of a mesh of four: each rank shares one layer with one rank, and another with another."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    model = net()
    fully_shard(model[0], mesh=mesh["dp"])
    fully_shard(model[2], mesh=mesh["tp"])
    plan = sb.plan(model, recipe="he", seed=seed)
    sb.materialize(plan, model)
    return sb.fingerprint(plan, model) == sb.fingerprint(plan)


OF_FOUR = {
    "one start over two meshes": lambda: two_meshes(1),
    "two seeds over two meshes": lambda: two_meshes(rank() % 2),
}
CASES = {
    "one cannot start": lambda: one_cannot("start"),
    "one cannot check": lambda: one_cannot("check"),
    "one cannot sum up": lambda: one_cannot("fingerprint"),
    "agreed": lambda: bool(sb.initialize(sharded(), recipe="he", seed=1)),
    "seeds": lambda: sb.initialize(sharded(), recipe="he", seed=rank()),
    "seeds, not asked": lambda: bool(sb.initialize(sharded(), recipe="he", seed=rank(), collective=False)),
    "recipes": lambda: sb.initialize(sharded(), recipe=["he", "xavier"][rank()]),
    "values there": lambda: sb.initialize(sharded(real=True), recipe="he"),
    "values there on one": lambda: sb.initialize(sharded(real=rank() == 1), recipe="he"),
    "values there, replaced": lambda: bool(sb.initialize(sharded(real=True), recipe="he", replace=True)),
    "mesh": lambda: sb.initialize(one_mesh([[0, 1], [1, 0]][rank()]), recipe="he"),
    "stages": stages,
    "one rank differs": one_rank_differs,
    "replicas differ": replicas_differ,
    "loaded again": loaded_again,
    "written": written_from_a_sharded_plan,
}


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(minutes=2))
    for name, act in (OF_FOUR if dist.get_world_size() == 4 else CASES).items():
        try:
            said = {"gave": act()}
        except sb.SeedbedError as error:
            said = {"raised": f"{type(error).__name__}: {error}"}
        sys.stdout.write("\n" + json.dumps({"case": name, "rank": dist.get_rank(), **said}) + "\n")
        sys.stdout.flush()
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort a Python that is ending
