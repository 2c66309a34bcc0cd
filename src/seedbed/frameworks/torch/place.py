"""Where a plan's values go: the memory of PyTorch parameters, which stay the same objects."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from seedbed.errors import InputError, UninitializedError, shown
from seedbed.fill import Draw, storage_dtype
from seedbed.frameworks.torch.lazy import STARTING, forget, settle_layers, unstarted, wished_for_alone
from seedbed.frameworks.torch.mismatch import plain
from seedbed.frameworks.torch.noted import settled_now
from seedbed.frameworks.torch.record import Geometry, flipped, flips_of, span_of
from seedbed.frameworks.torch.replay import tensor_on
from seedbed.frameworks.torch.shards import fully_sharded, is_sharded, know_memory, local, reshard, room_for, shards_of
from seedbed.frameworks.torch.told import UNWRITTEN, Program, device_of, loose_tensors
from seedbed.frameworks.torch.wrappers import named_modules, named_tensors
from seedbed.materialize import Job, Which, advise
from seedbed.plan import Entry, Plan, key, require_fit
from seedbed.region import Region
from seedbed.shard import Shard

HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
"""What `register_hook` and `register_post_accumulate_grad_hook` of a tensor keep."""


class Memory:
    """The memory of one tensor, or of what this process owns of it: its own where NumPy can reach it, copied to otherwise."""

    def __init__(self, tensor: torch.Tensor, dtype: str) -> None:
        self.tensor, self.dtype = local(tensor), dtype
        direct = self.tensor.device.type == "cpu" and not any(flips_of(self.tensor))
        self.direct = view_of(self.tensor, dtype) if direct else None

    def block(self, region: Region) -> NDArray[Any]:
        """The region of the tensor's memory, or room to fill it in."""
        if self.direct is None:
            return np.empty(region.shape, storage_dtype(self.dtype))
        return self.direct[region.slices] if region.start else self.direct

    def done(self, region: Region, values: NDArray[Any]) -> None:
        """Copy to the device, where the memory was not filled itself."""
        if self.direct is None:
            made = torch.from_numpy(values)
            made = made.view(self.tensor.dtype) if made.dtype != self.tensor.dtype else made
            self.tensor[region.slices].copy_(made)


class _Seen:
    """A CPU tensor's memory, for NumPy; `Tensor.numpy` would forbid PyTorch to give it another size ever after."""

    def __init__(self, tensor: torch.Tensor, dtype: str) -> None:
        self.tensor = tensor
        kind = np.dtype(str(storage_dtype(dtype)))
        self.__array_interface__ = {
            "version": 3,
            "typestr": kind.str,
            "shape": tuple(tensor.shape),
            "strides": tuple(n * kind.itemsize for n in tensor.stride()),
            "data": (tensor.data_ptr(), False),
        }


def view_of(tensor: torch.Tensor, dtype: str) -> NDArray[Any]:
    """A CPU tensor's memory as NumPy sees it."""
    if not tensor.numel():
        return np.empty(tuple(tensor.shape), storage_dtype(dtype))
    return np.asarray(_Seen(tensor, dtype))


@contextmanager
def placing(plan: Plan, model: nn.Module, device: torch.device | None, which: Which) -> Iterator[list[Job]]:
    """Make room for every parameter and buffer of a plan, and say where it is; inside, they are filled.

    Lazy layers are settled, parameters on the meta device get memory; all stay the same objects, ties
    and views included. `known` leaves lazy layers as they are; `waiting` fills those alone, so that what
    was loaded or written since the wish was kept stays. Threads that call a model whose start was waiting
    for that call wait until the end. Of what several processes hold together, each makes its own shard.

    Raises:
        PlanError: The plan is for another model; every difference is listed.
        ModelError: A shard cannot be started.
        InputError: A constructor asked for a device that is not here.
    """
    with STARTING, torch.inference_mode(mode=False):  # memory made in inference mode could not be trained
        sharding = fully_sharded(model)
        reshard(sharding)
        tensors = dict(named_tensors(model))
        fit(plan, tensors)
        shards = shards_of(tensors)
        homes = {} if device else _homes(plan, model, tensors)
        waiting = {path for path, t in tensors.items() if is_lazy(t)}
        settled = []
        if which != "known":
            settled = settle_layers(model, plan, but=wished_for_alone(model) if which == "waiting" else ())
        tensors = dict(named_tensors(model))
        ready = [e for e in plan if e.settled and not is_lazy(tensors[e.spec.path])]
        empty = [e for e in ready if tensors[e.spec.path].is_meta]
        loose = loose_tensors(model)
        for tensor, _ in loose:  # what led to it is done, and refers to parameters
            if tensor.grad_fn is not None and tensor._base is None:
                tensor.detach_()
        with _without_weak_references(model):
            for entry in empty:
                if entry.spec.path in shards:
                    tensor = tensors[entry.spec.path]
                    become(tensor, room_for(tensor, device))
            if shards:
                know_memory(sharding)
            for room in _rooms([e for e in empty if e.spec.path not in shards], tensors):
                beyond = list(_allocate(room, tensors, loose, device or homes[room[0].spec.path]))
                for tensor, program in beyond:
                    tensor.detach().copy_(program.tensor(functools.partial(draw, plan.seed), scratch=True))
            for tensor, program in sorted(loose, key=lambda pair: pair[0]._base is None):
                if tensor.is_meta:
                    become(
                        tensor,
                        program.tensor(functools.partial(draw, plan.seed), scratch=True).to(device or program.device),
                    )
        for tensor in {tensors[p] for p in waiting.union(e.spec.path for e in empty)}:
            if tensor.device.type == "cpu" and not is_lazy(tensor):
                storage = local(tensor).untyped_storage()
                advise(storage.data_ptr(), storage.nbytes())
        ready = [e for e in ready if not e.kept and (which != "waiting" or e.spec.path in waiting)]
        yield [Job(e, Memory(tensors[e.spec.path], e.spec.dtype), shards.get(e.spec.path)) for e in ready]
        if which != "known":
            forget(model.modules() if which == "all" else [model, *settled])
        settled_now(model)


def fit(plan: Plan, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise `PlanError` unless the plan is for a model of these tensors, and all it keeps is there."""
    planned = {path: e.spec for e in plan for path in e.spec.paths}
    rows = [(p, "only in the plan") for p in planned if p not in tensors]
    rows += [(p, "only in the model") for p in tensors if p not in planned]
    homeless, owners = [], dict[int, str]()
    for entry in plan:
        spec, tensor = entry.spec, tensors.get(entry.spec.path)
        if tensor is None:
            continue
        if not is_lazy(tensor) and spec.known and tuple(tensor.shape) != spec.sizes:
            rows.append((spec.path, f"planned {spec.shown_shape}, has {tuple(tensor.shape)}"))
        if plain(tensor.dtype) != spec.dtype:
            rows.append((spec.path, f"planned {spec.dtype}, has {plain(tensor.dtype)}"))
        rows += [
            (p, f"tied to {spec.path} in the plan only") for p in spec.paths[1:] if not _tied(tensors.get(p), tensor)
        ]
        other = owners.setdefault(id(tensor), spec.path)
        if other != spec.path:
            rows.append((spec.path, f"tied to {other} in the model only"))
        if entry.kept and (is_lazy(tensor) or tensor.is_meta):
            homeless.append(entry)
    because = ": it was built without memory"
    remedy = (
        "Give it a rule, build the model in seedbed.deferred(), which records what its constructor does, or build it "
        "with memory."
    )
    if homeless and UNWRITTEN in homeless[0].spec.origin:  # so it was built in deferred()
        because, remedy = (
            ": its constructor leaves it unwritten",
            "Give it a rule, or write all of it in the constructor.",
        )
    require_fit(rows, homeless, because=because, remedy=remedy)


def _tied(a: torch.Tensor | None, b: torch.Tensor) -> bool:
    """Whether two tensors are one, or views of one memory; a missing one is told elsewhere."""
    if a is None or a is b:
        return True
    if is_lazy(a) or is_lazy(b) or is_sharded(a) or is_sharded(b):
        return False
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


@contextmanager
def _without_weak_references(model: nn.Module) -> Iterator[None]:
    """Recurrent layers refer to their weights weakly, and a tensor so referred to cannot be swapped."""
    recurrent = [m for m in model.modules() if isinstance(m, nn.RNNBase) and any(p.is_meta for p in m.parameters())]
    for module in recurrent:
        module._flat_weight_refs = []
    try:
        yield
    finally:
        for module in recurrent:
            module._init_flat_weights()


def _homes(plan: Plan, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.device]:
    """The devices that constructors asked for.

    Raises:
        InputError: One of them is not here.
    """
    modules, homes = dict(named_modules(model)), {}
    for path in (e.spec.path for e in plan):
        if tensors[path].is_meta and not is_sharded(tensors[path]):
            prefix, _, leaf = path.rpartition(".")
            homes[path] = torch.device(device_of(modules[prefix], leaf))
    for device in set(homes.values()):
        try:
            torch.empty(0, device=device)
        except (AssertionError, RuntimeError):  # torch's, for what it was built without or does not find
            asking = [path for path, home in homes.items() if home == device]
            raise InputError(
                f"{asking[0]}: its constructor asks for the device {device}, and that is not here.",
                facts=shown(asking),
                remedy="Name one that is:\n    device='cpu'",
                paths=tuple(asking),
            ) from None
    return homes


def _rooms(empty: list[Entry], tensors: Mapping[str, torch.Tensor]) -> list[list[Entry]]:
    """The entries whose tensors share a piece of memory, together."""
    found: dict[int, list[Entry]] = {}
    for entry in empty:
        found.setdefault(tensors[entry.spec.path].untyped_storage()._cdata, []).append(entry)
    return list(found.values())


def _allocate(
    room: list[Entry],
    tensors: Mapping[str, torch.Tensor],
    loose: list[tuple[torch.Tensor, Program]],
    device: torch.device,
) -> Iterator[tuple[torch.Tensor, Program]]:
    """Memory for parameters on the meta device that share it, and for the tensors that are views of it.

    What has a base goes before it, because it refers to it. Yields the loose tensors that reach beyond the parameters.
    """
    owners = [tensors[e.spec.path] for e in room]
    place = owners[0].untyped_storage()._cdata
    members = {id(t): t for e in room for t in [tensors[p] for p in e.spec.paths]}
    beside = [(t, p) for t, p in loose if t.is_meta and t.untyped_storage()._cdata == place and id(t) not in members]
    spans = [span_of(t) for t in owners]
    yield from [(t, p) for t, p in beside if not any(a <= span_of(t)[0] and span_of(t)[1] <= b for a, b in spans)]
    members |= {id(t): t for t, _ in beside}
    spans = [span_of(t) for t in members.values()]
    first = min(a for a, _ in spans)
    memory = torch.UntypedStorage(max(b for _, b in spans) - first, device=device)
    for tensor in sorted(members.values(), key=lambda t: t._base is None):
        offset = (tensor.storage_offset() * tensor.element_size() - first) // tensor.element_size()
        geometry = Geometry(tuple(tensor.size()), tensor.stride(), offset)
        become(tensor, flipped(tensor_on(memory, geometry, tensor.dtype), flips_of(tensor)))


def draw(seed: int, stream: str, number: int, shape: tuple[int, ...]) -> Draw:
    """The numbers of one draw of a path."""
    return Draw(key(seed, stream.split(".")), shape, Region.whole(shape), number)


def become(tensor: torch.Tensor, real: torch.Tensor) -> None:
    """Give a tensor memory; it stays the same object, with its class, attributes and hooks."""
    if type(tensor) is not torch.Tensor and not is_sharded(tensor):
        real = torch.Tensor._make_subclass(type(tensor), real, tensor.requires_grad)
    if not is_sharded(tensor):
        real.__dict__.update(tensor.__dict__)
    hooks = {name: getattr(tensor, name) for name in HOOKS}
    if weakref.getweakrefs(tensor):  # which PyTorch's own function refuses, and which are to stay
        torch._C._swap_tensor_impl(tensor, real)
    else:
        torch.utils.swap_tensors(tensor, real)
    for name, registered in hooks.items():  # they are known to the memory that was swapped away
        if registered is not None:
            setattr(tensor, name, registered)


class Held(NamedTuple):
    """A tensor's values, with the name of its dtype; of a sharded one, those that this process owns.

    Attributes:
        tensor: Where they are.
        shard: What this process owns of a sharded one.
    """

    dtype: str
    shape: tuple[int, ...]
    tensor: torch.Tensor
    shard: Shard | None = None

    @property
    def array(self) -> NDArray[Any]:
        """On the CPU; copied there when it is asked for, so that a model on a device need not fit into this memory."""
        return view_of(local(self.tensor).cpu().resolve_conj().resolve_neg(), self.dtype)


def values(tensors: Mapping[str, torch.Tensor] | Iterator[tuple[str, torch.Tensor]]) -> dict[str, Held]:
    """Every array of a model or state dict, where it is when it is on the CPU.

    Raises:
        UninitializedError: Some have no values yet.
    """
    tensors = dict(tensors)
    for path, tensor in tensors.items():
        if is_lazy(tensor):
            raise unstarted(path)
        if tensor.is_meta:
            raise UninitializedError(
                f"{path}: has no value yet; it is on the meta device.",
                remedy="Start the model first:\n    seedbed.initialize(model, ...)",
                path=path,
            )
    shards = shards_of(tensors)
    return {p: Held(plain(t.dtype), tuple(t.shape), t, shards.get(p)) for p, t in tensors.items()}
