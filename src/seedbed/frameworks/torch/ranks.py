"""The processes that hold one model together, and how they tell each other what they are about to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from seedbed.errors import SeedbedError
from seedbed.frameworks import Ranks
from seedbed.frameworks.torch.shards import is_sharded, layout_of, mesh_in_words, shards_of, stand_in


def ranks_of(tensors: Mapping[str, torch.Tensor]) -> Ranks | None:
    """The processes that hold the shards of tensors; `None` where nothing is sharded."""
    import torch.distributed as dist

    sharded = {path: t for path, t in tensors.items() if is_sharded(t)}
    if not sharded:
        return None
    failed = None
    try:
        shards_of(sharded)
    except SeedbedError as error:  # said to the others, who would wait for this one
        failed = error
    meshes = list({id(t.device_mesh): t.device_mesh for t in sharded.values()}.values())
    largest = max(meshes, key=lambda mesh: mesh.mesh.numel())
    owned = {path: t for path, t in tensors.items() if isinstance(t, nn.Parameter) and not is_lazy(t)}
    empty = any(t.is_meta for t in owned.values())

    def gather(text: str) -> Mapping[int, str]:
        said = {dist.get_rank(): text}
        for group in _groups(meshes):
            said = {rank: each for part in _gathered(said, group) for rank, each in part.items()}
        return dict(sorted(said.items()))

    return Ranks(
        number=dist.get_rank(),
        place=stand_in(largest).place,
        mesh=mesh_in_words(largest),
        size=largest.mesh.numel(),
        layouts={path: layout_of(t) for path, t in sharded.items()},
        real=tuple(path for path, t in owned.items() if empty and not t.is_meta),
        gather=gather,
        failed=failed,
    )


def _groups(meshes: list[Any]) -> list[Any]:
    """Process groups that together reach all that certainly call: the whole world only where the meshes are the world.

    In an order that is the same everywhere, so that nobody waits for one who waits; twice, so that what one group
    has said reaches those that are only in another.
    """
    import torch.distributed as dist

    inside = [mesh for mesh in meshes if stand_in(mesh).place]  # of one without values nobody knows who is in it
    if inside and len(torch.cat([mesh.mesh.flatten() for mesh in inside]).unique()) == dist.get_world_size():
        return [None]
    found = [mesh.get_group(n) for mesh in inside for n in range(mesh.mesh.ndim)]
    groups = {tuple(dist.get_process_group_ranks(group)): group for group in found}
    return [groups[ranks] for ranks in sorted(groups)] * 2


def _gathered(said: Any, group: Any) -> list[Any]:
    import torch.distributed as dist

    if dist.get_backend(group) == "fake":  # one process that stands for many: it has nobody to ask
        return [said]
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, said, group=group)
    return found
