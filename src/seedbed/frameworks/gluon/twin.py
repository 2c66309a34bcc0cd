"""The twin of a model: its blocks and its ties, with parameters that have shapes and no memory.

The model itself is only read. Hooks are left out: Gluon's may not change what flows.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import mxnet as mx
from mxnet.gluon import Block, Constant, HybridBlock, Parameter, ParameterDict, SymbolBlock
from mxnet.gluon.parameter import DeferredInitializationError
from mxnet.gluon.rnn import RecurrentCell
from mxnet.gluon.rnn.rnn_layer import _RNNLayer
from mxnet.symbol import Symbol

from seedbed.errors import ModelError
from seedbed.frameworks.gluon.blocks import blocks, parameters
from seedbed.spec import Shape


class Shadow(Parameter):
    """A parameter without memory. Code that asks for its values is given zeros, and they are not kept.

    Attributes:
        used: Whether its values were asked for.
    """

    def __init__(self, parameter: Parameter, name: str) -> None:
        shape = parameter._shape
        super().__init__(
            name,
            shape=None if shape is None else tuple(max(int(n), 0) for n in shape),
            dtype=parameter.dtype,
            allow_deferred_init=True,
        )
        self.constant = parameter.value if isinstance(parameter, Constant) else None
        self.used = False

    def settle(self, shape: Shape) -> None:
        """Take the sizes that were inferred."""
        self._shape, self._var = tuple(n or 0 for n in shape), None

    def _check_and_get(self, arr_list: Any, ctx: Any) -> Any:
        self.used = True
        if self._shape is None or 0 in self._shape:
            raise DeferredInitializationError(f"Parameter '{self.name}' has no size yet.")
        context = mx.current_context() if ctx in (None, list) else ctx
        if self.constant is not None:
            made = self.constant.as_in_context(context)
        elif mx.util.is_np_array():
            made = mx.np.zeros(self._shape, dtype=self.dtype, ctx=context)
        else:
            made = mx.nd.zeros(self._shape, dtype=self.dtype, ctx=context)
        return [made] if ctx is list else made


class Twin:
    """A copy of a model to be run, and its parameters by the names they have in graphs."""

    def __init__(self, model: Block) -> None:
        memo: dict[int, Any] = {}
        self.shadows: dict[str, Shadow] = {}
        self.names: dict[str, str] = {}
        named = _keeps_names(model)
        for held in parameters(model):
            if id(held.parameter) not in memo:
                shadow = Shadow(held.parameter, held.parameter.name if named else f"parameter {held.path}")
                memo[id(held.parameter)] = self.shadows[held.path] = shadow
                self.names[shadow.name] = held.path
        for parameter in _others(model, memo):
            memo[id(parameter)] = Shadow(parameter, parameter.name)
        for _, block in blocks(model):
            _leave_out(block, memo)
        try:
            self.model: Block = copy.deepcopy(model, memo)
        except Exception as error:  # whatever the model's own code raised, told as a sentence
            raise ModelError(
                f"{type(model).__name__}: the model cannot be copied for a dry run: "
                f"{(str(error) or repr(error)).splitlines()[0]}.",
                remedy="Take what cannot be copied (locks, files) out of the model's attributes.",
            ) from error
        self.blocks: dict[int, tuple[str, Block]] = {}
        for path, block in blocks(self.model):
            self.blocks.setdefault(id(block), (path, block))
            if isinstance(block, (_RNNLayer, RecurrentCell)):
                block.__dict__["begin_state"] = _States(block)

    def at(self, path: str) -> Block:
        """The block at a path."""
        return next(block for p, block in self.blocks.values() if p == path)


class _States:
    """A recurrent block's first states: in a graph variables, so that their batch is that of the input."""

    def __init__(self, block: Block) -> None:
        self.block, self.count = block, 0

    def __call__(self, batch_size: int = 0, func: Any = mx.nd.zeros, **kwargs: Any) -> Any:
        plain = func in (mx.sym.zeros, mx.sym.np.zeros)
        if not plain:
            return type(self.block).begin_state(self.block, batch_size, func=func, **kwargs)
        made = []
        for _ in self.block.state_info(1):
            self.count += 1
            state = mx.sym.var(f"state {id(self.block)} {self.count}")
            made.append(state.as_np_ndarray() if mx.util.is_np_array() else state)
        return made


def _keeps_names(model: Block) -> bool:
    """Whether a graph that was read from a file, with names of its own, is among the blocks."""
    return any(isinstance(block, SymbolBlock) for _, block in blocks(model))


def _others(model: Block, memo: dict[int, Any]) -> Iterator[Parameter]:
    """Parameters of other blocks that the model's share theirs with: they are reached, and not to be copied."""
    for _, block in blocks(model):
        shared: ParameterDict | None = block.params
        while shared is not None:
            yield from (p for p in shared.values() if id(p) not in memo)
            shared = shared._shared


def _leave_out(block: Block, memo: dict[int, Any]) -> None:
    """Copy neither hooks nor what an earlier call has compiled."""
    for hooks in (block._forward_hooks, block._forward_pre_hooks):
        memo[id(hooks)] = OrderedDict()
    if isinstance(block, HybridBlock):
        if block._cached_op is not None:
            memo[id(block._cached_op)] = None
        memo[id(block._cached_op_args)] = []
        if block._cached_graph and not isinstance(block, SymbolBlock):
            memo[id(block._cached_graph)] = ()


def symbols_in(value: Any) -> list[Symbol]:
    """Every symbol of nested lists, tuples and mappings."""
    if isinstance(value, Symbol):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [s for v in inside for s in symbols_in(v)]
