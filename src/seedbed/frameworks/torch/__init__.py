"""PyTorch: its models traced, its parameters placed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from seedbed.errors import InputError, ModelError
from seedbed.frameworks import Ranks, Room
from seedbed.frameworks.torch import capture, layers, opening, place, resets, settle, twin, unsettled
from seedbed.frameworks.torch import lazy as waiting
from seedbed.frameworks.torch import told as notes
from seedbed.frameworks.torch.laws import disjoint
from seedbed.frameworks.torch.mismatch import plain
from seedbed.frameworks.torch.ranks import ranks_of
from seedbed.frameworks.torch.record import Geometry, flips_of, span_of
from seedbed.frameworks.torch.shards import fully_sharded, is_sharded, reshard
from seedbed.frameworks.torch.wrappers import flattens, inner, named_modules, named_tensors, without_wrappers
from seedbed.initializers import Initializer, Native
from seedbed.materialize import Which
from seedbed.plan import Plan
from seedbed.recipe import Recipe
from seedbed.spec import ParamSpec, Specs

name = "torch"


def owns(model: Any) -> bool:
    """Whether `model` is a PyTorch module."""
    return isinstance(model, nn.Module)


def owns_values(values: Mapping[str, Any]) -> bool:
    """Whether a mapping holds PyTorch tensors and nothing else."""
    return all(isinstance(v, torch.Tensor) for v in values.values())


def trace(model: nn.Module, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Specs:
    """Every parameter and buffer; their sizes as settled by a dry run when there are inputs."""
    model = inner(model)
    _within_reach(model)
    reshard(fully_sharded(model))  # what a forward pass left whole is of the dtype of the pass
    settled = settle.settle(model, inputs, keywords) if inputs or keywords else None
    noted = notes.told_of_both(model, settled.twin) if settled else notes.told(model)
    if settled:
        copied, told = settled.twin, settled.told
    elif all(path in noted for path, _ in named_tensors(model)):  # nothing is left to find out
        copied, told = model, {p: (tuple(t.shape), settle.UNTOLD) for p, t in named_tensors(model)}
    else:
        copied = twin.make_twin(model)
        told = settle.tell(copied)
    params = []
    modules, became = dict(named_modules(model)), dict(named_modules(copied))
    for path, (aliases, views) in _owners(model).items():
        prefix, _, leaf = path.rpartition(".")
        module = modules[prefix]
        tensor = _at(module, leaf)
        cls = waiting.becomes(module)
        waiting.fits(module, path, tensor)
        waits = path not in told or (settled is not None and path in settled.waits)
        shape, (record, origin) = told.get(path, (unsettled.before_input(module, leaf), settle.UNTOLD))
        own = noted.get(path)
        if own is not None:
            record, origin = own.start, own.origin
        waits = waits or (record.start is None and waiting.waits(became[prefix]))
        if waits:
            origin = f"{cls.__name__}.reset_parameters"
        elif record.unknown:
            origin = f"{origin}: {record.unknown}"
        use = layers.use(module if path not in told else became[prefix], leaf, len(shape))
        is_parameter = isinstance(tensor, nn.Parameter)
        unit, name_there = layers.place(module, path)
        params.append(
            ParamSpec(
                path=path,
                shape=shape,
                dtype=plain(tensor.dtype),
                role=use.role if is_parameter else "buffer",
                axes=use.axes if is_parameter and len(use.axes) == len(shape) else (),
                packed=use.packed if is_parameter and len(use.packed) == len(shape) else (),
                groups=use.groups,
                layer=cls.__name__,
                bases=tuple(c.__name__ for c in cls.__mro__[1:] if issubclass(c, nn.Module) and c is not nn.Module),
                kind="parameter" if is_parameter else "buffer",
                persistent=leaf not in module._non_persistent_buffers_set,
                start=None if waits else record.start,
                origin=origin,
                aliases=tuple(aliases),
                views=tuple(views),
                stream=own.stream if own else "",
                copied=own.copied if own else "",
                unit=unit,
                leaf=name_there,
                lazy=waits,
                reached=bool(settled.reached & {path, *aliases, *views}) if settled else None,
                varies=settled.varies.get(path, "") if settled else "",
            )
        )
    return Specs(tuple(params), name, settled.settled if settled else ())


def _within_reach(model: nn.Module) -> None:
    for path, module in named_modules(model):
        if flattens(module):
            raise ModelError(
                f"{path or 'The model'}: is wrapped in {type(module).__name__}, which flattens parameters into one, cut without "
                "regard to them.",
                remedy="Shard with torch.distributed.fsdp.fully_shard, which keeps them, or start the model before it is wrapped.",
                path=path,
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{path or 'The model'}: is compiled by torch.jit, which keeps its parameters out of reach.",
                remedy="Start the model first, then compile it.",
                path=path,
            )


def _at(module: nn.Module, leaf: str) -> torch.Tensor:
    tensor = module._parameters.get(leaf)
    tensor = module._buffers[leaf] if tensor is None else tensor
    assert tensor is not None
    return tensor


def _owners(model: nn.Module) -> dict[str, tuple[list[str], list[str]]]:
    """The first path of each piece of memory, with its other paths, and those of views inside it."""
    tensors: dict[int, torch.Tensor] = {}
    paths: dict[int, list[str]] = {}
    for path, tensor in named_tensors(model):
        if tensor.layout is not torch.strided:
            raise ModelError(
                f"{path}: is a sparse tensor, and seedbed starts dense ones.",
                remedy="Register its indices and values as two buffers.",
                path=path,
            )
        tensors[id(tensor)] = tensor
        paths.setdefault(id(tensor), []).append(path)
    storages: dict[int, list[int]] = {}
    for i, tensor in tensors.items():
        if not is_lazy(tensor) and tensor.numel() and not is_sharded(tensor):
            storages.setdefault(tensor.untyped_storage()._cdata, []).append(i)
    inside: dict[int, int] = {}
    for members in storages.values():
        spans = {i: span_of(tensors[i]) for i in members}
        group = sorted(members, key=lambda i: (-tensors[i].nbytes, not tensors[i].is_contiguous()))
        for n, i in enumerate(group[1:], 1):
            for j in group[:n]:
                (a, b), (c, d) = spans[i], spans[j]
                if j in inside or b <= c or d <= a:
                    continue
                if not (c <= a and b <= d and d - c == tensors[j].nbytes):
                    if tensors[i].dtype == tensors[j].dtype and disjoint([Geometry.of(tensors[n]) for n in (i, j)]):
                        continue
                    raise ModelError(
                        f"{paths[i][0]} and {paths[j][0]} overlap in memory, and neither lies inside the other.",
                        remedy="Give them memory of their own, or make one a view of the other.",
                    )
                inside[i] = j
                break
    owners: dict[str, tuple[list[str], list[str]]] = {
        paths[i][0]: (paths[i][1:], []) for i in tensors if i not in inside
    }
    for k, j in inside.items():
        same = _geometry(tensors[k]) == _geometry(tensors[j])
        owners[paths[j][0]][0 if same else 1].extend(paths[k])
    return owners


def _geometry(tensor: torch.Tensor) -> tuple[object, ...]:
    return Geometry.of(tensor), flips_of(tensor)


def translate(native: Native, spec: ParamSpec) -> Initializer:
    """One of torch's own initializers as ours."""
    return resets.translate(native, spec)


def fit(plan: Plan, model: nn.Module) -> None:
    """Raise `PlanError` unless the plan is for this model."""
    place.fit(plan, dict(named_tensors(inner(model))))


@contextmanager
def placing(plan: Plan, model: nn.Module, device: Any, sharding: Any, which: Which) -> Iterator[Room]:
    """Where the plan's values go, in the model."""
    if sharding is not None:
        raise InputError(
            "sharding: PyTorch's parameters carry their own placements, and this model is PyTorch's.",
            remedy="Lay the model out first, with fully_shard or parallelize_module, and leave `sharding` out.",
        )
    with place.placing(plan, inner(model), _device(device), which) as jobs:
        yield Room(jobs, lambda: model)


def keep(
    model: nn.Module, specs: Specs, recipe: Recipe | None, seed: int, streams: Mapping[str, str] | None, device: Any
) -> nn.Module:
    """Keep the wish until the model's first call."""
    waiting.keep(inner(model), specs, waiting.Wish(recipe, seed, streams, _device(device)))
    return model


def _device(device: Any) -> torch.device | None:
    try:
        if device is None:
            return None
        found = torch.device(device)
        torch.empty(0, device=found)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise InputError(f"device: {device!r} is not one of PyTorch's.", facts=[str(error).splitlines()[0]]) from None
    if found.type == "meta":
        raise InputError(
            "device: 'meta' has no memory to start a model in.", remedy="Leave it out, or say device='cpu'."
        )
    return found


def ranks(model: nn.Module | Mapping[str, torch.Tensor]) -> Ranks | None:
    """The processes that hold the shards of a model or of a state dict; `None` where nothing is sharded."""
    if not isinstance(model, nn.Module):
        return ranks_of(without_wrappers(model))
    reshard(fully_sharded(model))
    return ranks_of(dict(named_tensors(inner(model))))


def values(model: Any) -> dict[str, place.Held]:
    """The arrays of a model or state dict, by every path."""
    if isinstance(model, nn.Module):
        reshard(fully_sharded(model))
        return place.values(named_tensors(inner(model)))
    return place.values(without_wrappers(model))


def apply(model: nn.Module, function: Any) -> None:
    """The chapters' way: call `function` on every module."""
    model.apply(function)


def is_native(function: Any) -> bool:
    """Whether a callable is an initializer of torch's own, or a partial of one."""
    function = getattr(function, "func", function)
    return getattr(function, "__module__", None) == "torch.nn.init"


def owns_class(cls: type) -> bool:
    """Whether a class is one of PyTorch's layers."""
    return issubclass(cls, nn.Module)


def lazy(cls: type[nn.Module], arguments: Sequence[Any], keywords: Mapping[str, Any]) -> nn.Module:
    """A layer of a class, some of whose sizes are `Dim`s."""
    return opening.opened(cls, arguments, keywords)


def deferred() -> AbstractContextManager[None]:
    """A context in which models are built without memory, and what their constructors do is recorded."""
    return capture.deferred()


def recording() -> bool:
    """Whether this thread is inside `deferred()`."""
    return capture.active() is not None
