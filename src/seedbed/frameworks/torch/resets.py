"""What PyTorch code does to parameters, recorded on the meta device: nothing is computed.

Each write that reaches a parameter is noted. Full writes replace what came before; fills of a part
become an `Overlay`. What cannot be told stays unknown, and says which operation it was.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from seedbed.errors import RecipeError
from seedbed.frameworks.torch import diverted
from seedbed.frameworks.torch.wrappers import name_inside, named_tensors
from seedbed.initializers import (
    Constant,
    Initializer,
    Native,
    Normal,
    Ones,
    Overlay,
    Uniform,
    Zeros,
)
from seedbed.initializers.choices import Box
from seedbed.spec import ParamSpec


class Record(NamedTuple):
    """How a tensor starts, or the operation that hides it."""

    start: Initializer | None
    unknown: str = ""


class Recorder(TorchDispatchMode):
    """Notes every write to the given meta tensors while it is active."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.tensors = dict(tensors)
        plain = {path: t for path, t in self.tensors.items() if t.layout is torch.strided}
        self.paths = {t.untyped_storage()._cdata: path for path, t in plain.items()}
        self.records: dict[str, Record] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.is_mutable:
            given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | (kwargs or {})
            changed = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
            for target in pytree.tree_leaves([given.get(name) for name in changed]):
                path = self.path_of(target)
                if path is not None and target is args[0]:
                    self._write(path, target, func, args, kwargs or {})
                elif path is not None:  # one of a list, or a result written to: which value it gets is not told
                    self.records[path] = Record(None, func._schema.name)
        return out

    def path_of(self, tensor: object) -> str | None:
        """The path of the tensor whose memory this is."""
        return self.paths.get(tensor.untyped_storage()._cdata) if isinstance(tensor, torch.Tensor) else None

    def hide_replaced(self, module: nn.Module, prefix: str) -> None:
        """Forget what was recorded of a layer's tensors that another was put in the place of."""
        below = f"{prefix}." if prefix else ""
        for name, tensor in named_tensors(module):
            path = below + name
            if path in self.tensors and (self.tensors[path] is not tensor or self.path_of(tensor) != path):
                self.records[path] = Record(None, "another tensor put in its place")
                del self.tensors[path]

    def _write(self, path: str, target: torch.Tensor, func: Any, args: Any, kwargs: Any) -> None:
        whole = self.tensors[path]
        name = func._schema.name
        start = written(func, args, kwargs)
        before = self.records.get(path, Record(None, "nothing before it"))
        box = box_of(target, whole)
        full = box is not None and all(b - a == n for (a, b), n in zip(box, whole.shape, strict=True))
        if start is None or box is None:
            self.records[path] = Record(None, name)
        elif full:
            self.records[path] = Record(start)
        elif before.start is not None:
            base, boxes = before.start, ()
            if isinstance(base, Overlay):
                base, boxes = base.base, base.boxes
            if base != start or boxes:
                self.records[path] = Record(Overlay(base=base, boxes=(*boxes, (box, start))))
        else:
            self.records[path] = Record(None, f"{name} on a part")


def written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Initializer | None:
    """The initializer that one in-place operation amounts to, if it is one."""
    schema = func._schema.arguments
    values = {a.name: a.default_value for a in schema if a.has_default_value()}
    values |= dict(zip((a.name for a in schema), args, strict=False)) | dict(kwargs)
    name = func._schema.name
    if name == "aten::zero_":
        return Zeros()
    if name == "aten::fill_" and isinstance(values["value"], (int, float, bool)):
        return constant(values["value"])
    if name == "aten::uniform_":
        low, high = values["from"], values["to"]
        return constant(low) if low == high else Uniform(low=low, high=high)
    if name == "aten::normal_":
        return Normal(mean=values["mean"], std=values["std"])
    return None


def constant(value: float) -> Initializer:
    """A constant under its shortest name."""
    return Zeros() if value == 0 else Ones() if value == 1 else Constant(value=value)


def box_of(view: torch.Tensor, whole: torch.Tensor) -> Box | None:
    """The box of `whole` that `view` covers, if it is one."""
    if view.shape == whole.shape and view.stride() == whole.stride():
        return tuple((0, n) for n in whole.shape)
    offset = view.storage_offset() - whole.storage_offset()
    if not whole.is_contiguous() or offset < 0:
        return None
    extent = {stride: size for size, stride in zip(view.shape, view.stride(), strict=True) if size != 1}
    box = []
    for size, stride in zip(whole.shape, whole.stride(), strict=True):
        first, offset = divmod(offset, stride)
        length = extent.pop(stride, 1) if size > 1 else 1
        if first + length > size:
            return None
        box.append((first, first + length))
    return None if extent else tuple(box)


def starts(model: nn.Module) -> dict[str, tuple[Record, str]]:
    """How each parameter and buffer of a meta model starts, by its layers' own reset methods.

    Layers are asked in the order in which constructors finish: children before parents. A tied
    parameter starts as the layer at its first path starts it.

    Returns:
        Path to a record and its origin, such as `Linear.reset_parameters`. What no reset writes is absent.
    """
    first = {id(t): path for path, t in reversed([*named_tensors(model)])}
    tensors = {path: t for path, t in named_tensors(model) if first[id(t)] == path and not nn.parameter.is_lazy(t)}
    result: dict[str, tuple[Record, str]] = {}
    recorder = Recorder(tensors)
    for prefix, module in _children_first(model):
        method = next((m for m in ("reset_parameters", "_reset_parameters") if callable(getattr(module, m, None))), "")
        if not method or _lazy(module) or _noted(module):
            continue
        origin = f"{type(module).__name__}.{method}"
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        elsewhere = {
            first[id(t)] for n, t in own if id(t) in first and first[id(t)] != (f"{prefix}.{n}" if prefix else n)
        }
        recorder.records.clear()
        try:
            with torch.no_grad(), recorder, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of parameters without elements; they are started below
                getattr(module, method)()
            recorder.hide_replaced(module, prefix)
        except (
            Exception
        ) as error:  # third-party code: what it does to its own and its parts stays unknown, and says why
            below = f"{prefix}." if prefix else ""
            hidden = (Record(None, str(error).split("\n")[0]), origin)
            result |= {path: hidden for path in tensors if path.startswith(below)}
            continue
        for path, record in recorder.records.items():
            if path not in elsewhere:
                result[path] = (record, origin)
    empty = {path: (Record(Zeros()), "it has no elements") for path, t in tensors.items() if not t.numel()}
    return result | empty


def _noted(module: nn.Module) -> bool:
    """Whether it is known how each of a layer's own tensors starts; of one that was lazy it is not."""
    noted = vars(module).get("_seedbed_note")
    own = [n for d in (module._parameters, module._buffers) for n, t in d.items() if t is not None]
    return noted is not None and all(name in noted.origins for name in own)


def _children_first(module: nn.Module, prefix: str = "", seen: set[int] | None = None) -> list[tuple[str, nn.Module]]:
    seen = set() if seen is None else seen
    if id(module) in seen:
        return []
    seen.add(id(module))
    found = []
    held = name_inside(module)
    for name, child in module.named_children():
        found += _children_first(child, prefix if name == held else f"{prefix}.{name}" if prefix else name, seen)
    return [*found, (prefix, module)] if not held else found


def _lazy(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(nn.parameter.is_lazy(t) for t in own)


def translate(native: Native, spec: ParamSpec) -> Initializer:
    """One of torch's initializers, or a partial of one, as ours for one parameter.

    Initializers that draw or read values in ways of their own are known by name; all others are
    recorded on a meta tensor of the parameter's shape.
    """
    function, arguments = native.function, ()
    keywords: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        arguments, keywords = (*function.args, *arguments), {**function.keywords, **keywords}
        function = function.func
    keywords.pop("generator", None)
    tensor = torch.empty(spec.sizes, dtype=getattr(torch, spec.dtype), device="meta")
    special: Mapping[Callable[..., Any], Callable[[Mapping[str, Any]], Initializer | None]] = {
        getattr(nn.init, name): functools.partial(diverted.initializer, name) for name in diverted.NAMES
    }
    if function in special:
        bound = inspect.signature(function).bind(tensor, *arguments, **keywords)
        bound.apply_defaults()
        start, unknown = special[function](bound.arguments), "an interval that is not symmetric about its mean"
    else:
        recorder = Recorder({spec.path: tensor})
        try:
            with torch.no_grad(), recorder:
                returned = function(tensor, *arguments, **keywords)
            if recorder.path_of(tensor) is None or (isinstance(returned, torch.Tensor) and returned is not tensor):
                recorder.records[spec.path] = Record(None, "another tensor in place of the one it is given")
        except TypeError as error:
            raise RecipeError(
                f"{spec.path}: {native.name} cannot be called as torch's initializers are: {error}.",
                remedy=f"For a function of (draw, spec) write Custom({native.name}).",
                path=spec.path,
            ) from None
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise RecipeError(
                f"{spec.path}: {native.name} does not take a parameter of shape {spec.shown_shape}.",
                facts=[f"said  {str(error).splitlines()[0]}"],
                remedy="Let the rule take only what it suits, such as\n    Rule(Where(role='weight'), ...)\nand give the others one.",
                path=spec.path,
            ) from None
        start, unknown = recorder.records.get(spec.path, Record(None, "no write at all"))
    if start is None:
        raise RecipeError(
            f"{spec.path}: {native.name} cannot be told from what it does: {unknown}.",
            remedy="Use one of seedbed.initializers, or Custom(function) for one of your own.",
            path=spec.path,
        )
    return start
