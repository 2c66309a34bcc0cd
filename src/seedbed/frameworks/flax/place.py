"""Where a plan's values go: memory that becomes JAX's arrays without a copy, shards, and devices that fill their own."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from seedbed.errors import InputError, nearest
from seedbed.fill import fill, storage_dtype
from seedbed.frameworks.flax import numbers
from seedbed.materialize import Job, advise
from seedbed.plan import Entry
from seedbed.region import Region, blocks

ALIGNED = 64
"""Bytes: JAX takes over memory that begins at a multiple, and copies any other."""
BLOCK = 1 << 20
"""Elements of a shard filled at a time."""


class Memory:
    """Memory of one parameter or shard, filled by NumPy and C, then JAX's."""

    def __init__(self, shape: Sequence[int], dtype: str) -> None:
        count = math.prod(shape)
        held = storage_dtype(dtype)
        raw = np.empty(count * held.itemsize + ALIGNED, np.uint8)
        first = -raw.ctypes.data % ALIGNED
        advise(raw.ctypes.data, raw.nbytes)
        inside = raw[first : first + count * held.itemsize]
        self.bits = inside.view(held).reshape(tuple(shape))
        self.values = inside.view(jnp.dtype(dtype)).reshape(tuple(shape))

    def block(self, region: Region) -> NDArray[Any]:
        """The region's own memory."""
        found: NDArray[Any] = self.bits[region.slices] if region.start else self.bits
        return found

    def done(self, region: Region, values: NDArray[Any]) -> None:
        """It is where it belongs."""

    def array(self, device: Any) -> jax.Array:
        """The same memory as JAX's array; a copy where the device has memory of its own."""
        self.values.flags.writeable = False
        made: jax.Array = jax.device_put(self.values, device, may_alias=True)
        return made


@dataclass(eq=False)
class Filling:
    """A plan's values, being made.

    Attributes:
        jobs: What the driver fills.
        arrays: What gives each path's array once they are filled.
    """

    device: Any
    sharding: Any
    jobs: list[Job] = field(default_factory=list)
    arrays: dict[str, Callable[[], Any]] = field(default_factory=dict)

    def add(self, entry: Entry, *, traced: bool = False) -> None:
        """Make room for an entry's values, or make them where they belong."""
        spec = entry.spec
        where = sharding_of(self.sharding, spec) if self.sharding is not None else None
        if traced:
            made = on_device(entry)
            self.arrays[spec.path] = lambda: made if made is not None else jnp.asarray(whole(entry))
        elif where is not None:
            self.arrays[spec.path] = lambda: sharded(entry, where)
        elif self.device is not None and self.device.platform != "cpu":
            self.arrays[spec.path] = lambda: alone(entry, self.device)
        else:
            memory = Memory(spec.sizes, spec.dtype)
            self.jobs.append(Job(entry, memory))
            self.arrays[spec.path] = lambda: memory.array(self.device)


def whole(entry: Entry) -> NDArray[Any]:
    """All of an entry's values, in NumPy."""
    memory = Memory(entry.spec.sizes, entry.spec.dtype)
    fill(entry, None, memory.bits)
    values: NDArray[Any] = memory.values
    return values


def on_device(entry: Entry, region: Region | None = None) -> Any:
    """A region's values made by JAX itself; `None` where only NumPy makes them."""
    spec = entry.spec
    if entry.start is None:
        return None
    corner, sizes = (region.start, region.shape) if region else (None, None)
    layout = entry.numbered.layout
    return numbers.values(entry.start, spec.dtype, entry.key, spec.sizes, corner, sizes, layout)


def alone(entry: Entry, device: Any, region: Region | None = None) -> jax.Array:
    """A region's values, made on a device where it can, brought there otherwise."""
    with jax.default_device(device):
        made = on_device(entry, region)
    if made is None:
        memory = Memory(region.shape if region else entry.spec.sizes, entry.spec.dtype)
        fill(entry, region, memory.bits)
        made = memory.values
    there: jax.Array = jax.device_put(made, device)
    return there


def sharded(entry: Entry, sharding: Any) -> jax.Array:
    """Each device's shard, made alone; equal ones on processors' memory once.

    Nothing is communicated: every shard is an array of one device, and the whole is put together of them.
    """
    shape = entry.spec.sizes
    cuts = sharding.addressable_devices_indices_map(shape)
    regions = {device: region_of(cut, shape) for device, cut in cuts.items()}
    filled: dict[Region, Memory] = {}
    for device, region in regions.items():
        if device.platform == "cpu" and region not in filled:
            filled[region] = Memory(region.shape, entry.spec.dtype)
    _fill_all(entry, filled)
    shards = [
        filled[region].array(device) if device.platform == "cpu" else alone(entry, device, region)
        for device, region in regions.items()
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def _fill_all(entry: Entry, filled: Mapping[Region, Memory]) -> None:
    def pieces() -> Iterator[tuple[Region, NDArray[Any]]]:
        for region, memory in filled.items():
            step = math.prod(region.shape) if entry.whole else BLOCK
            for block in blocks(region.shape, step):
                start = tuple(a + b for a, b in zip(region.start, block.start, strict=True))
                stop = tuple(a + b for a, b in zip(region.start, block.stop, strict=True))
                yield Region(start, stop), memory.bits[block.slices] if block.start else memory.bits

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(fill, entry, region, out) for region, out in pieces()]:
            done.result()


def region_of(cut: Iterable[slice], shape: tuple[int, ...]) -> Region:
    """The box of a shard."""
    ends = [s.indices(n) for s, n in zip(cut, shape, strict=True)]
    return Region(tuple(a for a, _, _ in ends), tuple(b for _, b, _ in ends))


def sharding_of(asked: Any, spec: Any) -> Any:
    """The sharding of one parameter; `None` where it has none.

    Raises:
        InputError: It is no sharding, or it does not cut the parameter evenly.
    """
    found = asked
    if isinstance(asked, Mapping):
        found = _in_tree(asked, spec)
    elif callable(asked) and not isinstance(asked, jax.sharding.Sharding):
        found = asked(spec.path, spec) if _takes_spec(asked) else asked(spec.path)
    if found is None:
        return None
    if not isinstance(found, jax.sharding.Sharding):
        raise InputError(
            f"sharding: {spec.path}: a jax.sharding.Sharding is needed, got {type(found).__name__}.",
            remedy="Give jax.sharding.NamedSharding(mesh, PartitionSpec(...)), a mapping of paths to them, or a function of the path.",
            path=spec.path,
        )
    try:
        found.shard_shape(spec.sizes)
    except ValueError:
        mesh = dict(getattr(getattr(found, "mesh", None), "shape", {}))
        raise InputError(
            f"sharding: {spec.path}: {spec.shown_shape} cannot be cut so; JAX's shards are all of one size.",
            facts=[f"sharding  {getattr(found, 'spec', found)}", f"mesh      {mesh or '?'}"],
            remedy="Cut an axis that the number of devices divides, or leave this parameter whole: PartitionSpec().",
            path=spec.path,
        ) from None
    return found


def _takes_spec(function: Any) -> bool:
    try:
        return len(inspect.signature(function).parameters) > 1
    except ValueError:
        return False


def _in_tree(asked: Mapping[Any, Any], spec: Any) -> Any:
    for path in spec.paths:
        if path in asked:
            return asked[path]
        for root in (asked, asked.get("params", {}) if spec.kind == "parameter" else asked):
            found: Any = root
            for part in path.split("."):
                found = (
                    found.get(part, found.get(int(part)) if part.isdigit() else None)
                    if isinstance(found, Mapping)
                    else None
                )
            if found is not None:
                return found
    return None


def device_of(device: Any) -> Any:
    """One of JAX's devices.

    Raises:
        InputError: It is none of them.
    """
    if device is None or isinstance(device, jax.Device):
        return device
    platform, _, number = str(device).partition(":")
    try:
        found = jax.devices(platform)
        return found[int(number or 0)]
    except (RuntimeError, IndexError, ValueError):
        known = [f"{d.platform}:{d.id}" for d in jax.devices()]
        raise InputError(
            f"device: {device!r} is not one of JAX's.",
            facts=[f"here  {', '.join(known)}"],
            remedy=nearest(str(device), known),
        ) from None
