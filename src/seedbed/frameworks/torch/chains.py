"""Recorded operations that treat each element by itself, carried out on a few elements at a time.

A vectorized kernel may give another last bit to the elements that are left over at its end, or that
share a vector with an unusual one: with PyTorch 2.13 on AVX-512 so do pow, exp2 and sigmoid in float32,
and rsqrt in bfloat16. So no part of an array is ever handed to an operator as it is. Elements are counted
in the order of the whole tensor, as its draws are, and cut into blocks of `Chain.STEP`; the last is filled up
with the numbers that would come next. Each operator is given one block, in contiguous memory that
PyTorch allocated: always the same elements, at the same places of a call that is otherwise the same. 2048
elements are also no more than PyTorch leaves to one thread, so that the number of threads cuts nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from seedbed.frameworks.torch.mismatch import plain
from seedbed.frameworks.torch.record import UNFLIPPED, Cell, Event, Geometry, Record, Ref, events_of
from seedbed.frameworks.torch.replay import (
    ONE_AT_A_TIME,
    DrawFor,
    carry_out,
    carry_out_draw,
    default_dtype,
    of_numpy,
    ours,
    tensor_on,
)
from seedbed.initializers import Chain

if TYPE_CHECKING:
    from seedbed.fill import Draw
    from seedbed.frameworks.torch.origins import Filled

STEP = Chain.STEP
COPIES = {"copy_", "_to_copy", "clone", "lift_fresh", "detach", "alias"}
FACTORIES = {*("zeros", "ones", "full", "new_zeros", "new_ones", "new_full"), "zeros_like", "ones_like", "full_like"}
WRITES = {"fill", "fill_", "zero_", "masked_fill", "masked_fill_"}
DRAWS = {
    *("rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "normal", "normal_", "uniform_"),
    *("random_", "bernoulli", "bernoulli_", "exponential_", "log_normal_", "cauchy_", "geometric_", "trunc_normal_"),
}
DROPPED = {"memory_format", "layout", "pin_memory", "generator"}
"""Arguments that say nothing of a block."""


Layout = tuple[tuple[tuple[int, int], ...], int, torch.dtype]
"""Which place of a storage the n-th element of a tensor has; equal for equal orders."""


class Place(NamedTuple):
    """A tensor among an operation's arguments: a block, or one element of so many dimensions, -1 for one a place."""

    cell: int
    single: int | None = None


class Step(NamedTuple):
    """One operation; what it writes to are two cells, whether it reads the first, and their dtype."""

    event: Event
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    writes: tuple[tuple[int, int, bool, torch.dtype], ...]


class Steps(NamedTuple):
    """What makes any block of a tensor.

    Attributes:
        record: The tensor.
        steps: The operations, in order.
        singles: Tensors of one element that they read, by the ids of their cells.
        filled: Tensors that an initializer fills, by the ids of their cells.
    """

    record: Record
    steps: tuple[Step, ...]
    singles: Mapping[int, tuple[Cell, torch.dtype]]
    filled: Mapping[int, Filled]

    def starting(self, draw_for: DrawFor, draw_of: Callable[[Filled], Draw]) -> Callable[[int], torch.Tensor]:
        """A function that gives block n.

        Args:
            draw_for: The numbers of what is drawn.
            draw_of: Those of a tensor that an initializer fills.
        """
        singles = {}
        for i, (cell, dtype) in self.singles.items():
            singles[i] = tensor_on(carry_out(cell, draw_for), Geometry((), (), 0), dtype)
        sources = {i: (filled, draw_of(filled)) for i, filled in self.filled.items()}

        def block(n: int) -> torch.Tensor:
            blocks: dict[int, torch.Tensor] = {}
            with torch.no_grad(), ONE_AT_A_TIME, _disable_current_modes():
                for i, (filled, draw) in sources.items():
                    dtype = filled.record.dtype
                    made = draw.run(n * STEP, STEP).filled(filled.start, plain(dtype))
                    blocks[i] = _own(of_numpy(made, dtype), dtype)
                for default, steps in itertools.groupby(self.steps, key=lambda step: step.event.default):
                    with default_dtype(default):
                        for step in steps:
                            _carry_out(step, blocks, singles, lambda *e: draw_for(*e).run(n * STEP, STEP))
            return blocks[id(self.record.cell)]

        return block

    def whole(self, block: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """All blocks, laid out as the tensor was recorded."""
        geometry, dtype = self.record.geometry, self.record.dtype
        flat = torch.empty(geometry.count, dtype=dtype)
        for n, part in enumerate(flat.split(STEP)):
            part.copy_(block(n)[: len(part)])
        made = torch.empty_strided(geometry.size, geometry.stride, dtype=dtype)
        return made.copy_(flat.reshape(geometry.size))


def _own(made: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In memory that PyTorch allocated, which begins where its own begins."""
    return torch.empty(STEP, dtype=dtype).copy_(made)


def _carry_out(
    step: Step, blocks: dict[int, torch.Tensor], singles: Mapping[int, torch.Tensor], draw_for: DrawFor
) -> None:
    event, bound = step.event, dict[int, torch.Tensor]()
    for before, after, read, dtype in step.writes:
        bound[after] = _own(blocks[before], dtype) if read else torch.empty(STEP, dtype=dtype)
        if read:
            bound[before] = bound[after]

    def real(value: Any) -> Any:
        if type(value) is not Place:
            return value
        if value.single is None:
            return bound[value.cell] if value.cell in bound else blocks[value.cell]
        one = singles[value.cell]
        return one if value.single == 0 else one.reshape(1) if value.single == 1 else one.reshape(1).expand(STEP)

    args, kwargs = tuple(map(real, step.args)), {k: real(v) for k, v in step.kwargs.items()}
    out = carry_out_draw(event, args, kwargs, draw_for) if event.random else event.func(*args, **kwargs)
    leaves = [out] if isinstance(out, torch.Tensor) else pytree.tree_leaves(out)
    for place, cell, _, dtype, _ in event.outs:
        made = leaves[place]
        blocks[id(cell)] = _own(made, dtype) if event.random or made.dtype != dtype else made
    for _, after, _, _ in step.writes:
        blocks[after] = bound[after]


def steps_of(record: Record, known: Mapping[int, Filled]) -> Steps | None:
    """The operations that make a tensor, if each treats every element by itself and something is drawn.

    What is not drawn is left to PyTorch as it was asked for, so that it has PyTorch's bits.

    Args:
        record: The tensor.
        known: Cells that an initializer fills, by their ids.
    """
    if record.cell is None or record.geometry.count < 2 or record.flips != UNFLIPPED:
        return None
    reading = _Reading(record.geometry.count, known)
    events = events_of(record.cell, known)
    steps = []
    for event in events:
        if reading.single(event):
            continue
        step = reading.step(event)
        if step is None:
            return None
        steps.append(step)
    drawn = bool(reading.filled) or any(step.event.random for step in steps)
    if not drawn or reading.layouts.get(id(record.cell)) != _layout(record.geometry, record.dtype):
        return None
    return Steps(record, tuple(steps), reading.read, reading.filled)


def _layout(geometry: Geometry, dtype: torch.dtype) -> Layout:
    """Axes that follow each other in memory count as one."""
    axes: list[tuple[int, int]] = []
    for size, stride in zip(geometry.size, geometry.stride, strict=True):
        if size == 1:
            continue
        outer = axes.pop()[0] if axes and axes[-1][1] == stride * size else 1
        axes.append((outer * size, stride))
    return tuple(axes), geometry.offset, dtype


class _Unfit(Exception):
    """An operation that is none on blocks."""


class _Reading:
    """Operations read in order, and what is known of the cells they made.

    Attributes:
        layouts: Of cells of as many elements as the tensor has.
        singles: Cells of one element.
        read: Those that an operation on blocks reads.
        filled: Cells that an initializer fills, and that are read.
    """

    def __init__(self, count: int, known: Mapping[int, Filled]) -> None:
        self.count, self.known = count, known
        self.layouts: dict[int, Layout] = {}
        self.singles: set[int] = set()
        self.read: dict[int, tuple[Cell, torch.dtype]] = {}
        self.filled: dict[int, Filled] = {}

    def single(self, event: Event) -> bool:
        """Whether an operation makes one element of others of one; it is carried out as it was asked for."""
        refs = list(event.refs())
        made = {id(cell): cell.nbytes == dtype.itemsize for _, cell, _, dtype, _ in event.outs}
        for before, after in event.writes:
            into = next((r for r in refs if r.cell is before or r.cell is after), None)
            made[id(after)] = into is not None and after.nbytes == into.dtype.itemsize
        if not all(made.values()) or any(id(ref.cell) not in self.singles | made.keys() for ref in refs):
            return False
        self.singles |= made.keys()
        return "empty" not in event.name

    def step(self, event: Event) -> Step | None:
        """An operation on blocks, if it is one."""
        try:
            if not _by_element(event) or any(ref.flips != UNFLIPPED for ref in event.refs()):
                return None
            writes = self._writes(event)
            args, kwargs = self._arguments(event)
            for _, cell, geometry, dtype, _ in event.outs:
                self._made(cell, geometry, dtype)
        except _Unfit:
            return None
        return Step(event, args, kwargs, writes)

    def _made(self, cell: Cell, geometry: Geometry, dtype: torch.dtype) -> None:
        whole = geometry.count == self.count and geometry.fills(cell.nbytes, dtype.itemsize)
        if not whole or dtype.is_complex:
            raise _Unfit
        self.layouts[id(cell)] = _layout(geometry, dtype)

    def _writes(self, event: Event) -> tuple[tuple[int, int, bool, torch.dtype], ...]:
        found = []
        for before, after in event.writes:
            into = next((r for r in event.refs() if r.cell is before or r.cell is after), None)
            if into is None:
                raise _Unfit
            self._made(after, into.geometry, into.dtype)
            reads = after.before is not None
            if reads and self._layout_of(before, into) != self.layouts[id(after)]:
                raise _Unfit
            found.append((id(before), id(after), reads, into.dtype))
        return tuple(found)

    def _layout_of(self, cell: Cell, ref: Ref) -> Layout | None:
        filled = self.known.get(id(cell))
        if filled is not None and id(cell) not in self.filled:
            if not filled.start.elementwise:
                raise _Unfit
            self._made(cell, filled.record.geometry, filled.record.dtype)
            self.filled[id(cell)] = filled
        return self.layouts.get(id(cell))

    def _arguments(self, event: Event) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if isinstance(event.func, str):
            return tuple(map(self._argument, event.args)), dict(event.kwargs)
        names = [a.name for a in event.func._schema.arguments]
        made = event.name in FACTORIES
        args = tuple(
            (STEP,) if made and name == "size" else self._argument(value)
            for name, value in zip(names, event.args, strict=False)
        )
        kwargs = {k: self._argument(v) for k, v in event.kwargs.items() if k not in DROPPED}
        return args, kwargs | ({"device": torch.device("cpu")} if "device" in kwargs else {})

    def _argument(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and type(value) is not Ref:
            if any(type(v) is Ref or isinstance(v, torch.Tensor) for v in value):
                raise _Unfit
            return value
        if isinstance(value, torch.Tensor):
            if value.is_meta or value.numel() != 1:
                raise _Unfit
            return value.reshape((1,) * min(value.dim(), 1))
        if type(value) is not Ref:
            return value
        if id(value.cell) in self.singles:
            spread = value.geometry.count != 1
            if value.cell.nbytes != value.dtype.itemsize or (spread and value.geometry.count != self.count):
                raise _Unfit
            self.read[id(value.cell)] = value.cell, value.dtype
            return Place(id(value.cell), -1 if spread else min(len(value.geometry.size), 1))
        if self._layout_of(value.cell, value) != _layout(value.geometry, value.dtype):
            raise _Unfit
        return Place(id(value.cell))


def _by_element(event: Event) -> bool:
    """Whether an operation treats each element by itself, if its tensors have the same elements."""
    name = event.name
    if event.random:
        return name in DRAWS and ours(event)
    if event.taken is not None:
        return False
    if isinstance(event.func, str):
        return False
    return torch.Tag.pointwise in event.func.tags or name in COPIES or name in FACTORIES or name in WRITES
