"""The dry run: a fresh twin of the model, run on inputs without values, and thrown away."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from seedbed.errors import InputError, ModelError, SeedbedError, nearest
from seedbed.frameworks.torch.dryrun import DryRun
from seedbed.frameworks.torch.mismatch import explain, judge
from seedbed.frameworks.torch.twin import META, make_twin, undisturbed
from seedbed.frameworks.torch.wrappers import named_modules
from seedbed.spec import Input


def to_meta_inputs(value: Any, model: nn.Module, sizes: Mapping[tuple[str, int], int], name: str) -> Any:
    """Inputs as meta tensors; `sizes` stands in for sizes that vary."""
    likely = isinstance(value, list) and value and all(n is None or type(n) is int for n in value)
    if likely or (isinstance(value, str) and re.fullmatch(r"[\d?]+(x[\d?]+)*", value)):
        raise InputError(f"{name}: a shape is a tuple, such as (2, 20), got {value!r}.")
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


@contextmanager
def _guarded(model: nn.Module) -> Iterator[None]:
    """Raise before a layer of the model itself is called: a function among its attributes reached past the twin."""
    own, here = {id(module): path for path, module in named_modules(model)}, threading.get_ident()

    def refuse(module: nn.Module, args: Any) -> None:
        if id(module) in own and threading.get_ident() == here:  # other threads may call the model meanwhile
            raise ModelError(
                f"{own[id(module)] or 'the model'}: a function that the model holds calls this layer itself, not its copy.",
                remedy="A dry run must not touch the model: make the function a method, which is copied with it.",
                path=own[id(module)],
            )

    handle = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


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
    run = DryRun(twin, judge)
    try:
        with torch.no_grad(), undisturbed(), META, _guarded(model), run:
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
