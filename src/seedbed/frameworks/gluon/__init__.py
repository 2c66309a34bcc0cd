"""MXNet Gluon: its models traced, its parameters placed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from seedbed.errors import InputError, ModelError

try:
    import mxnet as mx
except AttributeError as error:
    import numpy as np

    raise ModelError(
        f"MXNet cannot be imported beside numpy {np.__version__}: {error}.",
        facts=["MXNet 1.9.1 uses names that numpy 1.24 no longer has."],
        remedy="Install one that has them, on Python 3.11 or older:\n    pip install 'mxnet==1.9.1' 'numpy<1.24'",
    ) from error

from mxnet.gluon import Block, Constant, HybridBlock

from seedbed.frameworks import Room
from seedbed.frameworks.gluon import layers, natives, place, settle, wish
from seedbed.frameworks.gluon.blocks import Held, owners, plain, shape_of
from seedbed.frameworks.gluon.memory import Values, values_of
from seedbed.initializers import Initializer, Native
from seedbed.materialize import Which
from seedbed.plan import Plan
from seedbed.recipe import Recipe
from seedbed.spec import Layout, ParamSpec, Shape, Specs

name = "gluon"


def owns(model: Any) -> bool:
    """Whether `model` is a Gluon block."""
    return isinstance(model, Block)


def owns_values(values: Mapping[str, Any]) -> bool:
    """Whether a mapping holds MXNet's arrays and nothing else."""
    return all(isinstance(v, mx.nd.NDArray) for v in values.values())


def trace(model: Block, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Specs:
    """Every parameter and buffer; their sizes as settled by a dry run when there are inputs."""
    held = owners(model)
    settled = settle.settle(model, inputs, keywords) if inputs or keywords else None
    params = []
    for path, (owner, aliases) in held.items():
        shape = settled.shapes[path] if settled else shape_of(owner.parameter)
        reached = bool(settled.reached & {path, *aliases}) if settled else None
        varies = settled.varies.get(path, "") if settled else ""
        params.append(_spec(owner, aliases, shape, reached, varies))
    return Specs(tuple(params), name)


def _spec(held: Held, aliases: tuple[str, ...], shape: Shape, reached: bool | None, varies: str) -> ParamSpec:
    parameter, block = held.parameter, held.block
    use = layers.use(block, held.leaf, len(shape))
    buffer = layers.is_buffer(parameter, held.leaf)
    start, origin = _own_start(held, shape)
    return ParamSpec(
        path=held.path,
        shape=shape,
        dtype=plain(parameter.dtype),
        role="buffer" if buffer else use.role,
        axes=use.axes if not buffer and len(use.axes) == len(shape) else (),
        packed=use.packed if not buffer and len(use.packed) == len(shape) else (),
        groups=use.groups,
        layer=type(block).__name__,
        bases=tuple(
            c.__name__ for c in type(block).__mro__[1:] if issubclass(c, Block) and c not in (Block, HybridBlock)
        ),
        kind="buffer" if buffer else "parameter",
        start=start,
        origin=origin,
        aliases=aliases,
        layout=Layout(order=use.order) if use.order else None,
        unit=f"{held.path.rpartition('.')[0]}{use.within}" if use.within else None,
        leaf=use.leaf if use.leaf != held.leaf else "",
        lazy=None in shape,
        reached=reached,
        varies=varies,
    )


def _own_start(held: Held, shape: Shape) -> tuple[Initializer | None, str]:
    """How Gluon starts a parameter, and who said so."""
    parameter, layer = held.parameter, type(held.block).__name__
    if isinstance(parameter, Constant):
        return natives.own_constant(parameter), f"{layer}.{held.leaf} ({natives.VERSION})"
    native = wish.native_of(parameter)
    if parameter.init is None or (native is not parameter.init and native != parameter.init):
        who = "Block.initialize"
    else:
        who = f"{layer}.{held.leaf}_initializer"
    return natives.started(native, held.path, shape), f"{who} ({natives.VERSION})"


def translate(native: Native, spec: ParamSpec) -> Initializer:
    """One of Gluon's own initializers as ours."""
    return natives.translate(native, spec)


def slot(initializer: Initializer) -> Any:
    """One of ours as one of Gluon's, for `weight_initializer=` and `net.initialize`."""
    return natives.slot(initializer)


def fit(plan: Plan, model: Block) -> None:
    """Raise `PlanError` unless the plan is for this model."""
    place.fit(plan, model)


@contextmanager
def placing(plan: Plan, model: Block, device: Any, sharding: Any, which: Which) -> Iterator[Room]:
    """Where the plan's values go, in the model."""
    if sharding is not None:
        raise InputError(
            "sharding: Gluon has none; each of its contexts holds whole parameters.",
            remedy="Leave it out. For a copy on each of several contexts write device=[...].",
        )
    with place.placing(plan, model, place.contexts_of(device), which) as jobs:
        yield Room(jobs, lambda: model)


def keep(
    model: Block, specs: Specs, recipe: Recipe | None, seed: int, streams: Mapping[str, str] | None, device: Any
) -> Block:
    """Keep the wish in the parameters that wait for their sizes."""
    wish.keep(model, specs, recipe, seed, streams, place.contexts_of(device))
    return model


def ranks(model: Any) -> None:
    """One process holds all of a model."""


def values(model: Any) -> dict[str, Values]:
    """The arrays of a model or of a mapping, by every path."""
    return place.held_values(model) if isinstance(model, Block) else values_of(model)


def apply(model: Block, function: Any) -> None:
    """The chapters' way: call `function` on every block."""
    model.apply(function)


def is_native(function: Any) -> bool:
    """Whether a callable is an initializer of Gluon's own."""
    return natives.is_native(function)


def owns_class(cls: type) -> bool:
    """Whether a class is one of Gluon's layers."""
    return issubclass(cls, Block)


def lazy(cls: type, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Gluon's layers leave sizes open by themselves."""
    raise ModelError(
        f"lazy: {cls.__name__} is Gluon's, whose layers take sizes from their input by themselves.",
        remedy=f"Use it as it is: {cls.__name__}(...).",
    )


def deferred() -> AbstractContextManager[None]:
    """Nothing to do: Gluon's constructors make no memory."""
    return nullcontext()


def recording() -> bool:
    """Never: there is nothing to record."""
    return False
