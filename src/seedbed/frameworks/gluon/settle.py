"""What inputs settle, and what they leave open: sizes that vary are tried at several values and compared."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mxnet.base import MXNetError
from mxnet.gluon import Block, HybridBlock
from mxnet.ndarray import NDArray

from seedbed.errors import InputError, SeedbedError
from seedbed.frameworks.gluon.blocks import parameters, plain, shape_of
from seedbed.frameworks.gluon.dryrun import DoesNotFit, DryRun, Given, NotAGraph
from seedbed.frameworks.gluon.mismatch import explain, zero_width
from seedbed.frameworks.gluon.twin import Twin
from seedbed.frameworks.varying import Axis, Facts, try_sizes
from seedbed.spec import Input, Shape


@dataclass(frozen=True)
class Settlement:
    """What dry runs told of each path.

    Attributes:
        shapes: Sizes that vary are None.
        varies: Which axes of which inputs a path depends on.
        reached: Paths that the inputs used.
    """

    shapes: Mapping[str, Shape]
    varies: Mapping[str, str]
    reached: set[str]


@dataclass(frozen=True)
class Asked:
    """An input as it was given: its name, its shape with None where it varies, and its dtype."""

    name: str
    shape: Shape
    dtype: str


def settle(model: Block, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Settlement:
    """Settle all that the inputs can settle.

    Raises:
        InputError: The inputs are not ones that the model's forward takes.
        ShapeError: Sizes do not fit; the layer that found out is named, and the one it got them from.
    """
    asked = [_asked(value, f"input {i}", _dtype(model)) for i, value in enumerate(inputs)]
    _bind(model, asked, keywords)
    empty = [(leaf.name, axis) for leaf in _leaves(asked) for axis, n in enumerate(leaf.shape) if n == 0]
    axes = [(leaf.name, axis) for leaf in _leaves(asked) for axis, n in enumerate(leaf.shape) if not n]
    fixed = _unified(model, asked) if axes else {}
    free = [axis for axis in axes if axis not in fixed]

    def attempt(sizes: Mapping[Axis, int]) -> tuple[DryRun, Facts]:
        run = _run(model, asked, {**fixed, **sizes})
        return run, {path: (shape_of(shadow), None) for path, shadow in run.twin.shadows.items()}

    tried = try_sizes(attempt, free)
    for path in (p for p in tried.facts if p in tried.moved):
        for name, axis in (a for a in tried.axes[path] if a in empty):
            raise zero_width(path, tuple(n or 0 for n in tried.shapes[path]), f"{name} axis {axis}")
    return Settlement(tried.shapes, tried.varies, tried.run.reached)


def _run(model: Block, asked: Sequence[Any], sizes: Mapping[Axis, int]) -> DryRun:
    run = DryRun(Twin(model))
    try:
        run.run([_given(value, sizes) for value in asked])
    except SeedbedError:
        raise
    except Exception as error:  # whatever the model's own code raised, told as a sentence with its place
        raise explain(error, run) from error
    return run


def _unified(model: Block, asked: Sequence[Any]) -> dict[Axis, int]:
    """Sizes that vary, as far as the other inputs tell them: MXNet lets what is unknown agree with what is known."""
    run = DryRun(Twin(model))
    with contextlib.suppress(NotAGraph, DoesNotFit, MXNetError):  # an operator that needs every size ends it
        run.run([_given(value, {}) for value in asked], graph=True)
    found: dict[Axis, int] = {}
    for number, leaf in enumerate(_leaves(asked)):
        sizes = run.inputs.get(f"input {number}", ())
        found |= {
            (leaf.name, axis): new
            for axis, (old, new) in enumerate(itertools.zip_longest(leaf.shape, sizes))
            if not old and new
        }
    return found


def _asked(value: Any, name: str, dtype: str) -> Any:
    """An input, with `Asked` in place of each shape and array."""
    if isinstance(value, list) and value and all(n is None or type(n) is int for n in value):
        raise InputError(f"{name}: a shape is a tuple, such as (2, 20), got {value!r}.")
    if isinstance(value, Input) or _is_shape(value):
        value = value if isinstance(value, Input) else Input(value)
        return Asked(name, value.shape, value.dtype or dtype)
    if isinstance(value, (NDArray, np.ndarray)):
        return Asked(name, tuple(value.shape), plain(value.dtype))
    if isinstance(value, (tuple, list)):
        return [_asked(v, f"{name}[{i}]", dtype) for i, v in enumerate(value)]
    return value


def _is_shape(value: Any) -> bool:
    return type(value) is tuple and all(n is None or type(n) is int for n in value)


def _leaves(value: Any) -> Iterator[Asked]:
    if isinstance(value, Asked):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)


def _given(value: Any, sizes: Mapping[Axis, int]) -> Any:
    if isinstance(value, Asked):
        return Given(tuple(n or sizes.get((value.name, a)) for a, n in enumerate(value.shape)), value.dtype)
    return [_given(v, sizes) for v in value] if isinstance(value, list) else value


def _dtype(model: Block) -> str:
    found = (plain(held.parameter.dtype) for held in parameters(model))
    return next((dtype for dtype in found if "float" in dtype), "float32")


def _bind(model: Block, asked: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """Raise `InputError` unless the model's forward takes as many inputs."""
    if keywords:
        raise InputError(
            f"{type(model).__name__}: Gluon's blocks take inputs by position, and {next(iter(keywords))!r} has a name.",
            remedy="Give them in the order of the block's forward, without names.",
        )
    kind = type(model)
    hybrid = isinstance(model, HybridBlock) and kind.forward is HybridBlock.forward
    function = kind.hybrid_forward if hybrid else kind.forward
    function = kind.__call__ if kind.__call__ is not Block.__call__ else function
    before = [None, None] if function is getattr(kind, "hybrid_forward", None) else [None]
    named = dict.fromkeys(model._reg_params) if len(before) == 2 else {}
    try:
        signature = inspect.signature(function)
        signature.bind(*before, *asked, **named)
    except ValueError:  # a forward without a signature: let the call itself find out
        return
    except TypeError as error:
        taken = [p for name, p in list(signature.parameters.items())[len(before) :] if name not in named]
        raise InputError(
            f"{kind.__name__}.{function.__name__}: {error}.",
            facts=[f"takes  {', '.join(map(str, taken)) or 'nothing'}", f"given  {len(asked)} by position"],
            remedy="Give one shape, Input or array for each argument, in order.",
        ) from None
