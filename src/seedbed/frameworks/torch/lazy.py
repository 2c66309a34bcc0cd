"""Lazy layers: shown before they have sizes, settled in place, and started at the first call.

torch's own lazy layers settle themselves in the first forward, one at a time, and are not safe
when two threads make that call. Here all are settled at once, behind a lock, to the plan's sizes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import lazy as torch_lazy
from torch.nn.parameter import UninitializedParameter, is_lazy

from seedbed.errors import ShapeError, UninitializedError
from seedbed.frameworks.torch.twin import OPEN
from seedbed.frameworks.torch.unsettled import Open, Unsettled, before_input, settle
from seedbed.frameworks.torch.wrappers import author_class, named_modules, named_tensors
from seedbed.plan import Plan
from seedbed.recipe import Recipe
from seedbed.spec import ParamSpec, Specs

STARTING = threading.RLock()
"""Held while a kept wish is carried out, so that threads that make the first call wait for it."""

REMEDY = (
    "Give the model inputs, and the values exist:\n"
    "    seedbed.initialize(model, (batch, features), ...)\n"
    "or call the model once, which carries out the wish that was kept."
)


def waits(module: nn.Module) -> bool:
    """Whether a layer still waits for an input."""
    return isinstance(module, torch_lazy.LazyModuleMixin) and module.has_uninitialized_params()


def fits(module: nn.Module, path: str, tensor: torch.Tensor) -> None:
    """Raise `ShapeError` when a lazy layer holds a loaded parameter that its own sizes contradict."""
    if not isinstance(module, (torch_lazy.LazyModuleMixin, Unsettled)) or is_lazy(tensor):
        return
    expected = before_input(module, path.rpartition(".")[2])
    if len(expected) == tensor.dim() and any(n not in (None, m) for n, m in zip(expected, tensor.shape, strict=True)):
        wanted = ParamSpec(path=path, shape=expected).shown_shape
        raise ShapeError(
            f"{path}: holds values of another size than its layer is to have.",
            facts=[
                f"expected  {wanted}, by {type(module).__name__}",
                f"got       {tuple(tensor.shape)}, from a checkpoint",
            ],
            remedy="Load a checkpoint of this model, or build the layer with the checkpoint's sizes.",
            path=path,
            expected=expected,
            got=tuple(tensor.shape),
        )


def becomes(module: nn.Module) -> type[nn.Module]:
    """The class a lazy layer turns into; any other layer's own."""
    if isinstance(module, (torch_lazy.LazyModuleMixin, Unsettled)) and module.cls_to_become is not None:
        return module.cls_to_become
    return author_class(module)


class UnstartedParameter(UninitializedParameter):
    """torch's lazy parameter, with errors that name it."""

    _seedbed_path: str

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        silent = (torch.Tensor.size, torch.Tensor.ndim.__get__, torch.Tensor.T.__get__, torch.Tensor.nbytes.__get__)
        lost = next((a for a in (*args, *(kwargs or {}).values()) if isinstance(a, cls)), None)
        error = unstarted(getattr(lost, "_seedbed_path", "a parameter"))
        if func in silent:
            raise error
        try:
            return super().__torch_function__(func, types, args, kwargs)
        except ValueError:
            raise error from None

    @property
    def shape(self) -> Any:
        """Not known yet."""
        raise unstarted(self._seedbed_path)

    @property
    def data(self) -> Any:
        """Not there yet: what was written to it would be lost."""
        raise unstarted(self._seedbed_path)

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if not is_lazy(value) and value.numel():  # torch itself sets empty ones, when it changes dtype or device
            raise unstarted(self._seedbed_path)
        torch.Tensor.data.__set__(self, value)

    def materialize(self, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Become an ordinary parameter, as torch's own does."""
        self.__class__ = UninitializedParameter
        self.materialize(shape, device, dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> UnstartedParameter:
        if id(self) not in memo:
            twin = type(self)(self.requires_grad, self.device, self.dtype)
            twin._seedbed_path = self._seedbed_path
            memo[id(self)] = twin
        found: UnstartedParameter = memo[id(self)]
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As torch's own, so that a pickled model opens where seedbed is not installed."""
        return UninitializedParameter, (self.requires_grad, self.device, self.dtype)


def unstarted(path: str) -> UninitializedError:
    """The error of reading what has no value yet."""
    return UninitializedError(f"{path}: has no value yet, because its size is not settled.", remedy=REMEDY, path=path)


def name_parameters(model: nn.Module) -> None:
    """Let lazy parameters say their path when they are read too early, and open layers in their errors."""
    for path, module in named_modules(model):
        if OPEN in vars(module):
            vars(module)[OPEN].path = path
    for path, parameter in named_tensors(model):
        if type(parameter) is UninitializedParameter:
            parameter.__class__ = UnstartedParameter
            parameter._seedbed_path = path


def settle_layers(model: nn.Module, plan: Plan, *, but: tuple[str, ...]) -> list[nn.Module]:
    """Turn lazy layers into what they become, of the plan's shapes, on their device, without values.

    Their wishes stay until the values are there, so that a thread that calls one of them waits.

    Args:
        model: The model.
        plan: What the layers become.
        but: Beginnings of paths to leave alone.
    """
    attributes: Mapping[str, Any] = {s.path: dict(s.attributes) for s in plan.settled}
    found = []
    for path, module in named_modules(model):
        if path not in attributes or path.startswith(but) or not isinstance(module, torch_lazy.LazyModuleMixin):
            continue
        found.append(module)
        if isinstance(module, Open):
            settle(module, attributes[path], values=False)
            continue
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and is_lazy(tensor):
                tensor.materialize(plan[f"{path}.{name}" if path else name].spec.sizes)
        vars(module).update(attributes[path])
        for handle in ("_initialize_hook", "_load_hook"):
            if hasattr(module, handle):
                getattr(module, handle).remove()
                delattr(module, handle)
        module.__class__ = becomes(module)
    return found


def wished_for_alone(model: nn.Module) -> tuple[str, ...]:
    """Beginnings of the paths below parts of a model that keep a wish of their own, asked for after the model's."""
    return tuple(
        f"{path}."
        for path, module in named_modules(model)
        if path and any(isinstance(h, Wish) and h.whole is None for h in module._forward_pre_hooks.values())
    )


@dataclass(eq=False)
class Wish:
    """A start asked for before the sizes are known: a hook that carries it out at the first call.

    On the model itself it starts all that the call reaches. On each lazy layer stands one for that layer
    alone, for calls that do not pass through the model; `whole` holds the layer's specs as the model has them.
    """

    recipe: Recipe | None
    seed: int
    streams: Mapping[str, str] | None
    device: torch.device | None
    whole: Mapping[str, ParamSpec] | None = None
    handle: Any = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        carry_out = self._carry_out
        if "torch._dynamo" in sys.modules:  # in a compiled model's first call: a start is not to be compiled
            carry_out = torch.compiler.disable(carry_out)
        carry_out(module, args, kwargs)

    def _carry_out(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with STARTING:
            if self.handle is None:
                return
            from seedbed import verbs

            verbs.start(module, args, kwargs, self.recipe, self.seed, self.streams, self.whole, self.device)

    def drop(self) -> None:
        """Forget the wish."""
        if self.handle is not None:
            self.handle.remove()
            self.handle = None


def keep(model: nn.Module, specs: Specs, wish: Wish) -> None:
    """Keep a wish until the first call; the last one asked for is the one carried out."""
    with STARTING:
        forget(model.modules())
        _hook(model, wish)
        for path, module in named_modules(model):
            if path and waits(module):
                names = [name for name, _ in named_tensors(module)]
                own = {n: specs[f"{path}.{n}"] for n in names if f"{path}.{n}" in specs.paths}
                streams = {
                    s.path: next((v for p, v in (wish.streams or {}).items() if p in s.paths), s.path)
                    for s in own.values()
                }
                _hook(module, Wish(wish.recipe and wish.recipe.lenient(), wish.seed, streams, wish.device, own))
        name_parameters(model)


def _hook(module: nn.Module, wish: Wish) -> None:
    if isinstance(module, torch_lazy.LazyModuleMixin) and hasattr(module, "_initialize_hook"):
        # torch's own hook would settle the layer with torch's start, or run on one that is lazy no more.
        module._initialize_hook.remove()
    wish.handle = module.register_forward_pre_hook(wish, prepend=True, with_kwargs=True)


def forget(modules: Iterable[nn.Module]) -> None:
    """Drop the wishes that modules keep."""
    for module in modules:
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, Wish):
                hook.drop()
