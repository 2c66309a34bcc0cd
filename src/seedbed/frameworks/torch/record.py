"""What was done to each piece of memory, as data: operations, and the contents they leave.

A `Cell` is what one storage holds after one operation; it refers to the operation, which refers to the
cells it read. What is overwritten is referred to by nothing, and gone.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from seedbed.frameworks.torch.generators import Taken
    from seedbed.frameworks.torch.laws import Law


class Site(NamedTuple):
    """Where in the user's code an operation was asked for."""

    who: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.who} ({self.file.replace(chr(92), '/').rpartition('/')[2]}:{self.line})"


INSIDE = (
    "/torch/nn/init.py",
    "torch.nn.init",
    "/torch/_",
    "/torch/utils/",
    "/torch/overrides.py",
    "/torch/functional.py",
    "/copy.py",
    "/seedbed/frameworks/",
)


@functools.cache
def _inside(file: str) -> bool:
    return any(part in file for part in INSIDE)


def site_of() -> Site:
    """Where in the user's code, or in a layer's, this is asked for."""
    frame, first = sys._getframe(2), None
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if not _inside(file):
            if first is None:
                first = Site(code.co_name, file, frame.f_lineno)
            method = code.co_argcount > 0 and not file.endswith("/torch/nn/modules/module.py")
            if method and isinstance(owner := frame.f_locals.get(code.co_varnames[0]), nn.Module):
                return Site(f"{type(owner).__name__}.{code.co_name}", file, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return first or Site("?", "?", 0)


class Geometry(NamedTuple):
    """Which elements of a storage a tensor is."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Geometry:
        """A tensor's."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.storage_offset())

    @property
    def count(self) -> int:
        """Elements, those that share a place counted each."""
        return math.prod(self.size)

    def fills(self, nbytes: int, itemsize: int) -> bool:
        """Whether it is every element of a storage of so many bytes, each once."""
        if self.count * itemsize != nbytes:
            return False
        expected = 1
        for size, stride in zip(self.size[::-1], self.stride[::-1], strict=True):
            if size != 1 and stride != expected:
                break
            expected *= size
        else:  # contiguous, as most are
            return True
        expected = 1
        for stride, size in sorted((t, n) for t, n in zip(self.stride, self.size, strict=True) if n != 1):
            if stride != expected:
                return False
            expected *= size
        return True


def span_of(tensor: torch.Tensor) -> tuple[int, int]:
    """The bytes of its storage that a tensor lies in: the first, and the one after the last."""
    far = sum((n - 1) * t for n, t in zip(tensor.size(), tensor.stride(), strict=True)) + 1 if tensor.numel() else 0
    first, size = tensor.storage_offset(), tensor.element_size()
    return first * size, (first + far) * size


Flips = tuple[bool, bool]
UNFLIPPED: Flips = (False, False)


def flips_of(tensor: torch.Tensor) -> Flips:
    """Whether a tensor shows the conjugates, and the negatives, of what its memory holds."""
    return tensor.is_conj(), tensor.is_neg()


def flipped(tensor: torch.Tensor, flips: Flips) -> torch.Tensor:
    """The conjugates, the negatives of a tensor, or both, on the same memory."""
    tensor = torch._conj(tensor) if flips[0] else tensor
    return torch._neg_view(tensor) if flips[1] else tensor


class Cell:
    """What a storage holds after an operation.

    Attributes:
        event: The operation.
        before: What it held before, where that still matters.
        law: How its elements are distributed, where that is known.
        nbytes: The storage's size.
        over: Where the values were written that this operation wrote over.
        written: Whether every element has been written; None where that is not known.
    """

    __slots__ = ("before", "event", "law", "nbytes", "over", "written")

    def __init__(self, event: Event, nbytes: int) -> None:
        self.event, self.nbytes = event, nbytes
        self.before: Cell | None = None
        self.law: Law | None = None
        self.over: Site | None = None
        self.written: bool | None = True


class Ref(NamedTuple):
    """A tensor among an operation's arguments.

    Attributes:
        cell: What its storage holds.
        geometry: Which elements of it.
        dtype: Their dtype.
        flips: Whether it shows the conjugates and the negatives of what is there.
    """

    cell: Cell
    geometry: Geometry
    dtype: torch.dtype
    flips: Flips = UNFLIPPED

    @classmethod
    def of(cls, cell: Cell, tensor: torch.Tensor) -> Ref:
        """A tensor's, whose storage holds what `cell` says."""
        return cls(cell, Geometry.of(tensor), tensor.dtype, flips_of(tensor))


class Event:
    """One operation that wrote.

    Attributes:
        index: Its place among all.
        func: The operator, or the name of an initializer of `torch.nn.init`.
        args: Its arguments; tensors are `Ref`s, or real tensors.
        site: Where it was asked for.
        random: Whether it draws.
        default: The default dtype at the time.
        outs: For each tensor it returned that is new: its place among the leaves of what was returned,
            its cell, its geometry, its dtype, and what it shows of its memory.
        writes: The cells it wrote into, each with what it left there.
        taken: Its place among the draws of a generator that the constructor brought.
    """

    __slots__ = ("args", "default", "func", "index", "kwargs", "outs", "random", "site", "taken", "writes")
    counter = itertools.count()

    def __init__(self, func: Any, args: Any, kwargs: Any, site: Site, *, random: bool) -> None:
        self.index = next(Event.counter)
        self.func, self.args, self.kwargs, self.site, self.random = func, args, kwargs, site, random
        self.default = torch.get_default_dtype()
        self.taken: Taken | None = None
        self.outs: list[tuple[int, Cell, Geometry, torch.dtype, Flips]] = []
        self.writes: list[tuple[Cell, Cell]] = []

    @property
    def name(self) -> str:
        """The operator's name, without its namespace and overload."""
        if isinstance(self.func, str):
            return self.func
        name: str = self.func._schema.name
        return name.rpartition(":")[2]

    def refs(self) -> Iterator[Ref]:
        """The tensors it read."""
        for leaf in pytree.tree_leaves((self.args, self.kwargs), is_leaf=is_ref):
            if is_ref(leaf):
                yield leaf


def written_unsaid(name: str, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments that an operator writes to and its schema does not say: statistics, in training."""
    normalizes = name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
    return ("running_mean", "running_var") if normalizes and given.get("training", True) else ()


def is_ref(value: Any) -> bool:
    """Whether a value is a `Ref`, which a tree of arguments must not be opened at."""
    return type(value) is Ref


class Record(NamedTuple):
    """How a parameter, a buffer or another tensor of a layer came to be; without a cell it has memory already."""

    cell: Cell | None
    geometry: Geometry
    dtype: torch.dtype
    device: str
    flips: Flips = UNFLIPPED

    @property
    def ref(self) -> Ref:
        """The tensor, as operations refer to it."""
        assert self.cell is not None
        return Ref(self.cell, self.geometry, self.dtype, self.flips)

    def __deepcopy__(self, memo: Any) -> Record:
        return self


def events_of(cell: Cell, known: Container[int] = ()) -> list[Event]:
    """All that made a cell what it is, in order; of the cells whose ids are `known`, nothing."""
    seen: dict[int, Event] = {}
    todo = [cell]
    while todo:
        here = todo.pop()
        if id(here) in known:
            continue
        event = here.event
        if event.index in seen:
            continue
        seen[event.index] = event
        todo += [ref.cell for ref in event.refs()]
        todo += [before for _, after in event.writes if (before := after.before) is not None]
    return [seen[n] for n in sorted(seen)]
