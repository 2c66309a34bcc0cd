"""A twin being run: as a graph wherever its code lets it, and with arrays of zeros where it does not.

Hybrid blocks, and blocks that only call others, run on symbols: MXNet infers every shape, computes nothing and
allocates nothing. The forward of a block that is not hybrid is Python, and may ask for what only an array can tell;
then it is run on zeros, on the twin. The hybrid blocks inside are graphs even so: only what stands between them is
computed, on activations of the size of the inputs.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mxnet as mx
import numpy as np
from mxnet.base import MXNetError
from mxnet.gluon import Block, HybridBlock
from mxnet.gluon.nn.basic_layers import Dense
from mxnet.gluon.nn.conv_layers import _Conv
from mxnet.name import NameManager
from mxnet.ndarray import NDArray
from mxnet.symbol import Symbol

from seedbed.frameworks.gluon.blocks import native_dtype, plain, shape_of
from seedbed.frameworks.gluon.twin import Shadow, Twin, symbols_in
from seedbed.spec import Shape


class NotAGraph(Exception):
    """A block's code cannot be run on symbols."""


class DoesNotFit(Exception):
    """MXNet cannot infer the shapes of a graph."""

    def __init__(self, said: str, call: Call | None, got: list[Shape | None]) -> None:
        super().__init__(said)
        self.call, self.got = call, got


class Maker(NamedTuple):
    """Paths of the last block with parameters, and of the last block, that a value came from; empty for inputs."""

    sized: str
    last: str


INPUT = Maker("", "")


@dataclass(eq=False)
class Given:
    """An input without values; sizes that are not known are None, where a graph may find them out."""

    shape: Shape
    dtype: str


@dataclass(eq=False)
class Call:
    """One block of the twin, being called."""

    path: str
    block: Block
    inputs: list[Any]
    parent: Call | None
    outputs: list[Any] = field(default_factory=list)
    leaf: bool = True


@dataclass(eq=False)
class DryRun:
    """Runs a twin, and notes which block calls which, and who made which value."""

    twin: Twin
    current: Call | None = None
    done: list[Call] = field(default_factory=list)
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    makers: dict[int, tuple[Any, Maker]] = field(default_factory=dict)
    named: dict[str, Maker] = field(default_factory=dict)
    inputs: dict[str, Shape] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    numbers: Any = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        for path, block in self.twin.blocks.values():
            if path.rpartition(".")[2] == "act" and isinstance(self.twin.at(path.rpartition(".")[0]), (Dense, _Conv)):
                continue  # a layer's own activation is part of the layer
            block.register_forward_pre_hook(self._enter(path))
            block.register_forward_hook(self._leave)
            if isinstance(block, HybridBlock):
                block.__dict__["forward"] = self._forward(block)

    def run(self, args: Sequence[Any], *, graph: bool = False) -> None:
        """Run the twin on inputs without values: as a graph, or on zeros unless it must be a graph."""
        with NameManager(), mx.autograd.pause():
            try:
                self._graph(self.twin.model, args)
            except NotAGraph:
                if graph:
                    raise
                before = np.random.get_state(), random.getstate()
                try:  # each thread has a generator of MXNet's own: that of the user's stays as it is
                    with ThreadPoolExecutor(1) as apart:
                        apart.submit(self._on_zeros, args, mx.util.is_np_array(), mx.current_context()).result()
                finally:
                    np.random.set_state(before[0])
                    random.setstate(before[1])
        self.reached.update(path for path, shadow in self.twin.shadows.items() if shadow.used)

    def _on_zeros(self, args: Sequence[Any], arrays: bool, context: mx.Context) -> None:
        """Run the twin on zeros, in a thread of which MXNet knows nothing yet."""
        with NameManager(), mx.autograd.pause(), mx.util.np_shape(arrays), mx.util.np_array(arrays), context:
            out = self.twin.model(*self._to_arrays(args))
            for array in arrays_in(out):
                array.wait_to_read()  # an error of the dry run is to turn up here, and nowhere later

    def _forward(self, block: HybridBlock) -> Callable[..., Any]:
        def forward(*args: Any) -> Any:
            if symbols_in(args):
                return type(block).forward(block, *args)
            try:
                return self._graph(block, args, inside=True)
            except NotAGraph:
                return type(block).forward(block, *args)

        return forward

    def _graph(self, block: Block, args: Sequence[Any], *, inside: bool = False) -> Any:
        """Run a block on symbols, settle its parameters, and return zeros where it is part of a run on zeros."""
        before, current = len(self.done), self.current
        try:
            symbols = self._to_symbols(args)
            out = type(block).forward(block, *symbols) if inside else block(*symbols)
        except Exception as error:  # whatever the block's code raised: it may be made for arrays alone
            del self.done[before:]
            self.current = current
            raise NotAGraph from error
        calls = self.done[before:]
        ends = [*symbols_in(out), *(s for call in calls for s in call.outputs)]
        if not ends:
            raise NotAGraph
        self._take(self._infer(ends, calls, current))
        return self._to_zeros(out, self._dtype(block)) if inside else None

    def _infer(self, ends: list[Symbol], calls: list[Call], outer: Call | None) -> Mapping[str, Shape]:
        try:
            return self.inferred(ends)
        except MXNetError as error:
            said = str(error)
        for number, call in enumerate(calls):
            for part, culprit in ((call.inputs, call.parent or outer), (call.outputs, call)):
                try:
                    self.inferred(symbols_in(part))
                except MXNetError as error:
                    first = str(error)
                    before = [s for c in calls[:number] for s in c.outputs]
                    self._take(self.inferred([*before, *(symbols_in(call.inputs) if part is call.outputs else ())]))
                    raise self._misfit(first, culprit) from None
        raise self._misfit(said, outer)

    def _misfit(self, said: str, call: Call | None) -> DoesNotFit:
        return DoesNotFit(said, call, [self.shape(value) for value in call.inputs] if call else [])

    def inferred(self, symbols: list[Symbol]) -> Mapping[str, Shape]:
        """The shape of every variable that some symbols depend on."""
        if not symbols:
            return {}
        group = mx.sym.Group(symbols)
        names = group.list_arguments()
        shapes, _, states = group.infer_shape_partial(**{n: self.sizes[n] for n in names if n in self.sizes})
        found = zip([*names, *group.list_auxiliary_states()], [*(shapes or ()), *(states or ())], strict=False)
        return {name: tuple(n if n > 0 else None for n in shape or ()) for name, shape in found}

    def shape(self, value: Any) -> Shape | None:
        """What is known of a value's shape."""
        if isinstance(value, NDArray):
            return tuple(value.shape)
        if not isinstance(value, Symbol):
            return None
        names = value.list_arguments()
        try:
            _, shapes, _ = value.infer_shape_partial(**{n: self.sizes[n] for n in names if n in self.sizes})
        except MXNetError:
            return None
        return tuple(n if n > 0 else None for n in shapes[0]) if shapes and shapes[0] is not None else None

    def _take(self, shapes: Mapping[str, Shape]) -> None:
        for name, shape in shapes.items():
            path = self.twin.names.get(name)
            if name in self.sizes:
                self.inputs[name] = shape
            if path is not None:
                self.reached.add(path)
                shadow: Shadow = self.twin.shadows[path]
                before = shape_of(shadow)
                if (
                    shape
                    and shadow._shape is not None
                    and any(a not in (None, b) for a, b in zip(before, shape, strict=False))
                ):
                    said = f"Shape inconsistent, the parameter has {before}, inferred shape={shape}"
                    uses = (c for c in [*self.done, self.current] if c and shadow in c.block._reg_params.values())
                    raise self._misfit(said, next(uses, self.current))  # some operators of MXNet do not notice
                if shape:
                    shadow.settle(shape)

    def _to_symbols(self, value: Any) -> Any:
        if isinstance(value, (NDArray, Given)):
            name = f"input {next(self.numbers)}"
            symbol = mx.sym.var(name)
            symbol = symbol.as_np_ndarray() if mx.util.is_np_array() else symbol
            unknown = -1 if mx.util.is_np_shape() else 0
            self.sizes[name] = tuple(unknown if n is None else n for n in value.shape)
            self._make(symbol, self.maker(value) if isinstance(value, NDArray) else INPUT)
            return symbol
        if isinstance(value, (list, tuple)):
            return [self._to_symbols(v) for v in value]
        return value

    def _to_arrays(self, value: Any) -> Any:
        if isinstance(value, Given):
            return self._zeros(value.shape, value.dtype, INPUT)
        if isinstance(value, (list, tuple)):
            return [self._to_arrays(v) for v in value]
        return value

    def _to_zeros(self, value: Any, dtype: str) -> Any:
        if isinstance(value, Symbol):
            names = value.list_arguments()
            _, shapes, _ = value.infer_shape_partial(**{n: self.sizes[n] for n in names if n in self.sizes})
            made = [self._zeros(shape, dtype, self.maker(value)) for shape in shapes or ()]
            return made[0] if len(made) == 1 else made
        if isinstance(value, (list, tuple)):
            return type(value)(self._to_zeros(v, dtype) for v in value)
        return value

    def _zeros(self, shape: Any, dtype: str, maker: Maker) -> NDArray:
        if shape is None or any(n is None or n <= 0 for n in shape):
            raise NotAGraph
        made = (mx.np if mx.util.is_np_array() else mx.nd).zeros(shape, dtype=native_dtype(dtype))
        self.makers[id(made)] = (made, maker)
        return made

    def _dtype(self, block: Block) -> str:
        """Of what a block returns, as far as its parameters tell."""
        return next((plain(p.dtype) for p in block.collect_params().values() if "float" in plain(p.dtype)), "float32")

    def _enter(self, path: str) -> Callable[..., None]:
        def enter(block: Block, args: Any) -> None:
            if self.current is not None:
                self.current.leaf = False
            self.current = Call(path, block, [*symbols_in(args), *arrays_in(args)], self.current)

        return enter

    def _leave(self, block: Block, args: Any, out: Any) -> None:
        call = self.current
        assert call is not None
        call.outputs, self.current = symbols_in(out), call.parent
        self.done.append(call)
        before = self.maker(call.inputs[0]).sized if call.inputs else ""
        sized = call.path if block._reg_params else before
        for value in [*call.outputs, *arrays_in(out)] if call.leaf else ():
            self._make(value, Maker(sized, call.path))

    def _make(self, value: Any, maker: Maker) -> None:
        self.makers[id(value)] = (value, maker)
        if isinstance(value, Symbol):
            for name in value.list_outputs():
                self.named[name] = maker

    def maker(self, value: Any) -> Maker:
        """Who made a value, straight or through functions."""
        if id(value) in self.makers:
            return self.makers[id(value)][1]
        if isinstance(value, Symbol):
            seen: set[str] = set()
            waiting = [value]
            while waiting:
                symbol = waiting.pop(0)
                for name in symbol.list_outputs():
                    if name in self.named:
                        return self.named[name]
                inputs = symbol.get_children()
                for part in inputs if inputs is not None else ():
                    if part.list_outputs()[0] not in seen:
                        seen.add(part.list_outputs()[0])
                        waiting.append(part)
            return INPUT
        last = self.done[-1] if self.done else None  # a function of arrays: it came after the last block that ran
        return Maker(last.path if last and last.block._reg_params else "", last.path if last else "")

    def source(self, value: Any) -> str:
        """The same in words."""
        sized, last = self.maker(value)
        names = [f"{p} ({type(self.twin.at(p)).__name__})" for p in dict.fromkeys((sized, last)) if p]
        return ", through ".join(names) or "the model's input"


def arrays_in(value: Any) -> list[NDArray]:
    """Every array of nested lists, tuples and mappings."""
    if isinstance(value, NDArray):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [a for v in inside for a in arrays_in(v)]
