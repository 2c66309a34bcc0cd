"""Initializers of `torch.nn.init` that read what they draw: recorded under their names instead.

Those that most layers call only fill; they are recorded at once as what they come down to, which takes a
fifth of the time that PyTorch's way there does.

Their code objects are replaced while a `deferred()` is open, because other modules hold the functions
themselves. Calls on other tensors, and from other threads, run the original.
"""

from __future__ import annotations

import inspect
import math
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import _disable_current_modes

from seedbed.fill import Draw
from seedbed.initializers import Dirac, Identity, Initializer, Orthogonal, Sparse, TruncatedNormal

NAMES = ("trunc_normal_", "orthogonal_", "sparse_", "eye_", "dirac_")
ASKS = "_is_orthogonal"
"""What the orthogonal parametrization asks of a matrix; of one that is drawn, the draw tells."""
PICKLES = "_reduce_ex_internal"
"""What pickle asks of a tensor: a file gets values. A shallow copy asks it too, and shares memory."""
_lock = threading.Lock()
_open = 0
_originals: dict[str, types.FunctionType] = {}
_replaced: list[tuple[types.FunctionType, types.CodeType]] = []
_active: Callable[[], Any] = bool


def draws(name: str) -> bool:
    """Whether an initializer is random."""
    return name not in ("eye_", "dirac_")


def initializer(name: str, a: Mapping[str, Any]) -> Initializer | None:
    """One of seedbed's, for an initializer of torch's and its arguments; None where seedbed has none."""
    if name == "trunc_normal_":
        return truncated(a)
    if name == "orthogonal_":
        return Orthogonal(gain=a["gain"])
    if name == "sparse_":
        return Sparse(sparsity=a["sparsity"], std=a["std"])
    return Identity() if name == "eye_" else Dirac(groups=a["groups"])


def truncated(a: Mapping[str, Any]) -> TruncatedNormal | None:
    """Torch cuts at absolute bounds, seedbed at standard deviations."""
    low, high = a["mean"] - a["a"], a["b"] - a["mean"]
    if abs(low - high) > 1e-6 * max(abs(low), abs(high)) or low <= 0 or a["std"] <= 0:
        return None
    return TruncatedNormal(mean=a["mean"], std=a["std"], cut=low / a["std"])


def carry_out(name: str, a: Mapping[str, Any], tensor: torch.Tensor, draw: Draw) -> None:
    """Fill a real tensor as the initializer would, from seedbed's numbers."""
    start = initializer(name, a)
    if start is not None:
        tensor.copy_(torch.from_numpy(draw.made(start)))
        return
    u = torch.from_numpy(draw.uniform()).double()  # the inverse of the distribution function, cut at both ends
    low, high = ((1 + math.erf((a[end] - a["mean"]) / a["std"] / math.sqrt(2))) / 2 for end in ("a", "b"))
    z = torch.special.ndtri(low + (high - low) * u) * a["std"] + a["mean"]
    tensor.copy_(z.clamp(a["a"], a["b"]))


def _plain(*values: Any) -> bool:
    return all(type(v) in (int, float) for v in values)


def _kaiming_uniform(
    tensor: torch.Tensor, a: float = 0, mode: Any = "fan_in", nonlinearity: Any = "leaky_relu", generator: Any = None
) -> tuple[Any, ...] | None:
    if generator is not None or 0 in tensor.shape:
        return None
    if not _plain(a):
        return None
    std = nn.init.calculate_gain(nonlinearity, a) / math.sqrt(nn.init._calculate_correct_fan(tensor, mode))
    return torch.ops.aten.uniform_.default, -math.sqrt(3.0) * std, math.sqrt(3.0) * std


def _normal(tensor: torch.Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> tuple[Any, ...] | None:
    plain = generator is None and _plain(mean, std)
    return (torch.ops.aten.normal_.default, mean, std) if plain else None


def _uniform(tensor: torch.Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> tuple[Any, ...] | None:
    plain = generator is None and _plain(a, b)
    return (torch.ops.aten.uniform_.default, a, b) if plain else None


def _ones(tensor: torch.Tensor) -> tuple[Any, ...]:
    return torch.ops.aten.fill_.Scalar, 1.0


def _zeros(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (torch.ops.aten.zero_.default,)


FILLS: dict[str, Callable[..., tuple[Any, ...] | None]] = {
    "kaiming_uniform_": _kaiming_uniform,
    "normal_": _normal,
    "ones_": _ones,
    "uniform_": _uniform,
    "zeros_": _zeros,
}
"""What an initializer comes down to: an operator and its arguments."""


def fill(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the replaced functions do that only fill."""
    recording = _active()
    if recording and recording.undisturbed():
        with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():  # as an operator is recorded
            try:
                made = FILLS[name](*args, **kwargs)
            except (TypeError, ValueError):  # the original says what is wrong
                made = None
            tensor = args[0] if args else kwargs.get("tensor")
            known = type(tensor) in (torch.Tensor, nn.Parameter) and not is_functorch_wrapped_tensor(tensor)
            if made and known and recording.fill(made[0], (tensor, *made[1:])):
                torch.autograd.graph.increment_version(tensor)
                return tensor
    return _originals[name](*args, **kwargs)


def call(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the replaced functions do."""
    original, recording = _originals[name], _active()
    if name == ASKS and recording and (answer := recording.drawn_by(args[0])):
        return answer == "orthogonal_"
    if name == PICKLES:
        frame = sys._getframe(3)
        copies = any(f and f.f_globals.get("__name__") == "copy" for f in (frame, frame.f_back))
        known = recording and not copies and recording.cell_of(args[0])
        if not known:
            return original(*args)
        with _disable_current_modes():
            return original(recording.real(args[0]), *args[1:])
    if recording:
        bound = inspect.signature(original).bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = {k: v for k, v in bound.arguments.items() if k not in ("tensor", "generator")}
        tensor = bound.arguments["tensor"]
        brought = bound.arguments.get("generator") not in (None, torch.default_generator)  # draws for itself
        if not brought and recording.divert(name, tensor, arguments):
            return tensor
    return original(*args, **kwargs)


def _functions() -> list[tuple[str, types.FunctionType]]:
    """Those that are torch's own; what somebody put in their place is theirs."""
    named = [(name, getattr(nn.init, name, None)) for name in (*NAMES, *FILLS)]
    named += [(ASKS, getattr(parametrizations, ASKS, None)), (PICKLES, getattr(torch.Tensor, PICKLES, None))]
    return [
        (name, function)
        for name, function in named
        if isinstance(function, types.FunctionType)
        and function.__module__.startswith("torch.")
        and function.__name__ == name
        and not function.__code__.co_freevars
    ]


def _stand_in(name: str) -> types.CodeType:
    way = "fill" if name in FILLS else "call"
    source = f"def {name}(*args, **kwargs):\n    from seedbed.frameworks.torch.diverted import {way}\n    return {way}({name!r}, args, kwargs)\n"
    scope: dict[str, Any] = {}
    exec(compile(source, "torch.nn.init", "exec"), scope)  # noqa: S102 -- the text above
    code: types.CodeType = scope[name].__code__
    return code


@contextmanager
def diverting(active: Callable[[], Any]) -> Iterator[None]:
    """Inside, the functions record on tensors of an active recording."""
    global _open, _active  # noqa: PLW0603 -- one pair of hands for all threads
    with _lock:
        _active = active
        if _open == 0:
            for name, function in _functions():
                kept = types.FunctionType(
                    function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
                )
                kept.__kwdefaults__, kept.__annotations__ = function.__kwdefaults__, function.__annotations__
                _originals[name] = kept
                _replaced.append((function, function.__code__))
                function.__signature__ = inspect.signature(kept)  # type: ignore[attr-defined]
                function.__code__ = _stand_in(name)
        _open += 1
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            while _open == 0 and _replaced:
                function, code = _replaced.pop()
                function.__code__ = code
                del function.__signature__  # type: ignore[attr-defined]
