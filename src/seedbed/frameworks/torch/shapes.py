"""The dry run: every shape settled on a meta twin of the model, which is then thrown away.

The model itself is only read. The twin has its structure, its lazy layers and its ties, and no
memory; user hooks are left off it, and batch normalization counts nothing on it.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from seedbed.errors import InputError, ModelError, SeedbedError, nearest
from seedbed.frameworks.torch.mismatch import explain
from seedbed.spec import Input, Settled

META = torch.device("meta")


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
    calls: list[Call] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    makers: dict[int, tuple[torch.Tensor, Maker]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.names = {id(t): path for path, t in named_tensors(self.twin)}
        for path, module in self.twin.named_modules():
            module.register_forward_pre_hook(self._enter(path), prepend=True, with_kwargs=True)
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
        names = [f"{p} ({type(self.twin.get_submodule(p)).__name__})" for p in dict.fromkeys((sized, last)) if p]
        return ", through ".join(names) or "the model's input"


def _to_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not value.is_meta and value.dim():
        return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=META)
    return value


def named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every path of every parameter and buffer, ties and buffers that are not saved included."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


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
    """The same modules, ties and lazy layers, on the meta device and without user hooks.

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
            blank = torch.empty_like(t.detach(), device=META)
            memo[id(t)] = nn.Parameter(blank, t.requires_grad) if isinstance(t, nn.Parameter) else blank
    try:
        with _CopiesToMeta():
            twin = copy.deepcopy(model, memo)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"{type(model).__name__}: the model cannot be copied for a dry run: {str(error).splitlines()[0]}.",
            remedy="Take what cannot be copied (locks, files, generators) out of the model's attributes.",
        ) from error
    for module in twin.modules():
        module._forward_hooks.clear()
        for number, hook in list(module._forward_pre_hooks.items()):
            own = getattr(hook, "__func__", None) is LazyModuleMixin._infer_parameters
            if not own and not type(hook).__module__.startswith("torch.nn.utils"):
                del module._forward_pre_hooks[number]
        if isinstance(module, LazyModuleMixin) and LazyModuleMixin._infer_parameters not in _functions(module):
            module._initialize_hook = module.register_forward_pre_hook(module._infer_parameters, with_kwargs=True)
        if isinstance(module, _NormBase):
            module.eval()
    return twin


def _functions(module: nn.Module) -> list[Any]:
    return [getattr(hook, "__func__", None) for hook in module._forward_pre_hooks.values()]


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


def to_meta_inputs(value: Any, model: nn.Module, sizes: Mapping[tuple[str, int], int], name: str) -> Any:
    """Inputs as meta tensors; `sizes` stands in for sizes that vary."""
    if isinstance(value, Input) or is_shape(value):
        value = value if isinstance(value, Input) else Input(value)
        shape = [sizes[name, axis] if n is None else n for axis, n in enumerate(value.shape)]
        dtype = getattr(torch, value.dtype) if value.dtype else _dtype(model)
        return torch.empty(shape, dtype=dtype, device=META)
    if isinstance(value, torch.Tensor):
        return torch.empty_like(value, device=META)
    if isinstance(value, np.ndarray):
        return torch.empty(value.shape, dtype=getattr(torch, str(value.dtype)), device=META)
    if isinstance(value, Mapping):
        return {k: to_meta_inputs(v, model, sizes, f"{name}[{k!r}]") for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        made = [to_meta_inputs(v, model, sizes, f"{name}[{i}]") for i, v in enumerate(value)]
        return type(value)(made) if type(value) in (tuple, list) else type(value)(*made)
    return value


def is_shape(value: Any) -> bool:
    """Whether a tuple is a shape: sizes and None only."""
    return type(value) in (tuple, torch.Size) and all(n is None or type(n) is int for n in value)


def _dtype(model: nn.Module) -> torch.dtype:
    return next((t.dtype for t in model.parameters() if t.dtype.is_floating_point), torch.get_default_dtype())


def dry_run(
    model: nn.Module, inputs: Sequence[Any], keywords: Mapping[str, Any], sizes: Mapping[tuple[str, int], int]
) -> DryRun:
    """Run a fresh twin of the model on inputs without values.

    Raises:
        InputError: The inputs are not ones that the model's forward takes.
        ShapeError: Sizes do not fit; the layer that found out is named, and the one it got them from.
        ModelError: The forward reads values, which a dry run does not have.
    """
    twin = make_twin(model)
    args = [to_meta_inputs(v, model, sizes, f"input {i}") for i, v in enumerate(inputs)]
    named = {k: to_meta_inputs(v, model, sizes, f"input {k!r}") for k, v in keywords.items()}
    _bind(model, args, named)
    run = DryRun(twin)
    try:
        with torch.no_grad(), undisturbed(), META, run:
            twin(*args, **named)
    except SeedbedError:
        raise
    except Exception as error:  # whatever the model's own code raised, told as a sentence with its place
        raise explain(error, run) from error
    return run


def _bind(model: nn.Module, args: Sequence[Any], named: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(model.forward)
        signature.bind(*args, **named)
    except ValueError:  # a forward without a signature: let the call itself find out
        return
    except TypeError as error:
        known = list(signature.parameters)
        stray = next((k for k in named if k not in known), None)
        raise InputError(
            f"{type(model).__name__}.forward: {error}.",
            facts=[
                f"takes  {', '.join(str(p) for p in signature.parameters.values())}",
                f"given  {len(args)} by position",
            ]
            + ([f"       {', '.join(named)} by name"] if named else []),
            remedy=nearest(stray, known)
            if stray
            else "Give one shape, Input or tensor for each argument, in order or by name.",
        ) from None


def what_settled(model: nn.Module, twin: nn.Module) -> tuple[Settled, ...]:
    """What each lazy layer became."""
    after = dict(twin.named_modules())
    found = []
    for path, module in model.named_modules():
        if not isinstance(module, LazyModuleMixin) or type(after[path]) is type(module):
            continue
        old, new = vars(module), vars(after[path])
        changed = {k: v for k, v in new.items() if _is_plain(v) and (k not in old or old[k] != v)}
        changed.pop("training", None)
        found.append(Settled(path, type(after[path]).__name__, tuple(sorted(changed.items()))))
    return tuple(found)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str)) or (isinstance(value, tuple) and all(map(_is_plain, value)))
