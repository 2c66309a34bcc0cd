"""The meta twin of a model: its structure, its lazy layers and its ties, and no memory.

The model itself is only read. The user's hooks are on the twin too, because they may change what flows;
batch normalization counts nothing on it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from seedbed.errors import ModelError
from seedbed.frameworks.torch.shards import copy_unsharded, drop_sharding, is_sharded, whole_on_meta
from seedbed.frameworks.torch.wrappers import inner, named_modules, named_tensors
from seedbed.spec import Settled

META = torch.device("meta")
OPEN = "_seedbed_open"
"""Under this name a layer of open sizes keeps what it is to become."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Random states of torch, NumPy and Python, as they were."""
    ours, theirs, mine = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(ours)
        np.random.set_state(theirs)
        random.setstate(mine)


class _CopiesToMeta(TorchFunctionMode):
    """Tensors that are neither parameters nor buffers become meta tensors when they are copied."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = torch.empty_like(tensor.detach(), device=META)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def make_twin(model: nn.Module) -> nn.Module:
    """The same modules, ties, hooks and lazy layers, on the meta device.

    Raises:
        ModelError: The model holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for _, t in named_tensors(model):
        if id(t) in memo:
            continue
        if is_lazy(t):
            kind = nn.UninitializedParameter if isinstance(t, nn.Parameter) else nn.UninitializedBuffer
            memo[id(t)] = kind(requires_grad=t.requires_grad, device=META, dtype=t.dtype)
        else:
            blank = whole_on_meta(t) if is_sharded(t) else torch.empty_like(t.detach(), device=META)
            memo[id(t)] = nn.Parameter(blank, t.requires_grad) if isinstance(t, nn.Parameter) else blank
    for module in model.modules():
        memo |= {
            id(v): v for v in vars(module).values() if isinstance(v, torch.Generator)
        }  # its state is no tensor to us
    try:
        with _CopiesToMeta():
            copy_unsharded(model, memo)
            twin = copy.deepcopy(model, memo)
        _apart(model, twin)
    except Exception as error:  # whatever the model's own code raised, told as a sentence
        raise ModelError(
            f"{type(model).__name__}: the model cannot be copied for a dry run: {(str(error) or repr(error)).splitlines()[0]}.",
            remedy="Take what cannot be copied (locks, files) out of the model's attributes.",
        ) from error
    for module in twin.modules():
        for name, child in module._modules.items():
            if child is not None:  # a dry run compiles nothing
                module._modules[name] = inner(child)
    for path, module in named_modules(twin):
        if OPEN in vars(module):
            vars(module)[OPEN].path, vars(module)[OPEN].twin = path, True
        for number, hook in list(module._forward_pre_hooks.items()):
            if type(hook).__module__.startswith("seedbed."):  # a kept wish is for the model, not for its twin
                del module._forward_pre_hooks[number]
        drop_sharding(module)
        if isinstance(module, LazyModuleMixin) and type(module)._infer_parameters not in _functions(module):
            module._initialize_hook = module.register_forward_pre_hook(module._infer_parameters, with_kwargs=True)
        if isinstance(module, _NormBase):
            module.eval()
    return twin


def _apart(model: nn.Module, twin: nn.Module) -> None:
    """Raise unless a copy is a twin: modules of its own, all on the meta device, and no compiled ones."""
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise TypeError("it holds a ScriptModule; plan the module that was compiled")
    own = {id(m) for m in model.modules()}
    if any(id(m) in own for m in twin.modules()) or not all(t.is_meta for _, t in named_tensors(twin)):
        raise TypeError("its __deepcopy__ makes no copy of its layers as they are")


def _functions(module: nn.Module) -> list[Any]:
    return [getattr(hook, "__func__", None) for hook in module._forward_pre_hooks.values()]


def what_settled(model: nn.Module, twin: nn.Module) -> tuple[Settled, ...]:
    """What each lazy layer became."""
    after = dict(named_modules(twin))
    found = []
    for path, module in named_modules(model):
        lazy = isinstance(module, LazyModuleMixin) or vars(module).get("_seedbed_lazy", False)
        if not lazy or type(after[path]) is type(module):
            continue
        if OPEN in vars(after[path]):
            sizes = vars(after[path])[OPEN].sizes
            found.append(Settled(path, type(after[path]).__name__, tuple(sorted(sizes.items()))))
            continue
        old, new = vars(module), vars(after[path])
        changed = {k: v for k, v in new.items() if _is_plain(v) and (k not in old or old[k] != v)}
        changed.pop("training", None)
        found.append(Settled(path, type(after[path]).__name__, tuple(sorted(changed.items()))))
    return tuple(found)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str)) or (isinstance(value, tuple) and all(map(_is_plain, value)))
