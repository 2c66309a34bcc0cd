"""Recorded operations carried out on real memory; what they draw comes from seedbed's numbers."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from seedbed.errors import CaptureError
from seedbed.fill import Draw
from seedbed.frameworks.torch import diverted
from seedbed.frameworks.torch.operators import STEADY
from seedbed.frameworks.torch.record import Cell, Event, Geometry, Ref, Site, events_of, flipped, is_ref
from seedbed.region import Region

DrawFor = Callable[[Event, tuple[int, ...]], Draw]
"""Gives the numbers of one drawing operation, for a shape."""

ONE_AT_A_TIME = threading.RLock()
"""The default dtype is one for all threads."""
UNSEEN = {"empty", "empty_like", "new_empty", "empty_strided", "copy_", "_to_copy", "clone", "lift_fresh", "detach"}
"""Operators that a description leaves out."""


def work_out(ref: Ref, site: Site, what: str = "reads") -> torch.Tensor:
    """The values of a tensor that nothing random went into.

    Raises:
        CaptureError: Something did.
    """
    drawn = next((e for e in events_of(ref.cell) if e.random), None)
    if drawn is not None:
        raise CaptureError(
            f"{site}: {what} values that are drawn at random, and nothing is drawn before the start.",
            facts=[f"drawn  {drawn.name} at {drawn.site}"],
            remedy="Build this model without deferred(), or keep what depends on these values out of its constructor.",
        )
    return flipped(tensor_on(_contents(ref.cell), ref.geometry, ref.dtype), ref.flips).clone()


@functools.lru_cache(maxsize=16)
def _contents(cell: Cell) -> torch.UntypedStorage:
    return carry_out(cell, None)


def foreign(site: Site) -> CaptureError:
    """What to say of values that nobody recorded."""
    return CaptureError(
        f"{site}: needs the values of a meta tensor that was made elsewhere.",
        remedy="Make it inside this deferred(). If a cache kept it from another one, clear the cache.",
    )


def forget() -> None:
    """Let go of what was worked out."""
    _contents.cache_clear()


def tensor_on(storage: torch.UntypedStorage, geometry: Geometry, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of some of a storage's elements."""
    return torch.empty(0, dtype=dtype, device=storage.device).set_(
        storage, geometry.offset, geometry.size, geometry.stride
    )  # type: ignore[call-overload,no-any-return]


def of_numpy(values: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
    """An array as a tensor; bfloat16 and float8 from their bits."""
    made = torch.from_numpy(values)
    return made if made.dtype == dtype else made.view(dtype)


def carry_out(
    cell: Cell,
    draw_for: DrawFor | None,
    known: Mapping[int, torch.UntypedStorage] | None = None,
    *,
    poison: float = 0.0,
    path: str = "",
) -> torch.UntypedStorage:
    """All operations that a cell is made by, on real memory.

    Args:
        cell: The cell.
        draw_for: The numbers of what is drawn.
        known: By id, what other cells are.
        poison: What memory holds that nothing has written.
        path: Whose memory it is, for errors.
    """
    storages = dict(known or {})
    with torch.no_grad(), ONE_AT_A_TIME, _disable_current_modes():
        for event in events_of(cell, known or ()):
            with default_dtype(event.default):
                _carry_out(event, storages, draw_for, poison, path)
    return held_by(storages, cell, path)


def held_by(storages: Mapping[int, torch.UntypedStorage], cell: Cell, path: str) -> torch.UntypedStorage:
    """The memory of a cell.

    Raises:
        CaptureError: It has another size than was recorded.
    """
    found = storages.get(id(cell))
    if found is None:
        event = cell.event
        raise CaptureError(
            f"{path or event.site}: {event.name} returns a tensor of another size than PyTorch's meta device tells.",
            facts=[f"asked  {event.site}"],
            remedy="Build this model without deferred(), or give what it starts a rule of its own.",
            path=path,
        )
    return found


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What an operator is told by nothing else."""
    before = torch.get_default_dtype()
    if before == dtype:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _carry_out(
    event: Event, storages: dict[int, torch.UntypedStorage], draw_for: DrawFor | None, poison: float, path: str
) -> None:
    bound: dict[int, torch.UntypedStorage] = {}
    for before, after in event.writes:
        old = (
            held_by(storages, before, path).clone() if after.before is not None else torch.UntypedStorage(after.nbytes)
        )
        bound[id(after)] = old
        if after.before is not None:  # what is written over may be read as well
            bound[id(before)] = old

    def real(value: Any) -> Any:
        if not is_ref(value):
            if isinstance(value, torch.Tensor) and value.is_meta:
                raise foreign(event.site)
            return value
        storage = bound[id(value.cell)] if id(value.cell) in bound else held_by(storages, value.cell, path)
        return flipped(tensor_on(storage, value.geometry, value.dtype), value.flips)

    args, kwargs = pytree.tree_map(real, (event.args, event.kwargs), is_leaf=is_ref)
    kwargs = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items() if k != "generator"}
    if (steady := STEADY.get(event.func)) is not None and kwargs.get(steady[0]) in steady[1]:
        kwargs[steady[0]] = steady[2]
    if event.random:
        assert draw_for is not None
        out = carry_out_draw(event, args, kwargs, draw_for)
    elif isinstance(event.func, str):
        draw = Draw((0, 0, 0, 0), tuple(args[0].shape), Region.whole(tuple(args[0].shape)))  # it draws nothing
        out = diverted.carry_out(event.func, kwargs, args[0], draw)
    elif event.taken is not None:
        generator = event.taken.generator()
        out = event.func(*args, **kwargs, generator=generator)
        event.taken.done(generator)
    else:
        out = event.func(*args, **kwargs)
    leaves = pytree.tree_leaves(out)
    for place, cell, geometry, dtype, flips in event.outs:
        made = flipped(leaves[place].to(dtype), flips)
        if tuple(made.shape) != geometry.size:  # the meta device did not know: an error where it is read
            continue
        storages[id(cell)] = _laid(_poisoned(made, poison) if "empty" in event.name else made, geometry, cell.nbytes)
    for _, after in event.writes:
        storages[id(after)] = bound[id(after)]


def _poisoned(made: torch.Tensor, poison: float) -> torch.Tensor:
    floating = made.dtype.is_floating_point or made.dtype.is_complex
    return made.fill_(poison if floating else poison != 0)


def _laid(made: torch.Tensor, geometry: Geometry, nbytes: int) -> torch.UntypedStorage:
    """What was made, laid out as it was recorded."""
    made = made.resolve_conj().resolve_neg()
    if Geometry.of(made) == geometry and made.untyped_storage().nbytes() == nbytes:
        return made.untyped_storage()
    storage = torch.UntypedStorage(nbytes)
    tensor_on(storage, geometry, made.dtype).copy_(made)
    return storage


def carry_out_draw(event: Event, args: Any, kwargs: Any, draw_for: DrawFor) -> Any:
    """A drawing operator, on seedbed's numbers."""
    if isinstance(event.func, str):
        diverted.carry_out(event.func, kwargs, args[0], draw_for(event, tuple(args[0].shape)))
        return args[0]
    if not ours(event):
        return _by_pytorch(event, args, kwargs, draw_for)
    given = _given(event, args, kwargs)
    into = given.get("self") if event.name.endswith("_") else given.get("out")
    shape = tuple(into.shape) if into is not None else event.outs[0][2].size
    dtype = into.dtype if into is not None else event.outs[0][3]
    if dtype.is_complex:
        made = _complex(event.name.rstrip("_"), given, draw_for(event, (*shape, 2)))
    else:
        made = torch.as_tensor(_values(event.name.rstrip("_"), given, draw_for(event, shape)))
    return into.copy_(made) if into is not None else made


def ours(event: Event) -> bool:
    """Whether seedbed has numbers for what is drawn; all else PyTorch draws itself."""
    name = event.name.rstrip("_")
    if isinstance(event.func, str) or name not in WHOLE_NUMBERS:
        return isinstance(event.func, str) or name in OURS
    low, high = _ends(_given(event, event.args, event.kwargs))
    return high is not None and 0 < high - low <= 2**32


def _given(event: Event, args: Any, kwargs: Any) -> dict[str, Any]:
    """An operator's arguments by their names."""
    schema = event.func._schema.arguments
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    given |= dict(zip((a.name for a in schema), args, strict=False)) | kwargs
    if event.func is torch.ops.aten.random_.default:
        given["to"] = _most(given["self"].dtype) + 1
    return given


def _ends(given: Mapping[str, Any]) -> tuple[int, int | None]:
    """The first whole number that may be drawn, and the one after the last."""
    return given.get("low", given.get("from", 0)) or 0, given.get("high", given.get("to"))


def _most(dtype: torch.dtype) -> int:
    """The largest number that `random_` draws."""
    if dtype.is_floating_point:
        return 2 ** (1 - round(math.log2(torch.finfo(dtype).eps)))
    return 1 if dtype == torch.bool else torch.iinfo(dtype).max


def _complex(name: str, given: dict[str, Any], draw: Draw) -> torch.Tensor:
    """A complex draw: the variance of a normal one is shared by its halves."""
    if name in ("rand", "rand_like"):
        return torch.view_as_complex(torch.from_numpy(draw.uniform()))
    z = torch.view_as_complex(torch.from_numpy(draw.normal() / np.float32(math.sqrt(2))))
    return z * given.get("std", 1.0) + given.get("mean", 0.0)


WHOLE_NUMBERS = {"randint", "randint_like", "random"}
OURS = {
    *(*WHOLE_NUMBERS, "normal", "randn", "randn_like", "uniform", "rand", "rand_like", "randperm", "log_normal"),
    *("bernoulli", "exponential", "cauchy", "geometric"),
}
"""What `_values` draws."""


def _values(name: str, given: dict[str, Any], draw: Draw) -> Any:
    def number(value: Any, default: float) -> Any:
        return default if value is None else value.double().numpy() if isinstance(value, torch.Tensor) else value

    if name in ("normal", "randn", "randn_like"):
        z = draw.normal()
        mean, std = number(given.get("mean"), 0.0), number(given.get("std"), 1.0)
        plain = isinstance(mean, (int, float)) and isinstance(std, (int, float))
        if plain and mean == 0:
            return z * np.float32(std) + np.float32(0)  # a deviation of 0 makes no negative zero
        return (z.astype(np.float64) * std + mean).astype(np.float32)
    if name in ("uniform", "rand", "rand_like"):
        return draw.uniform(given.get("from", 0.0), given.get("to", 1.0))
    if name == "randperm":
        return np.argsort(draw.bits(), kind="stable")
    if name in WHOLE_NUMBERS:
        low, high = _ends(given)
        assert high is not None, "others are not ours"
        return low + ((draw.bits().astype(np.uint64) * np.uint64(high - low)) >> np.uint64(32)).astype(np.int64)
    if name == "log_normal":
        return np.exp(draw.normal().astype(np.float64) * given["std"] + given["mean"])
    u = draw.uniform().astype(np.float64)
    if name == "bernoulli":
        chance = given.get("p")
        return u < number(given.get("self") if chance is None else chance, 0.5)
    if name == "exponential":
        return -np.log1p(-u) / given["lambd"]
    if name == "cauchy":
        return given["median"] + given["sigma"] * np.tan(math.pi * (u - 0.5))
    assert name == "geometric"
    return np.maximum(1, np.ceil(np.log1p(-u) / math.log1p(-given["p"])))


TWISTER = 624
"""32-bit words of PyTorch's generator on the CPU, a Mersenne twister."""
STATE = 24
"""Where they stand in what it tells of its state, in 8 bytes each."""


def _by_pytorch(event: Event, args: Any, kwargs: Any, draw_for: DrawFor) -> Any:
    """A drawing operator, by a generator of PyTorch's whose state is made of seedbed's words."""
    func = _with_generator(event.func)
    if func is None or any(isinstance(v, torch.Generator) for v in (*event.args, *event.kwargs.values())):
        raise CaptureError(
            f"{event.site}: {event.name} draws in a way that seedbed's numbers do not have.",
            remedy="Give what it starts a rule of its own:\n    seedbed.initialize(model, recipe={'...': ...})",
        )
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    words = state[STATE : STATE + 8 * TWISTER].view(torch.int64)
    words.copy_(torch.from_numpy(draw_for(event, (TWISTER,)).bits().astype(np.int64)))
    generator.set_state(state)
    given = dict(zip((a.name for a in event.func._schema.arguments), args, strict=False)) | kwargs
    return func(**given | {"generator": generator})


def _with_generator(func: Any) -> Any:
    """An operator, in the form that is given a generator; None where it has no such form."""
    names = {a.name for a in func._schema.arguments} | {"generator"}
    packet = func.overloadpacket
    forms = (getattr(packet, name) for name in packet.overloads())
    return next((f for f in (func, *forms) if {a.name for a in f._schema.arguments} == names), None)


def described(cell: Cell) -> str:
    """The operations that a cell is made by, in a few words."""
    events = [e for e in events_of(cell) if e.name not in UNSEEN]
    names = [e.name.strip("_") + " by a generator" * (e.taken is not None) for e in events]
    short = [n for i, n in enumerate(names) if i == 0 or names[i - 1] != n]
    text = ", ".join(short if len(short) <= 5 else [*short[:2], f"{len(short) - 3} more", short[-1]]) or "given values"
    return text + "; draws of PyTorch's own" * any(e.random and not ours(e) for e in events)
