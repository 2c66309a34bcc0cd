"""Paths as the author of a model wrote them: without the names that wrappers put before them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

import torch
from torch import nn

WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": "_checkpoint_wrapped_module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
}
"""Classes that hold one model under a name of their own."""
NAMES = set(WRAPPERS.values())


def author_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module before `fully_shard` made one of its own of it."""
    cls, fsdp = type(module), sys.modules.get("torch.distributed.fsdp")
    made = fsdp is not None and issubclass(cls.__bases__[0], fsdp.FSDPModule)
    return cls.__bases__[-1] if made and cls.__bases__[-1] is not object else cls


def flattens(module: nn.Module) -> bool:
    """Whether a wrapper joins the parameters of what it holds in one, as the first FSDP does."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel)


def name_inside(module: nn.Module) -> str:
    """The name under which a wrapper holds its model; empty for any other module."""
    held = next(iter(module._modules.keys()), "")
    if held not in NAMES:  # as good as always
        return ""
    classes = [f"{c.__module__}.{c.__qualname__}" for c in type(module).__mro__]
    return held if any(WRAPPERS.get(c) == held for c in classes) else ""


def inner(model: nn.Module) -> nn.Module:
    """The model inside all wrappers around it."""
    while (name := name_inside(model)) and model._modules.get(name) is not None:
        model = model._modules[name]
    return model


def named_modules(model: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """As `nn.Module.named_modules`; a wrapper comes just before what it holds, under the same path."""
    seen: set[int] = set()
    todo = [("", model)]
    while todo:
        path, module = todo.pop()
        if remove_duplicate and id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        before = f"{path}." if path else ""
        held = name_inside(module)
        todo += [
            (path if name == held else before + name, m)
            for name, m in [*module._modules.items()][::-1]
            if m is not None
        ]


def named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every path of every parameter and buffer, ties and buffers that are not saved included."""
    modules = list(named_modules(model, remove_duplicate=False))
    for kind in ("_parameters", "_buffers"):
        for path, module in modules:
            for leaf, tensor in getattr(module, kind).items():
                if tensor is not None:
                    yield f"{path}.{leaf}" if path else leaf, tensor


def without_wrappers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict under the paths of the model's author: `module.` goes where all names begin with it."""
    reserved = {name for name in NAMES if name.startswith("_")}
    found = {".".join(part for part in path.split(".") if part not in reserved): t for path, t in state.items()}
    outer = "module."
    return (
        {path.removeprefix(outer): t for path, t in found.items()} if all(p.startswith(outer) for p in found) else found
    )
