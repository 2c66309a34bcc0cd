"""Tensors that several processes hold together: what this one owns of them, and memory for it."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from seedbed.errors import ModelError, columns, shown
from seedbed.frameworks.torch.wrappers import author_class, named_modules
from seedbed.shard import Shard


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a `DTensor`."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor: its own memory."""
    with torch.no_grad():  # where gradients are recorded, it would be a view that they go through
        return tensor.to_local().detach() if is_sharded(tensor) else tensor.detach()


def shards_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Shard]:
    """What this process owns of each sharded tensor.

    Raises:
        ModelError: It owns nothing of one, because it is not in its mesh; or the mesh has no values; or a
            placement has none to start, or is not known. All are listed.
    """
    found, failures, stands = {}, [], dict[Any, Stand]()
    for path, tensor in tensors.items():
        if not is_sharded(tensor):
            continue
        mesh = tensor.device_mesh
        if mesh not in stands:
            stands[mesh] = stand_in(mesh)
        stand = stands[mesh]
        if stand.unknown:
            failures.append(
                (path, "its mesh was made inside deferred(), where no tensor has values", layout_of(tensor))
            )
        elif not stand.place:
            failures.append((path, "this process is not in its mesh", layout_of(tensor)))
        elif unknown := [p for p in tensor.placements if not (p.is_replicate() or hasattr(p, "dim"))]:
            why = "it is a sum that is still to be carried out" if unknown[0].is_partial() else "it is not known"
            failures.append((path, f"{unknown[0]}: {why}", layout_of(tensor)))
        else:
            found[path] = shard = _shard(tensor, stand)
            holds = tuple(local(tensor).shape)
            if holds != shard.shape and (shard.count or math.prod(holds)):  # torch has empty shards of other shapes
                failures.append((path, f"expected {shard.shape}, holds {holds}", layout_of(tensor)))
    if failures:
        raise ModelError(
            f"{failures[0][0]}: its shard cannot be started."
            if len(failures) == 1
            else f"{len(failures)} parameters have shards that cannot be started.",
            facts=shown(columns(failures)),
            remedy="Lay the model out with fully_shard or parallelize_module, outside deferred(), on a mesh that has\n"
            "every process that starts it; a partial tensor gets values of its own by redistribute().",
            paths=tuple(path for path, *_ in failures),
        )
    return found


def layout_of(tensor: torch.Tensor) -> str:
    """Mesh and placements in words that are the same on all its processes."""
    return f"{tuple(tensor.placements)} over {mesh_in_words(tensor.device_mesh)}"


def mesh_in_words(mesh: Any) -> str:
    """A mesh's dimensions and their sizes."""
    sizes = tuple(mesh.mesh.shape)
    names = [f"{name}={size}" for name, size in zip(mesh.mesh_dim_names or (), sizes, strict=False)]
    return ", ".join(names) or " x ".join(map(str, sizes))


class Stand(NamedTuple):
    """Where this process stands in a mesh; a mesh takes long to say it.

    Attributes:
        sizes: Of the mesh.
        place: One number an axis; none where the process is not in it.
        unknown: Whether the mesh has no values.
    """

    sizes: tuple[int, ...]
    place: tuple[int, ...] = ()
    unknown: bool = False


def stand_in(mesh: Any) -> Stand:
    """From the rank of this process: the mesh itself may have been made for another."""
    import torch.distributed as dist

    ranks = mesh.mesh
    if ranks.is_meta:
        return Stand(tuple(ranks.shape), unknown=True)
    found = (ranks == dist.get_rank()).nonzero()
    return Stand(tuple(ranks.shape), tuple(found[0].tolist()) if len(found) else ())


def _shard(tensor: torch.Tensor, stand: Stand) -> Shard:
    """Placements are carried out from left to right; `fully_shard` cuts what others have cut, so its own come last.

    Its own say by `split_factor` how many shards there are already, of the placements to their right.
    """
    placements = list(tensor.placements)
    cuts = [n for n, p in enumerate(placements) if not p.is_replicate()]
    after = [n for n in cuts if _is_cut_of_shards(n, placements, stand.sizes)]
    shard = Shard.whole(tuple(tensor.shape))
    for n in [*(n for n in cuts if n not in after), *reversed(after)]:
        pieces = 1 if n in after else getattr(placements[n], "split_factor", 1)
        shard = shard.cut(placements[n].dim % max(1, tensor.ndim), stand.sizes[n], stand.place[n], pieces=pieces)
    return shard


def _is_cut_of_shards(number: int, placements: Sequence[Any], sizes: Sequence[int]) -> bool:
    own = placements[number]
    if not hasattr(own, "split_factor"):
        return False
    right = [n for n in range(number + 1, len(placements)) if not placements[n].is_replicate()]
    return own.split_factor == math.prod(sizes[n] for n in right if placements[n].dim == own.dim)


def room_for(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    """A tensor like a sharded one, this process's shard with memory on `device`, or on its mesh's kind of device."""
    made = torch.empty_like(tensor.detach(), device=device or tensor.device_mesh.device_type)
    made = nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
    vars(made).update(extra_of(tensor))
    return made


def fully_sharded(model: nn.Module) -> list[nn.Module]:
    """The modules that `fully_shard` was called on."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return [m for _, m in named_modules(model) if fsdp is not None and isinstance(m, fsdp.FSDPModule)]


def reshard(modules: Iterable[nn.Module]) -> None:
    """Put the shards back where a forward pass left whole parameters."""
    for module in modules:
        module.reshard()


def know_memory(modules: Iterable[nn.Module]) -> None:
    """Let `fully_shard` know that its parameters have memory now: it pads it, and gathers from it."""
    for module in modules:
        own = [t for t in module._parameters.values() if t is not None]
        attributes = [extra_of(t) for t in own]
        module._apply(lambda tensor: tensor, recurse=False)
        for tensor, extra in zip(own, attributes, strict=True):
            vars(tensor).update(extra)


def extra_of(tensor: torch.Tensor) -> dict[str, Any]:
    """The attributes that somebody gave a tensor."""
    return {k: v for k, v in vars(tensor).items() if k not in ("_local_tensor", "_spec")}


def whole_on_meta(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that a sharded one is a layout of, without memory."""
    return torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device="meta")


def copy_unsharded(model: nn.Module, memo: dict[int, Any]) -> None:
    """Copy what `fully_shard` was called on as it was before, which refuses to be copied; the copies are in `memo`."""
    modules = fully_sharded(model)
    for module in modules:
        cls = author_class(module)
        memo[id(module)] = cls.__new__(cls)
    for module in modules:
        kept = {k: v for k, v in vars(module).items() if not k.startswith("__composable_api")}
        kept |= {k: _without_sharding(v) for k, v in kept.items() if k.endswith("_hooks")}
        vars(memo[id(module)]).update(copy.deepcopy(kept, memo))


def drop_sharding(module: nn.Module) -> None:
    """Take off the hooks that lay inputs and outputs out over devices."""
    for name in ("_forward_pre_hooks", "_forward_hooks"):
        hooks = getattr(module, name)
        for number in hooks.keys() - _without_sharding(hooks).keys():
            del hooks[number]


def _without_sharding(hooks: Mapping[int, Any]) -> dict[int, Any]:
    plain = {n: getattr(hook, "func", hook) for n, hook in hooks.items()}
    return type(hooks)((n, h) for n, h in hooks.items() if not _module_of(plain[n]).startswith("torch.distributed."))


def _module_of(function: Any) -> str:
    return getattr(function, "__module__", None) or ""
