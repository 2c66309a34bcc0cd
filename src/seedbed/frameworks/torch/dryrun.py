"""A twin being run: who uses which parameter, who made which tensor, and a judge of every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from seedbed.frameworks.torch.twin import META
from seedbed.frameworks.torch.wrappers import named_modules, named_tensors


class Maker(NamedTuple):
    """Paths of the last layer with parameters, and of the last layer, that a tensor came from; empty for inputs."""

    sized: str
    last: str


@dataclass(eq=False)
class Call:
    """One module of the twin, being called."""

    path: str
    module: nn.Module
    inputs: tuple[Any, ...]


@dataclass(eq=False)
class DryRun(TorchDispatchMode):
    """Runs a twin on meta tensors, and notes who uses which parameter and who made which tensor."""

    twin: nn.Module
    judge: Callable[[DryRun, Call], None]
    calls: list[Call] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    makers: dict[int, tuple[torch.Tensor, Maker]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.lazy = any(isinstance(m, LazyModuleMixin) for m in self.twin.modules())
        self.names = {id(t): path for path, t in named_tensors(self.twin)}
        for path, module in named_modules(self.twin):
            module.register_forward_pre_hook(self._enter(path), prepend=True, with_kwargs=True)
            module.register_forward_pre_hook(self._judge, with_kwargs=True)
            module.register_forward_hook(self._leave)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = META
            kwargs.pop("pin_memory", None)
        used = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        self.reached.update(self.names[id(t)] for t in used if id(t) in self.names)
        if any(t.is_meta for t in used):
            args, kwargs = pytree.tree_map(_to_meta, (args, kwargs))
        out = func(*args, **kwargs)
        maker = next((self.makers[id(t)][1] for t in used if id(t) in self.makers), Maker("", ""))
        for t in pytree.tree_leaves(out):
            if isinstance(t, torch.Tensor):
                self.makers[id(t)] = (t, maker)
        return out

    def _enter(self, path: str) -> Any:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.calls.append(Call(path, module, (*args, *kwargs.values())))

        return enter

    def _judge(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Last of the hooks before a call: the user's own may have changed what the layer is given."""
        self.calls[-1].inputs = (*args, *kwargs.values())
        self.judge(self, self.calls[-1])

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = self.calls.pop()
        before = next((self.maker(t).sized for t in call.inputs if isinstance(t, torch.Tensor)), "")
        sized = call.path if any(True for _ in module.parameters(recurse=False)) else before
        for t in pytree.tree_leaves(output):
            if isinstance(t, torch.Tensor) and not any(module.children()):
                self.makers[id(t)] = (t, Maker(sized, call.path))

    def maker(self, tensor: torch.Tensor) -> Maker:
        """Who made a tensor, straight or through functions."""
        return self.makers.get(id(tensor), (tensor, Maker("", "")))[1]

    def source(self, tensor: torch.Tensor) -> str:
        """The same in words."""
        sized, last = self.maker(tensor)
        modules = dict(named_modules(self.twin))
        names = [f"{p} ({type(modules[p]).__name__})" for p in dict.fromkeys((sized, last)) if p]
        return ", through ".join(names) or "the model's input"


def _to_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not value.is_meta and value.dim():
        return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=META)
    return value
