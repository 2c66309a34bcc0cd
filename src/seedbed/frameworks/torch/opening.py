"""The class of an open layer, built with several sizes: which of its own sizes move is seen by comparing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy
from torch.utils.hooks import RemovableHandle

from seedbed.errors import CaptureError, ModelError
from seedbed.frameworks.torch.noted import NOTE
from seedbed.frameworks.torch.twin import META, OPEN, undisturbed
from seedbed.frameworks.torch.unsettled import (
    Open,
    Part,
    Wanted,
    before_input,
    exchange,
    kind_of,
    own_tensors,
    same_paths,
    without_memory,
)
from seedbed.frameworks.torch.wrappers import named_modules, named_tensors
from seedbed.spec import Shape

TRIED = (288, 480, 3360)
"""Sizes tried in the place of open ones: most heads and groups divide them, and few constants are one of them."""
TRIED_NEXT = range(1, 513)
"""Tried until two can be built, where those cannot."""


def opened(cls: type[nn.Module], arguments: Sequence[Any], keywords: Mapping[str, Any]) -> nn.Module:
    """A layer of a class, with the sizes that are `Dim`s left open.

    Raises:
        ModelError: The class cannot be built, or is not one layer but another for each size.
    """
    if issubclass(cls, LazyModuleMixin):
        become = cls.cls_to_become
        raise ModelError(
            f"lazy: {cls.__name__} leaves sizes open by itself.",
            remedy=f"Write lazy({become.__name__ if become else 'the class it becomes'}, ...), with dim(axis) for each open size.",
        )
    wanted = Wanted(cls, tuple(arguments), dict(keywords))
    tried, devices = _tries(wanted)
    places = [dict(named_modules(m, remove_duplicate=False)) for m in tried]
    tensors = [dict(named_tensors(m)) for m in tried]
    for other in tensors[1:]:
        same_paths(wanted, tensors[0], other)
    whole, parts = tried[0], _parts(wanted, places)
    new: dict[int, Any] = {}
    for path, tensor in tensors[0].items():
        if path.rpartition(".")[0] in parts and not _shared(tensor, tensors[1][path]):
            new.setdefault(id(tensor), _uninitialized(tensor, devices[path]))
    shapes = {p: _moving([_shape_of(*found, p) for found in zip(places, tensors, strict=True)]) for p in tensors[0]}
    for path, module in parts.items():
        _open(module, _same(places, path), new)
        module._seedbed_shapes = {n: shapes[f"{path}.{n}" if path else n] for n in own_tensors(module)}
    for module in {id(m): m for m in parts.values()}.values():
        later = module._seedbed_lazy = isinstance(module, LazyModuleMixin)
        become = module.cls_to_become if later and module.cls_to_become else type(module)
        module.__class__ = kind_of(Open, cls) if module is whole else kind_of(Part, become)
        module._load_hook = module._register_load_state_dict_pre_hook(module._lazy_load_hook)
    whole._initialize_hook = whole.register_forward_pre_hook(whole._infer_parameters, with_kwargs=True)
    vars(whole)[OPEN] = wanted
    return whole


def _shared(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two builds hold one memory: what was given to them, and is nobody's to leave open."""
    return not is_lazy(one) and not is_lazy(other) and one.untyped_storage()._cdata == other.untyped_storage()._cdata


def _parts(wanted: Wanted, places: Sequence[Mapping[str, nn.Module]]) -> dict[str, nn.Module]:
    """The layers, by path, that the sizes decide: not those given, nor those that are the same for all sizes."""
    given = {id(m) for m in wanted.given}
    first = places[0]
    decided = {
        "",
        *(p for p, m in first.items() if own_tensors(m) or any(_moves(c) for c in _columns(_same(places, p)))),
    }
    return {
        p: m
        for p, m in first.items()
        if id(m) not in given and any(not p or d == p or d.startswith(f"{p}.") for d in decided)
    }


def _same(places: Sequence[Mapping[str, nn.Module]], path: str) -> list[nn.Module]:
    return [modules[path] for modules in places if path in modules]


def _columns(modules: Sequence[nn.Module]) -> Iterator[list[Any]]:
    for name in vars(modules[0]):
        yield [vars(m).get(name) for m in modules]


def _tries(wanted: Wanted) -> tuple[list[nn.Module], dict[str, torch.device]]:
    """The class built with several sizes, and the devices of its tensors.

    Sizes left open are first tried apart from each other, and equal where the class wants them so.
    """
    home, near = torch.empty(0).device, (torch.device("cpu"), META)
    names = [str(dim) for dim in wanted.dims]
    failed: tuple[Exception, dict[str, int]] | None = None
    with undisturbed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for apart in (1, 0) if len(names) > 1 else (0,):
            built: list[nn.Module] = []
            devices: dict[str, torch.device] = {}
            for number, size in enumerate((*TRIED, *TRIED_NEXT)):
                if number >= len(TRIED) and len(built) > 1:
                    break
                sizes = {name: size * (1 + apart * n) for n, name in enumerate(names)}
                try:
                    with without_memory(wanted):
                        built.append(wanted.build(sizes))
                        devices = devices or {p: t.device for p, t in named_tensors(built[0])}
                except Exception as error:  # the class's own code: its error is told below
                    failed = failed or (error, sizes)
                    if isinstance(error, (TypeError, CaptureError)):  # another size would not help
                        break
            if len(built) > 1:
                return built, {p: home if device in near else device for p, device in devices.items()}
    assert failed is not None
    raise _not_built(wanted, *failed) from failed[0]


def _not_built(wanted: Wanted, error: Exception, sizes: Mapping[str, int]) -> ModelError:
    """The error of a class that no size suits; what was tried is not shown."""
    said = (str(error) or repr(error)).splitlines()[0].rstrip(".")
    for size in sizes.values():
        said = re.sub(rf"\b{size}\b", "?", said)
    return ModelError(
        f"lazy: {wanted.cls.__name__} cannot be built: {said}.",
        facts=[f"with    {wanted}", f"raised  {type(error).__name__}"],
        remedy="Give it the arguments that its constructor takes.",
    )


def _shape_of(places: Mapping[str, nn.Module], tensors: Mapping[str, torch.Tensor], path: str) -> Shape:
    place, _, leaf = path.rpartition(".")
    return before_input(places[place], leaf) if is_lazy(tensors[path]) else tuple(tensors[path].shape)


def _moving(shapes: Sequence[Shape]) -> Shape:
    if len({len(s) for s in shapes}) > 1:
        return (None,) * len(shapes[0])
    return tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True))


def _uninitialized(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    kind = UninitializedParameter if isinstance(tensor, nn.Parameter) else UninitializedBuffer
    made = kind(requires_grad=tensor.requires_grad, device=device, dtype=tensor.dtype)
    vars(made).update({k: v for k, v in vars(tensor).items() if k not in vars(made)})
    return made


def _open(module: nn.Module, others: Sequence[nn.Module], new: Mapping[int, Any]) -> None:
    """Put open parameters in, and take out what the tried sizes made."""
    own = vars(module)
    own.pop(NOTE, None)
    own.pop(OPEN, None)
    for name, value in list(own.items()):
        if isinstance(value, dict) and "_hooks" in name:
            value.clear()
        elif isinstance(value, RemovableHandle):
            del own[name]
        elif isinstance(value, torch.Tensor):
            own[name] = value if vars(others[-1]).get(name) is value else None
        elif _moves(values := [vars(m).get(name) for m in others]):
            own[name] = _blanked(values)
    exchange(own, new, set())


def _moves(values: Sequence[Any]) -> bool:
    """Whether the tried sizes decide a number or a text, or one in a list of them."""
    first = values[0]
    if isinstance(first, (int, float, str)):
        return any(type(v) is not type(first) or v != first for v in values)
    if type(first) not in (tuple, list, torch.Size):
        return False
    if any(type(v) is not type(first) or len(v) != len(first) for v in values):
        return True
    return any(map(_moves, zip(*values, strict=True)))


def _blanked(values: Sequence[Any]) -> Any:
    """A value with 0 in the place of numbers that the tried sizes made, as torch's own lazy layers have it."""
    value = values[0]
    if not _moves(values):
        return value
    if isinstance(value, (int, float, str)) or any(type(v) is not type(value) or len(v) != len(value) for v in values):
        return type(value)()
    return type(value)([_blanked(column) for column in zip(*values, strict=True)])
