"""Layers of any class whose sizes are left open: shown with their `?`, settled by their first input.

The class is built without memory, with sizes tried in the place of the open ones; which sizes of its
parameters move is seen by comparing. What is kept of it is the structure, with PyTorch's own
uninitialized parameters in it. Once the sizes are known the class is built again, and the layer
becomes what was built: the same modules, the same parameters, now with sizes.
"""

from __future__ import annotations

import functools
import inspect
import re
import threading
import types
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.hooks import RemovableHandle

from seedbed.errors import InputError, ModelError, SeedbedError, ShapeError, UninitializedError
from seedbed.frameworks.torch import capture
from seedbed.frameworks.torch.noted import NOTE, note_of, settled_now
from seedbed.frameworks.torch.twin import OPEN, undisturbed
from seedbed.frameworks.torch.wrappers import named_modules, named_tensors
from seedbed.spec import Dim, Shape

SETTLING = threading.RLock()


@dataclass
class Wanted:
    """What an open layer is to become.

    Attributes:
        cls: The class.
        arguments: What it is made with, `Dim`s in the place of open sizes.
        keywords: The same, by name.
        path: Where the layer is in its model, once that is known.
        sizes: What became of the open sizes, by their text; kept by layers of a twin.
        twin: Whether the layer is one.
    """

    cls: type[nn.Module]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    path: str = ""
    sizes: dict[str, int] | None = None
    twin: bool = False

    @property
    def dims(self) -> tuple[Dim, ...]:
        """Each size left open, once."""
        leaves = pytree.tree_leaves((self.arguments, self.keywords))
        return tuple(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, Dim)))

    @property
    def given(self) -> list[nn.Module]:
        """The layers that it is made with, and those inside them."""
        leaves = pytree.tree_leaves((self.arguments, self.keywords))
        return [m for leaf in leaves if isinstance(leaf, nn.Module) for m in leaf.modules()]

    @property
    def name(self) -> str:
        """The layer in an error."""
        return f"{self.path}: {self.cls.__name__}" if self.path else self.cls.__name__

    def build(self, sizes: Mapping[str, int]) -> nn.Module:
        """One of the class, with the sizes in their places."""
        arguments, keywords = pytree.tree_map(
            lambda leaf: sizes[str(leaf)] if isinstance(leaf, Dim) else leaf, (self.arguments, self.keywords)
        )
        return self.cls(*arguments, **keywords)

    def told_by(self, layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, int]:
        """The open sizes, from the inputs of a call.

        Raises:
            InputError: The inputs have no such size.
        """
        names: list[str] = []
        named: Mapping[str, Any] = kwargs
        with suppress(TypeError, ValueError):  # the call itself will tell what is wrong
            signature = inspect.signature(layer.forward)
            named = signature.bind(*args, **kwargs).arguments
            names = list(signature.parameters)
        given = list(args) + [named[name] for name in names[len(args) :] if name in named]
        shapes = [_shape(value) for value in given]
        found = {}
        for dim in self.dims:
            by_name = {k: _shape(v) for k, v in named.items()} if isinstance(dim.input, str) else {}
            try:
                size = dim.of([] if by_name else shapes, by_name)
            except InputError as error:
                raise InputError(
                    f"{self.name}: {error.sentence}",
                    facts=error.facts,
                    remedy="Name an axis that the input has: dim(-1) is the last one of the first input.",
                    path=self.path,
                ) from None
            assert size is not None
            found[str(dim)] = int(size)
        return found

    def __str__(self) -> str:
        return ", ".join([*map(_text, self.arguments), *(f"{k}={_text(v)}" for k, v in self.keywords.items())])


def _shape(value: Any) -> Shape:
    value = value.data if isinstance(value, PackedSequence) else value
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_text, value))}{',' * (len(value) == 1)})"
    if isinstance(value, (nn.Module, torch.Tensor)):
        return f"<{type(value).__name__}>"
    return str(value) if isinstance(value, Dim) else repr(value)


class Unsettled(nn.Module):
    """A layer whose sizes are open, or a part of one."""

    cls_to_become: ClassVar[type[nn.Module]]
    _seedbed_shapes: dict[str, Shape]
    _seedbed_lazy: bool
    _lazy_load_hook = LazyModuleMixin._lazy_load_hook
    _save_to_state_dict = LazyModuleMixin._save_to_state_dict

    def flatten_parameters(self) -> None:
        """Nothing is there yet that a GPU could have in one piece."""

    def extra_repr(self) -> str:
        return str(vars(self).get(OPEN, ""))

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = self.__getstate__() if hasattr(self, "__getstate__") else dict(vars(self))
        return _blank, (Open if isinstance(self, Open) else Part, self.cls_to_become), state


class Part(Unsettled):
    """A layer inside one of open sizes, which settles it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Not yet: its sizes are not settled."""
        raise UninitializedError(
            f"{type(self).__name__}: is called before the layer that it is a part of, and that one settles its sizes.",
            remedy="Call that layer once, or give the model inputs:\n    seedbed.initialize(model, (batch, features), ...)",
        )


class Open(LazyModuleMixin, Unsettled):
    """A layer whose sizes are open."""

    def has_uninitialized_params(self) -> bool:
        """Whether it, or a part of it, still waits for sizes."""
        return any(is_lazy(t) for m in self.modules() if isinstance(m, Unsettled) for t in own_tensors(m).values())

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Settle the sizes by the inputs of a call, with the values that the class's constructor gives."""
        settle(self, vars(self)[OPEN].told_by(self, args, kwargs), values=True)

    def _infer_parameters(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        with SETTLING, torch.inference_mode(mode=False):  # memory made in inference mode could not be trained
            if isinstance(module, Open):  # another thread may have been first
                module.initialize_parameters(*args, **(kwargs or {}))


@functools.cache
def kind_of(kind: type[Unsettled], cls: type[nn.Module]) -> type[nn.Module]:
    """The class of an open layer, or of a part of one, that is to become one of `cls`."""
    body = {"cls_to_become": cls, "__module__": cls.__module__, "__doc__": cls.__doc__}
    return types.new_class(f"Lazy{cls.__name__}", (kind, cls), {}, lambda space: space.update(body))


def _blank(kind: type[Unsettled], cls: type[nn.Module]) -> nn.Module:
    made = kind_of(kind, cls)
    return made.__new__(made)


def own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """A layer's own parameters and buffers."""
    return {n: t for n, t in (*module._parameters.items(), *module._buffers.items()) if t is not None}


def before_input(module: nn.Module, name: str) -> Shape:
    """The shape of a lazy layer's parameter before any input, with None for what only an input can tell."""
    if isinstance(module, Unsettled) and name in module._seedbed_shapes:
        return module._seedbed_shapes[name]
    if isinstance(module, nn.LazyLinear):
        return (module.out_features, None) if name == "weight" else (module.out_features,)
    if isinstance(module, LazyModuleMixin) and isinstance(module, nn.modules.conv._ConvNd):
        if name == "bias":
            return (module.out_channels,)
        ends = (None, module.out_channels // module.groups) if module.transposed else (module.out_channels, None)
        return (*ends, *module.kernel_size)
    return () if name == "num_batches_tracked" else (None,)


@contextmanager
def without_memory(wanted: Wanted) -> Iterator[None]:
    """A context in which an open layer's class is built without memory, and what its constructor does is recorded."""
    given = [m for m in wanted.given if note_of(m) is None]
    with ExitStack() as stack:
        if capture.active() is None:
            stack.enter_context(_disable_current_modes())
        for module in given:  # of layers that were built before, nothing was recorded
            stack.callback(vars(module).pop, NOTE, None)
        stack.enter_context(capture.deferred())
        yield


def same_paths(wanted: Wanted, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise `ModelError` when two builds have other parameters."""
    apart = sorted(set(one) ^ set(other))
    if apart:
        raise ModelError(
            f"{wanted.name}: has other parameters for other sizes, and cannot be shown before they are known.",
            facts=[f"such as  {re.sub(r'[0-9]+', '?', apart[0])}"],
            remedy=f"Give the size as a number, or build {wanted.cls.__name__} at the first call.",
            path=wanted.path,
        )


def exchange(value: Any, new: Mapping[int, Any], seen: set[int]) -> Any:
    """A value with other tensors and modules in the place of some, lists and tables of them changed in place."""
    if isinstance(value, (torch.Tensor, nn.Module)):
        return new.get(id(value), value)
    if isinstance(value, weakref.ref):
        target = value()
        return weakref.ref(new[id(target)]) if id(target) in new else value
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, new[id(value.__self__)]) if id(value.__self__) in new else value
    if isinstance(value, functools.partial):
        return functools.partial(
            exchange(value.func, new, seen),
            *(exchange(v, new, seen) for v in value.args),
            **{k: exchange(v, new, seen) for k, v in value.keywords.items()},
        )
    if type(value) is tuple:
        return tuple(exchange(v, new, seen) for v in value)
    if isinstance(value, (list, dict)) and id(value) not in seen:
        seen.add(id(value))
        for k, v in list(enumerate(value) if isinstance(value, list) else value.items()):
            other = exchange(v, new, seen)
            if other is not v:
                value[k] = other
    return value


def settle(layer: Open, sizes: Mapping[str, int], *, values: bool) -> None:
    """Let a layer become what its class makes of the sizes.

    Parameters get memory where they are; on the meta device they get none.

    Args:
        layer: The layer.
        sizes: By the text of each size left open.
        values: Whether parameters that get memory get the constructor's values too, or a plan follows.

    Raises:
        ShapeError: The class cannot be built with these sizes, or the layer holds values of others.
    """
    wanted: Wanted = vars(layer)[OPEN]
    parts = {p: m for p, m in named_modules(layer, remove_duplicate=False) if isinstance(m, Unsettled)}
    values = values and not any(is_lazy(t) and t.is_meta for m in parts.values() for t in own_tensors(m).values())
    made = _made(wanted, sizes, values=values)
    ours, theirs = dict(named_tensors(layer)), dict(named_tensors(made))
    same_paths(
        wanted,
        {p: t for p, t in ours.items() if p.rpartition(".")[0] in parts},
        {p: t for p, t in theirs.items() if p.rpartition(".")[0] in parts},
    )
    pairs = {p: (ours[p], t) for p, t in theirs.items() if p.rpartition(".")[0] in parts and not is_lazy(t)}
    for path, (own, tensor) in pairs.items():
        if not is_lazy(own) and own.shape != tensor.shape:
            raise _of_another_size(wanted, path, own, tensor)
    for own, tensor in pairs.values():
        if is_lazy(own):
            _fill(own, tensor, values=values)
    places = dict(named_modules(made, remove_duplicate=False))
    held = dict(named_modules(layer, remove_duplicate=False))
    new: dict[int, Any] = {id(m): held[p] for p, m in places.items() if p in held}
    new |= {id(t): ours[p] for p, t in theirs.items() if p in ours}
    for path, module in {id(m): (p, m) for p, m in parts.items() if p in places}.values():
        _take_over(module, places[path], new)
    if wanted.twin:
        wanted.sizes = dict(sizes)
        vars(layer)[OPEN] = wanted
        for path, module in named_modules(layer):  # those that its constructor made
            if path and OPEN in vars(module):
                vars(module)[OPEN].path, vars(module)[OPEN].twin = f"{wanted.path}.{path}".lstrip("."), True


def _made(wanted: Wanted, sizes: Mapping[str, int], *, values: bool) -> nn.Module:
    try:
        if values:
            with torch.enable_grad():
                return wanted.build(sizes)
        with undisturbed(), without_memory(wanted):
            built = wanted.build(sizes)
    except SeedbedError:
        raise
    except Exception as error:  # the class's own code, told as a sentence with the sizes
        said = (str(error) or repr(error)).splitlines()[0]
        raise ShapeError(
            f"{wanted.name} cannot be built with the sizes of its input.",
            facts=[*(f"{dim}  {size}" for dim, size in sizes.items()), f"said  {type(error).__name__}: {said}"],
            remedy="Give it an input of sizes that it takes, or other arguments.",
            path=wanted.path,
            got=None,
            source="",
        ) from error
    settled_now(built)  # the layer puts tensors of its own in their place
    return built


def _of_another_size(wanted: Wanted, path: str, own: torch.Tensor, made: torch.Tensor) -> ShapeError:
    whole = f"{wanted.path}.{path}" if wanted.path else path
    return ShapeError(
        f"{whole}: holds values of another size than its layer is to have.",
        facts=[f"expected  {tuple(made.shape)}, by {wanted.cls.__name__}", f"got       {tuple(own.shape)}"],
        remedy="Load a checkpoint of this model, or give inputs of the sizes that the checkpoint was made with.",
        path=whole,
        expected=tuple(made.shape),
        got=tuple(own.shape),
        source="",
    )


def _fill(own: torch.Tensor, made: torch.Tensor, *, values: bool) -> None:
    """Give a parameter the size of the one that was made, its class and attributes, and its values if they are there."""
    own.materialize(tuple(made.shape))
    if isinstance(own, nn.Parameter):
        own.__class__ = type(made)
    vars(own).update({k: v for k, v in vars(made).items() if k not in vars(own)})
    if values or not made.is_meta:
        with torch.no_grad():
            own.copy_(made)


def _take_over(module: nn.Module, made: nn.Module, new: Mapping[int, Any]) -> None:
    """Let a layer be what was made, with its own parts and parameters, and what was done to it since."""
    own, theirs = vars(module), vars(made)
    for handle in ("_initialize_hook", "_load_hook"):
        if handle in own:
            own.pop(handle).remove()
    exchange(theirs, new, set())
    for name, hooks in own.items():
        if isinstance(hooks, dict) and "_hooks" in name and name in theirs:
            before = dict(hooks)
            hooks.clear()
            hooks.update({**theirs[name], **before})
            for handle in (v for v in theirs.values() if isinstance(v, RemovableHandle)):
                if handle.hooks_dict_ref() is theirs[name]:
                    handle.hooks_dict_ref = weakref.ref(hooks)
            theirs[name] = hooks
    more = {k: v for k, v in own.items() if k not in theirs and not k.startswith("_seedbed_")}
    theirs.update(more, training=module.training)
    object.__setattr__(module, "__dict__", theirs)
    module.__class__ = type(made)
