"""Draws from a generator that a constructor brings along: they are PyTorch's, to the bit, and drawn at the start.

Inside `deferred()` nothing is drawn. The generator is put to a state of its own after each draw, by which it is known
again at the next; where another is met, somebody has set it, and what was drawn before does not count.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from seedbed.frameworks.torch.record import Ref, is_ref
from seedbed.frameworks.torch.replay import tensor_on

BY_SHAPE = {
    *(
        "normal",
        "normal_",
        "randn",
        "randn_like",
        "uniform_",
        "rand",
        "rand_like",
        "randint",
        "randint_like",
        "random_",
    ),
    *("randperm", "bernoulli", "bernoulli_", "exponential_", "cauchy_", "log_normal_", "geometric_", "multinomial"),
}
"""Operators that take as much from a generator as the shape says."""
_marks = itertools.count(1 << 62)


class Drawn:
    """What was drawn from a generator since a state of it, in order."""

    def __init__(self, state: torch.Tensor) -> None:
        self.states = {0: state}
        self.draws: list[tuple[Any, Any, Any]] = []

    def generator(self, count: int) -> torch.Generator:
        """The generator after so many draws."""
        generator = torch.Generator()
        known = max(n for n in self.states if n <= count)
        generator.set_state(self.states[known])
        for func, args, kwargs in self.draws[known:count]:
            given, keywords = pytree.tree_map(_blank, (args, kwargs), is_leaf=is_ref_shape)
            func(*given, **keywords, generator=generator)
        self.states[count] = generator.get_state()
        return generator


class Taken(NamedTuple):
    """One draw among those of a generator."""

    drawn: Drawn
    number: int

    def generator(self) -> torch.Generator:
        """The generator as it is before this draw."""
        return self.drawn.generator(self.number)

    def done(self, generator: torch.Generator) -> None:
        """Remember where the draw has left the generator."""
        self.drawn.states[self.number + 1] = generator.get_state()


class RefShape(NamedTuple):
    """As much of a tensor as decides how many numbers are drawn for it."""

    ref: Any
    nbytes: int


def is_ref_shape(value: Any) -> bool:
    """Whether a value is a `RefShape`, which a tree of arguments must not be opened at."""
    return type(value) is RefShape


def _shape(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return RefShape(Ref(None, *value[1:]), value.cell.nbytes) if is_ref(value) else value  # type: ignore[arg-type]


def _blank(value: Any) -> Any:
    if not is_ref_shape(value):
        return value
    storage, dtype = torch.UntypedStorage(value.nbytes), value.ref.dtype
    torch.empty(0, dtype=dtype).set_(storage).fill_(0.5 if dtype.is_floating_point else 0)  # type: ignore[call-overload]
    return tensor_on(storage, value.ref.geometry, dtype)


class Brought:
    """The generators that constructors bring, and how far each is."""

    def __init__(self) -> None:
        self.places: dict[bytes, tuple[Drawn, int]] = {}
        self.seen: dict[int, Any] = {}

    def own(self, generator: torch.Generator) -> torch.Generator | None:
        """A generator, if it is the constructor's own, and draws what is drawn on the CPU."""
        if generator is torch.default_generator or generator.device.type != "cpu":
            return None
        try:
            self.seen[id(generator)] = weakref.ref(generator)
        except TypeError:  # PyTorch of that age; it stays until the end then
            self.seen[id(generator)] = lambda: generator
        return generator

    def draw(self, name: str, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Taken | None:
        """Note a draw; None where the numbers are seedbed's. The arguments are as they are recorded."""
        generator = kwargs.get("generator")
        if generator is None or name not in BY_SHAPE:
            return None
        state = generator.get_state()
        drawn, count = self.places.get(state.numpy().tobytes(), (Drawn(state), 0))
        if count < len(drawn.draws):  # put back to where it was
            drawn, earlier = Drawn(drawn.states[0]), drawn
            drawn.draws = earlier.draws[:count]
        given = {k: v for k, v in kwargs.items() if k != "generator"}
        if name in ("randn", "rand", "normal") and any(a.name == "dtype" for a in func._schema.arguments):
            given.setdefault("dtype", torch.get_default_dtype())  # it may be another when this is drawn
        drawn.draws.append((func, *pytree.tree_map(_shape, (args, given), is_leaf=is_ref)))
        generator.manual_seed(next(_marks))
        self.places[generator.get_state().numpy().tobytes()] = drawn, count + 1
        return Taken(drawn, count)

    def advance(self) -> None:
        """Put generators that are still there to where all the draws leave them."""
        for seen in self.seen.values():
            generator = seen()
            place = self.places.get(generator.get_state().numpy().tobytes()) if generator is not None else None
            if place:
                generator.set_state(place[0].generator(place[1]).get_state())
