"""Recorded operations carried out on real memory; what they draw comes from seedbed's numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from seedbed.errors import CaptureError
from seedbed.fill import Draw
from seedbed.frameworks.torch import diverted
from seedbed.frameworks.torch.record import Cell, Event, Geometry, Ref, Site, events_of, is_ref
from seedbed.region import Region

DrawFor = Callable[[Event, tuple[int, ...]], Draw]
"""Gives the numbers of one drawing operation, for a shape."""

UNSEEN = {"empty", "empty_like", "new_empty", "empty_strided", "copy_", "_to_copy", "clone", "lift_fresh", "detach"}
"""Operators that a description leaves out."""


def work_out(ref: Ref, site: Site) -> torch.Tensor:
    """The values of a tensor that nothing random went into.

    Raises:
        CaptureError: Something did.
    """
    drawn = next((e for e in events_of(ref.cell) if e.random), None)
    if drawn is not None:
        raise CaptureError(
            f"{site}: reads values that are drawn at random, and nothing is drawn before the start.",
            facts=[f"drawn  {drawn.name} at {drawn.site}"],
            remedy="Build this model without deferred(), or keep what depends on these values out of its constructor.",
        )
    return tensor_on(_contents(ref.cell), ref.geometry, ref.dtype).clone()


@functools.lru_cache(maxsize=16)
def _contents(cell: Cell) -> torch.UntypedStorage:
    return carry_out(cell, None)


def tensor_on(storage: torch.UntypedStorage, geometry: Geometry, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of some of a storage's elements."""
    return torch.empty(0, dtype=dtype).set_(storage, geometry.offset, geometry.size, geometry.stride)  # type: ignore[call-overload,no-any-return]


def carry_out(cell: Cell, draw_for: DrawFor | None) -> torch.UntypedStorage:
    """All operations that a cell is made by, on real memory."""
    storages: dict[int, torch.UntypedStorage] = {}
    with torch.no_grad():
        for event in events_of(cell):
            _carry_out(event, storages, draw_for)
    return storages[id(cell)]


def _carry_out(event: Event, storages: dict[int, torch.UntypedStorage], draw_for: DrawFor | None) -> None:
    bound: dict[int, torch.UntypedStorage] = {}
    for before, after in event.writes:
        old = storages[id(before)].clone() if after.before is not None else torch.UntypedStorage(after.nbytes)
        bound[id(before)] = bound[id(after)] = old

    def real(value: Any) -> Any:
        if not is_ref(value):
            return value
        storage = bound[id(value.cell)] if id(value.cell) in bound else storages[id(value.cell)]
        return tensor_on(storage, value.geometry, value.dtype)

    args, kwargs = pytree.tree_map(real, (event.args, event.kwargs), is_leaf=is_ref)
    kwargs = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items() if k != "generator"}
    if event.random:
        assert draw_for is not None
        out = _draw(event, args, kwargs, draw_for)
    elif isinstance(event.func, str):
        draw = Draw((0, 0, 0, 0), tuple(args[0].shape), Region.whole(tuple(args[0].shape)))  # it draws nothing
        out = diverted.carry_out(event.func, kwargs, args[0], draw)
    else:
        out = event.func(*args, **kwargs)
    leaves = pytree.tree_leaves(out)
    for place, cell, geometry in event.outs:
        storages[id(cell)] = _laid(
            leaves[place], geometry, cell.nbytes, poison=event.name in UNSEEN and "empty" in event.name
        )
    for before, after in event.writes:
        storages[id(after)] = bound[id(before)]


def _laid(made: torch.Tensor, geometry: Geometry, nbytes: int, *, poison: bool) -> torch.UntypedStorage:
    """What was made, laid out as it was recorded; unwritten memory is NaN, where there is NaN."""
    made = made.resolve_conj().resolve_neg()
    if poison and made.dtype.is_floating_point:
        made.fill_(float("nan"))
    if Geometry.of(made) == geometry and made.untyped_storage().nbytes() == nbytes:
        return made.untyped_storage()
    storage = torch.UntypedStorage(nbytes)
    tensor_on(storage, geometry, made.dtype).copy_(made)
    return storage


def _draw(event: Event, args: Any, kwargs: Any, draw_for: DrawFor) -> Any:
    """A drawing operator, on seedbed's numbers."""
    if isinstance(event.func, str):
        diverted.carry_out(event.func, kwargs, args[0], draw_for(event, tuple(args[0].shape)))
        return args[0]
    schema = event.func._schema.arguments
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    given |= dict(zip((a.name for a in schema), args, strict=False)) | kwargs
    name = event.name
    into = given.get("self") if name.endswith("_") else None
    if into is not None:
        shape, dtype = tuple(into.shape), into.dtype
    else:
        (_, _, geometry), *_ = event.outs
        shape = geometry.size
        like = given.get("self", given.get("mean"))
        default = (
            torch.get_default_dtype() if "rand" not in name[4:] and name not in ("randint", "randperm") else torch.int64
        )
        dtype = given.get("dtype") or (like.dtype if isinstance(like, torch.Tensor) else default)
    values = _values(event, name.rstrip("_"), given, draw_for(event, shape))
    made = torch.as_tensor(values)
    return into.copy_(made) if into is not None else made.to(dtype)


def _values(event: Event, name: str, given: dict[str, Any], draw: Draw) -> Any:
    def number(value: Any, default: float) -> Any:
        return default if value is None else value.double().numpy() if isinstance(value, torch.Tensor) else value

    if name in ("normal", "randn", "randn_like"):
        z = draw.normal()
        mean, std = number(given.get("mean"), 0.0), number(given.get("std"), 1.0)
        plain = isinstance(mean, (int, float)) and isinstance(std, (int, float))
        return z * np.float32(std) if plain and mean == 0 else (z.astype(np.float64) * std + mean).astype(np.float32)
    if name in ("uniform", "rand", "rand_like"):
        low, high = given.get("from", 0.0), given.get("to", 1.0)
        return draw.uniform(low, high)
    if name == "bernoulli":
        chance = given.get("p")
        return draw.uniform().astype(np.float64) < number(given.get("self") if chance is None else chance, 0.5)
    if name == "exponential":
        return -np.log1p(-draw.uniform().astype(np.float64)) / given["lambd"]
    if name == "log_normal":
        return np.exp(draw.normal().astype(np.float64) * given["std"] + given["mean"])
    if name in ("randint", "randint_like", "random"):
        low, high = given.get("low", given.get("from", 0)) or 0, given.get("high", given.get("to"))
        if high is not None and 0 < high - low <= 2**32:
            return low + ((draw.bits().astype(np.uint64) * np.uint64(high - low)) >> np.uint64(32)).astype(np.int64)
    if name == "randperm":
        return np.argsort(draw.bits(), kind="stable")
    raise CaptureError(
        f"{event.site}: {event.name} draws in a way that seedbed's numbers do not have.",
        remedy="Give what it starts a rule of its own:\n    seedbed.initialize(model, recipe={'...': ...})",
    )


def described(cell: Cell) -> str:
    """The operations that a cell is made by, in a few words."""
    names = [e.name.strip("_") for e in events_of(cell) if e.name not in UNSEEN]
    short = [n for i, n in enumerate(names) if i == 0 or names[i - 1] != n]
    return ", ".join(short if len(short) <= 5 else [*short[:2], f"{len(short) - 3} more", short[-1]]) or "given values"
