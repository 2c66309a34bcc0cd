"""A start asked for before the sizes are known: Gluon's own way, kept in the parameters themselves.

Gluon remembers an initializer with each parameter whose sizes are unknown, and calls it when the first input tells
them. Seedbed's wish is such an initializer. The parameters that carry one are of a class of their own until they have
values: they name themselves when they are read too early, threads that make the first call together wait for
each other, and an initializer that is asked for afterwards says that it takes the wish's place.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mxnet as mx
from mxnet import initializer as mxinit
from mxnet.gluon import Block, HybridBlock, Parameter
from mxnet.gluon.parameter import DeferredInitializationError

from seedbed.errors import UninitializedError
from seedbed.frameworks.gluon import natives
from seedbed.frameworks.gluon.blocks import blocks, known, owners, parameters
from seedbed.frameworks.gluon.memory import Memory, allocate, start
from seedbed.plan import Entry, decide
from seedbed.recipe import Recipe
from seedbed.spec import ParamSpec, Specs

STARTING = threading.RLock()
"""Held while parameters are started, so that threads that make the first call wait."""

REMEDY = (
    "Give the model inputs, and the values exist:\n"
    "    seedbed.initialize(model, (batch, features), ...)\n"
    "or call the model once, which carries out the wish that was kept."
)


class UnstartedError(UninitializedError, DeferredInitializationError):
    """A value read before its size is known; Gluon's own error too, because its layers wait for that one."""


def unstarted(path: str) -> UnstartedError:
    """The error of reading what has no value yet."""
    return UnstartedError(f"{path}: has no value yet, because its size is not settled.", remedy=REMEDY, path=path)


@dataclass(eq=False)
class Wish(mxinit.Initializer):
    """One parameter's start, to be decided when its shape is known.

    Attributes:
        spec: The parameter, some of its sizes unknown.
        native: The initializer that Gluon itself would start it with.
        recipe: As it was asked for.
        seed: The user's integer.
        stream: The name its numbers are keyed by.
    """

    spec: ParamSpec
    native: Any
    recipe: Recipe | None
    seed: int
    stream: str

    def __post_init__(self) -> None:
        super().__init__()

    def entry(self, shape: tuple[int, ...]) -> Entry:
        """What happens to the parameter, now that its shape is known."""
        start = self.spec.start or natives.started(self.native, self.spec.path, shape)
        axes = self.spec.axes if len(self.spec.axes) == len(shape) else ()
        spec = replace(self.spec, shape=tuple(shape), axes=axes, start=start, lazy=False, varies="")
        recipe = self.recipe and self.recipe.lenient()
        streams = {spec.path: self.stream} if self.stream != spec.path else None
        (entry,) = decide(Specs((spec,)), recipe, seed=self.seed, streams=streams, translate=natives.translate)
        return entry

    def _init_weight(self, desc: Any, array: Any) -> None:
        entry = self.entry(tuple(array.shape))
        start(entry, Memory([array], entry.spec.dtype))


class WaitingParameter(Parameter):
    """A parameter with a wish: ordinary again as soon as it has values."""

    def _finish_deferred_init(self) -> None:
        with STARTING:
            wish = wish_of(self)
            if wish is None or self._deferred_init[3] is not None:  # another's, or values set meanwhile
                Parameter._finish_deferred_init(self)  # the class may have changed while it waited
                return
            if not known(self):
                raise unstarted(wish.spec.path)
            entry = wish.entry(tuple(self.shape))
            made = Parameter(self.name, shape=self.shape, dtype=self.dtype)  # no other thread is to see it unwritten
            made.__dict__.update({**self.__dict__, "_data": None})
            with mx.autograd.pause():
                allocate(made, entry.spec.sizes, None)
                start(entry, Memory(made.list_data(), entry.spec.dtype, new=True))
            self.__dict__.update(made.__dict__)
            ordinary(self)

    def data(self, ctx: Any = None) -> Any:
        """The values on one context."""
        return self._read(Parameter.data, ctx)

    def list_data(self) -> Any:
        """The values on every context."""
        return self._read(Parameter.list_data)

    def grad(self, ctx: Any = None) -> Any:
        """The gradient on one context."""
        return self._read(Parameter.grad, ctx)

    def list_grad(self) -> Any:
        """The gradients on every context."""
        return self._read(Parameter.list_grad)

    def _read(self, how: Callable[..., Any], *args: Any) -> Any:
        with STARTING:
            wish = wish_of(self)
            if self._data is None and wish is not None:
                raise unstarted(wish.spec.path)
            return how(self, *args)

    def _init_impl(self, data: Any, ctx_list: Any) -> None:
        Parameter._init_impl(self, data, ctx_list)
        ordinary(self)

    def initialize(
        self, init: Any = None, ctx: Any = None, default_init: Any = natives.DEFAULT, force_reinit: bool = False
    ) -> None:
        """As Gluon's own, which takes the wish's place; that is said."""
        wish = wish_of(self)
        if wish is not None:
            later = init or self.init or default_init
            kind = later if isinstance(later, str) else type(later).__name__
            warnings.warn(
                f"{wish.spec.path}: Gluon's {kind} takes the place of the start that seedbed kept for it.", stacklevel=2
            )
        ordinary(self)
        self.initialize(init, ctx, default_init, force_reinit)


class InTurn:
    """A block's inference of shapes, one thread at a time: Gluon's own is not made for several."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def __call__(self, *args: Any) -> None:
        with STARTING:
            if all(known(p) for p in self.block.collect_params().values()):
                return
            self.block.__dict__.pop("_deferred_infer_shape", None)
            type(self.block)._deferred_infer_shape(self.block, *args)


def wish_of(parameter: Parameter) -> Wish | None:
    """The wish that a parameter carries."""
    init = parameter._deferred_init[0] if parameter._deferred_init else None
    return init if isinstance(init, Wish) else None


def ordinary(parameter: Parameter) -> None:
    """Make a parameter one of Gluon's again."""
    if type(parameter) is WaitingParameter:
        parameter.__class__ = Parameter


def keep(
    model: Block,
    specs: Specs,
    recipe: Recipe | None,
    seed: int,
    streams: Mapping[str, str] | None,
    contexts: Sequence[mx.Context] | None,
) -> None:
    """Keep a wish with each parameter whose sizes are unknown; the last one asked for is the one carried out."""
    with STARTING:
        for path, (held, _) in owners(model).items():
            parameter = held.parameter
            if parameter._data is not None or known(parameter):
                continue
            spec = specs[path]
            before = parameter._deferred_init
            stream = next((streams[p] for p in spec.paths if p in streams), path) if streams else path
            wish = Wish(spec, native_of(parameter), recipe, seed, stream)
            where = list(contexts) if contexts else before[1] if before else [mx.current_context()]
            parameter._deferred_init = (wish, where, natives.DEFAULT, None)
            if type(parameter) is Parameter:
                parameter.__class__ = WaitingParameter
        for _, block in blocks(model):
            if isinstance(block, HybridBlock) and any(map(wish_of, block._reg_params.values())):
                block.__dict__["_deferred_infer_shape"] = InTurn(block)


def native_of(parameter: Parameter) -> Any:
    """The initializer that Gluon starts a parameter with: the one it was asked to remember, its own, or the default."""
    wish = wish_of(parameter)
    if wish is not None:
        return wish.native
    if parameter._deferred_init:
        return parameter._deferred_init[0]
    return natives.DEFAULT if parameter.init is None else parameter.init


def forget(model: Block) -> None:
    """Drop the wishes of parameters that have their values."""
    for held in parameters(model):
        if held.parameter._data is not None:
            held.parameter._deferred_init = ()
            ordinary(held.parameter)
    for _, block in blocks(model):
        if not any(map(wish_of, block._reg_params.values())):
            block.__dict__.pop("_deferred_infer_shape", None)
