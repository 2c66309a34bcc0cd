"""Models laid out over processes in every way that PyTorch has, started, and compared with one process's.

    python -m torch.distributed.run --standalone --nproc-per-node W tests/distributed/layouts.py [SCALE]

Every process prints one line of JSON for each layout it has tried. With a scale, models are so many times as wide,
and only deferred ones are tried.
"""

import gc
import hashlib
import json
import math
import os
import subprocess
import sys
import traceback
import warnings
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_module, distribute_tensor
from torch.distributed.tensor import Shard as Cut
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

import seedbed as sb

PREFIXES = ("_checkpoint_wrapped_module.", "_orig_mod.", "module.")
SEED = 7
SILENT = {"collective": False}
"""Keywords of a start that asks no other process anything."""


class Block(nn.Module):
    """A layer that a residual stream passes."""

    def __init__(self, width, hidden):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Experts(nn.Module):
    """Matrices of several experts in one parameter, each process's own multiplied by its inputs."""

    def __init__(self, width, count=8):
        super().__init__()
        self.into = nn.Parameter(torch.empty(count, width, 2 * width))
        self.out = nn.Parameter(torch.empty(count, 2 * width, width))
        nn.init.normal_(self.into, std=0.1)
        nn.init.uniform_(self.out, -0.1, 0.1)

    def forward(self, x):
        into, out = (p.full_tensor() if isinstance(p, DTensor) else p for p in (self.into, self.out))
        return x + torch.einsum("bsw,ewh,ehv->bsv", x, into, out)


class Net(nn.Module):
    """Embedding with a padding row, blocks, buffers of both kinds, a head."""

    def __init__(self, words=48, width=16, hidden=32, blocks=2, *, tied=False, experts=False):
        super().__init__()
        self.embed = nn.Embedding(words, width, padding_idx=1)
        self.register_buffer("angles", 1e4 ** (-torch.arange(width) / width), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(blocks))
        self.experts = Experts(width) if experts else nn.Identity()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(self.experts(x)))


NETS = {
    "even": {},
    "uneven": {"words": 37, "width": 9, "hidden": 21},
    "few": {"words": 3, "width": 2, "hidden": 1},
    "narrow": {"words": 3, "width": 2, "hidden": 2},
    "tied": {"tied": True},
    "experts": {"experts": True},
}


# Layouts: each changes a model that has no memory yet, or returns one that wraps it.


def plain(model):
    return model


def fsdp(model, **options):
    for block in model.blocks:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def fsdp_reversed(model):
    for block in reversed(model.blocks):
        fully_shard(block.down)
        fully_shard(block)
    return fully_shard(model)


def fsdp_columns(model):
    return fsdp(model, shard_placement_fn=lambda p: Cut(1) if p.ndim > 1 else Cut(0))


def fsdp_root(model):
    return fully_shard(model)


def fsdp_tied(model):
    fully_shard([model.embed, model.head])
    return fsdp(model)


def fsdp_offload(model):
    return fsdp(model, offload_policy=CPUOffloadPolicy(pin_memory=False))


def fsdp_bfloat16(model):
    return fsdp(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))


def tensor_parallel(model, mesh=None):
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",))
    ways = {f"blocks.{n}.up": ColwiseParallel() for n in range(len(model.blocks))}
    ways |= {f"blocks.{n}.down": RowwiseParallel() for n in range(len(model.blocks))}
    ways |= {"embed": RowwiseParallel(input_layouts=Replicate()), "head": ColwiseParallel(output_layouts=Replicate())}
    tied = model.head.weight is model.embed.weight
    parallelize_module(model, mesh, ways)
    if tied:  # it gave each a tensor of its own
        model.head.weight = model.embed.weight
    return model


def two_axes(*names, first):
    """A mesh of two axes, one of them with at most two processes."""
    world = dist.get_world_size()
    two = min(2, world)
    return init_device_mesh("cpu", (two, world // two) if first else (world // two, two), mesh_dim_names=names)


def tensor_parallel_fsdp(model):
    mesh = two_axes("dp", "tp", first=True)
    return fsdp(tensor_parallel(model, mesh["tp"]), mesh=mesh["dp"])


def tensor_parallel_2_fsdp(model):
    mesh = two_axes("dp", "tp", first=False)
    return fsdp(tensor_parallel(model, mesh["tp"]), mesh=mesh["dp"])


def hybrid(model):
    return fsdp(model, mesh=two_axes("replicate", "shard", first=False))


def replicated(model):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def entered(module, inputs, mesh):
        return tuple(DTensor.from_local(x, mesh, [Replicate()], run_check=False) for x in inputs)

    return distribute_module(model, mesh, None, entered, lambda module, output, mesh: output.to_local())


def expert_parallel(model):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",))
    for name, tensor in list(model.experts.named_parameters()):
        made = nn.Parameter(distribute_tensor(tensor.detach(), mesh, [Cut(0)], src_data_rank=None))
        model.experts.register_parameter(name, made)
    return model


def compiled(model):
    for n, block in enumerate(model.blocks):
        model.blocks[n] = torch.compile(block, backend="eager")
    return fsdp(model)


def compiled_whole(model):
    return torch.compile(fsdp(model), backend="eager")


def checkpointed(model):
    for n, block in enumerate(model.blocks):
        model.blocks[n] = checkpoint_wrapper(block)
    return fsdp(model)


def data_parallel(model):
    """Wrapped before it is started, which is for values that are there; started again inside."""
    return nn.parallel.DistributedDataParallel(sb.initialize(model, seed=SEED + 1), init_sync=False)


LAYOUTS = {
    "plain": (plain, "even"),
    "fsdp": (fsdp, "even"),
    "fsdp, reversed order": (fsdp_reversed, "even"),
    "fsdp, Shard(1)": (fsdp_columns, "even"),
    "fsdp, root only": (fsdp_root, "even"),
    "fsdp, uneven": (fsdp, "uneven"),
    "fsdp, fewer rows than ranks": (fsdp, "few"),
    "fsdp, tied, one group": (fsdp_tied, "tied"),
    "fsdp, tied, root only": (fsdp_root, "tied"),
    "fsdp, CPU offload": (fsdp_offload, "even"),
    "fsdp, bfloat16": (fsdp_bfloat16, "even"),
    "tp": (tensor_parallel, "even"),
    "tp, uneven": (tensor_parallel, "uneven"),
    "tp, tied": (tensor_parallel, "tied"),
    "tp and fsdp": (tensor_parallel_fsdp, "even"),
    "tp and fsdp, uneven": (tensor_parallel_fsdp, "uneven"),
    "tp and fsdp, few rows": (tensor_parallel_fsdp, "narrow"),
    "tp (2) and fsdp, uneven": (tensor_parallel_2_fsdp, "uneven"),
    "hsdp": (hybrid, "even"),
    "hsdp, uneven": (hybrid, "uneven"),
    "replicated": (replicated, "even"),
    "experts": (expert_parallel, "experts"),
    "fsdp, compiled blocks": (compiled, "even"),
    "fsdp, compiled": (compiled_whole, "even"),
    "fsdp, checkpointed blocks": (checkpointed, "even"),
    "ddp": (data_parallel, "even"),
}
FORMS = ("deferred", "meta", "memory")
ONLY_STARTED = {"tp, uneven", "tp and fsdp, uneven", "tp and fsdp, few rows", "tp (2) and fsdp, uneven"}
"""PyTorch lays these models out and cannot call them: outputs of several sizes are taken for ones of the same size."""


def forms(name):
    """Not every model is built in every way: what the experts' constructor draws itself, only deferred() can start."""
    return FORMS[:1] if LAYOUTS[name][1] == "experts" else FORMS


def sizes(name, scale=1):
    """Arguments of a model so many times as wide; few rows stay few, and what nothing divides stays so."""
    told = {"words": 48, "width": 16, "hidden": 32} | NETS[name]
    if scale > 1 and name not in ("few", "narrow"):
        odd = name == "uneven"
        told |= {size: told[size] * scale + odd for size in ("words", "width", "hidden")}
    return told


def built(name, form="deferred", scale=1):
    """A model as its author builds it."""
    where = {"deferred": sb.deferred, "meta": lambda: torch.device("meta"), "memory": nullcontext}[form]
    with where():
        model = Net(**sizes(name, scale))
    if form == "meta":  # what a constructor computed is lost there
        model.angles = 1e4 ** (-torch.arange(len(model.angles)) / len(model.angles))
        model.steps = torch.zeros((), dtype=torch.int64)
        if NETS[name].get("tied"):
            model.head.weight = model.embed.weight
    return model


def local_of(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spoil(model):
    """Put NaN where parameters are held."""
    with torch.no_grad():
        for p in model.parameters():
            if not p.is_meta:
                local_of(p).fill_(math.nan)


def author_path(path):
    for prefix in PREFIXES:
        path = path.replace(prefix, "")
    return path


def named(model):
    """Parameters and buffers by the path their author gave them, each once."""
    found = [*model.named_parameters(), *model.named_buffers()]
    return {author_path(path): tensor for path, tensor in found}


def whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu().clone()


def digest(tensors):
    """One number for all parameters and buffers, in the order of their paths."""
    made = hashlib.sha256()
    for path, tensor in sorted(tensors.items()):
        made.update(f"{path} {tensor.dtype} {tuple(tensor.shape)}".encode())
        made.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return made.hexdigest()


def fingerprint(model):
    return digest({path: whole(t) for path, t in named(model).items()})


def optimizer_of(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3, weight_decay=0.1)


def step(model, optimizer):
    """One step on words that are the same everywhere."""
    words = model.embed.num_embeddings if hasattr(model, "embed") else model.module.embed.num_embeddings
    tokens = torch.arange(12).reshape(2, 6) % words
    scores = model(tokens)
    F.cross_entropy(scores.flatten(0, 1).float(), tokens.roll(1, 1).flatten()).backward()
    optimizer.step()


def reshard(model):
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def peak(*, again=False):
    """The most memory this process has held since it was asked to measure again, in bytes."""
    if again:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().split("\n")
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def in_turn(act):
    """Run it while all other processes wait, or are done: what needs one of them never ends."""
    store, rank = dist.distributed_c10d._get_default_store(), dist.get_rank()
    in_turn.number = number = getattr(in_turn, "number", 0) + 1
    if rank:
        store.wait([f"turn {number} of {rank - 1}"])
    try:
        return act()
    finally:
        store.set(f"turn {number} of {rank}", "done")


def started(model):
    """Start a model; the collective operations that took, and the memory."""
    linux = sys.platform == "linux"
    before = peak(again=True) if linux else 0
    with CommDebugMode() as heard:
        assert in_turn(lambda: sb.initialize(model, seed=SEED, **SILENT)) is model
    return heard.get_total_counts(), peak() - before if linux else 0


def attempt(key, form, scale=1):
    """What came of one layout, as this process sees it."""
    layout, name = LAYOUTS[key]
    alone = sb.initialize(built(name, scale=scale), seed=SEED)
    expected = {path: whole(t) for path, t in named(alone).items()}
    model = layout(built(name, form, scale))
    if form == "memory" or layout is data_parallel:
        spoil(model)
    before, tensors = {id(p) for p in model.parameters()}, named(model)
    ties = len(list(model.named_parameters(remove_duplicate=False))) - len(before)
    optimizer = optimizer_of(model)
    plan = sb.plan(model, seed=SEED)
    sent, grew = started(model)
    with CommDebugMode() as heard:
        got = {path: whole(t) for path, t in named(model).items()}
    said = {
        "sent": sent,
        "gathered": heard.get_total_counts(),
        "grew": grew,
        "bytes": sum(local.nbytes for local in map(local_of, named(model).values())),
        "fingerprint": digest(got),
        "values": sb.fingerprint(plan, model),
        "different": [p for p in expected if p not in got or not torch.equal(expected[p], got[p])],
        "check": str(sb.check(model, plan)),
        "same": sb.check(model, plan).ok and all(t is tensors[p] for p, t in named(model).items()),
        "identity": {id(p) for g in optimizer.param_groups for p in g["params"]} == before
        == {id(p) for p in model.parameters()},
        "ties": len(list(model.named_parameters(remove_duplicate=False))) - len(before) == ties,
        "paths": sorted(e.spec.path for e in plan) == sorted(expected),
    }  # fmt: skip
    return said if key in ONLY_STARTED else said | attempt_step(model, optimizer, alone, expected)


def attempt_step(model, optimizer, alone, expected):
    """One step of training, and a start again after a forward pass."""
    step(model, optimizer)
    step(alone, optimizer_of(alone))
    reshard(model)
    after, there = {p: whole(t) for p, t in named(model).items()}, named(alone)
    said = {
        "moved": all(not torch.equal(after[p], expected[p]) for p, _ in alone.named_parameters()),
        "step": max(float((t.double() - there[p].double()).abs().max()) for p, t in after.items()),
    }
    model(torch.arange(6).reshape(1, 6) % 3)  # leaves the root's parameters whole
    assert sb.initialize(model, seed=SEED) is model
    return said | {"again": digest({path: whole(t) for path, t in named(model).items()})}


def main(scale=1):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(minutes=3))  # one that fails leaves the others waiting
    torch.use_deterministic_algorithms(mode=True)  # torch.empty then gives NaN
    for key in LAYOUTS:
        for form in forms(key)[: 1 if scale > 1 else None]:
            torch.manual_seed(100 + dist.get_rank())  # nothing here may depend on it
            try:
                said = attempt(key, form, scale)
            except Exception:
                said = {"error": traceback.format_exc()}
            torch._dynamo.reset()
            gc.collect()
            sys.stdout.write("\n" + json.dumps({"layout": key, "form": form, "rank": dist.get_rank(), **said}) + "\n")
            sys.stdout.flush()
    dist.destroy_process_group()


def run(world, scale=1, program=__file__):
    """Start so many processes of this file; what each said of every layout, how they ended, and their last words."""
    root, source = Path(__file__).parents[2], Path(sb.__file__).parents[1]
    paths = os.pathsep.join(filter(None, [str(source), str(root), os.environ.get("PYTHONPATH", "")]))
    told = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": paths}
    told["MALLOC_MMAP_THRESHOLD_"] = "65536"  # memory that is freed goes back, so that none is found lying there
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    done = subprocess.run(
        [*command, program, str(scale)], env=os.environ | told, cwd=root, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.split("\n") if line.startswith('{"')]
    return {"lines": lines, "code": done.returncode, "errors": done.stderr[-4000:]}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort a Python that is ending
