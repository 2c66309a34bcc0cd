"""Where a plan's values go: memory that becomes JAX's arrays without a copy, shards, and devices that fill their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from numpy.typing import NDArray

from seedbed.errors import InputError, nearest
from seedbed.fill import fill, storage_dtype
from seedbed.frameworks.flax import numbers
from seedbed.frameworks.flax.shardings import sharding_of
from seedbed.materialize import Job, advise
from seedbed.plan import Entry
from seedbed.region import Region
from seedbed.shard import Shard

ALIGNED = 64
"""Bytes: JAX takes over memory that begins at a multiple, and copies any other."""


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


class Whole:
    """A parameter of which no part can be made alone; its whole lasts until the parts are taken."""

    def __init__(self, dtype: str, parts: Mapping[Region, Memory]) -> None:
        self.dtype, self.parts = dtype, parts

    def block(self, region: Region) -> NDArray[Any]:
        """Memory of all of it."""
        return np.empty(region.shape, storage_dtype(self.dtype))

    def done(self, region: Region, values: NDArray[Any]) -> None:
        """Each part goes where it belongs."""
        for part, memory in self.parts.items():
            memory.bits[...] = values[part.slices]


@dataclass(eq=False)
class Filling:
    """A plan's values, being made.

    Attributes:
        device: Where what has no sharding goes.
        sharding: One for all, by path as `shardings.by_path` has them, or a function.
        jobs: What the driver fills.
        arrays: What gives each path's array once they are filled.
    """

    device: Any
    sharding: Any
    jobs: list[Job] = field(default_factory=list)
    arrays: dict[str, Callable[[], Any]] = field(default_factory=dict)

    def add(
        self, entries: Sequence[Entry], there: Mapping[str, Any] = MappingProxyType({}), *, traced: bool = False
    ) -> None:
        """Make room for entries' values, or make them where they belong; every sharding is judged before.

        Args:
            entries: What is to be filled.
            there: By path, the shardings of arrays that are there, kept where nothing else is asked for.
            traced: Whether a program is being traced, of which the values become a part.
        """
        if self.device is not None:
            there = {}
        shardings = [self._sharding(entry) or there.get(entry.spec.path) for entry in entries]
        for entry, where in zip(entries, shardings, strict=True):
            self._add(entry, where, traced=traced)

    def _sharding(self, entry: Entry) -> Any:
        return None if self.sharding is None else sharding_of(self.sharding, entry.spec)

    def _add(self, entry: Entry, where: Any, *, traced: bool) -> None:
        spec = entry.spec
        if traced:
            self.arrays[spec.path] = lambda: inside(entry, where)
        elif where is not None:
            self._cut(entry, where)
        elif self.device is not None and self.device.platform != "cpu":
            self.arrays[spec.path] = lambda: alone(entry, self.device)
        else:
            memory = Memory(spec.sizes, spec.dtype)
            self.jobs.append(Job(entry, memory))
            self.arrays[spec.path] = lambda: memory.array(self.device)

    def _cut(self, entry: Entry, sharding: Any) -> None:
        """Make room for the shards of this process's devices: equal ones once where they are filled here."""
        spec, regions = entry.spec, regions_of(sharding, entry.spec.sizes)
        if any(device.platform != "cpu" for device in regions) and makes(entry, regions):
            self.arrays[spec.path] = lambda: joined(entry, sharding, by_devices(entry, regions))
            return
        filled = {region: Memory(region.shape, spec.dtype) for region in regions.values()}
        if entry.whole and len(filled) > 1:
            self.jobs.append(Job(entry, Whole(spec.dtype, filled)))
        else:
            self.jobs += [Job(entry, memory, shard_of(region)) for region, memory in filled.items()]
        self.arrays[spec.path] = lambda: joined(entry, sharding, {d: filled[r].array(d) for d, r in regions.items()})


def whole(entry: Entry) -> NDArray[Any]:
    """All of an entry's values, in NumPy."""
    memory = Memory(entry.spec.sizes, entry.spec.dtype)
    fill(entry, None, memory.bits)
    values: NDArray[Any] = memory.values
    return values


def on_device(entry: Entry) -> Any:
    """An entry's values made by JAX itself; `None` where only NumPy makes them."""
    if entry.start is None:
        return None
    return numbers.values(entry.start, entry.spec.dtype, entry.key, entry.spec.sizes, layout=entry.numbered.layout)


def alone(entry: Entry, device: Any) -> jax.Array:
    """An entry's values, made on a device where it can, brought there otherwise."""
    with jax.default_device(device):
        made = on_device(entry)
    there: jax.Array = jax.device_put(whole(entry) if made is None else made, device)
    return there


def inside(entry: Entry, sharding: Any = None) -> Any:
    """All of an entry's values as a part of a program that is being traced."""
    made = on_device(entry)
    made = jnp.asarray(whole(entry)) if made is None else made
    return made if sharding is None else jax.lax.with_sharding_constraint(made, sharding)


def joined(entry: Entry, sharding: Any, shards: Mapping[Any, jax.Array]) -> jax.Array:
    """One array of the shards that this process's devices hold; nothing is communicated."""
    spec, kind = entry.spec, sharding.memory_kind
    if any(kind not in (None, device.default_memory().kind) for device in shards):
        shards = {d: jax.device_put(a, SingleDeviceSharding(d, memory_kind=kind)) for d, a in shards.items()}
    return jax.make_array_from_single_device_arrays(
        spec.sizes, sharding, list(shards.values()), dtype=jnp.dtype(spec.dtype)
    )


def makes(entry: Entry, regions: Mapping[Any, Region]) -> bool:
    """Whether JAX itself makes the values of these regions."""
    layout = entry.numbered.layout
    return entry.start is not None and all(
        numbers.makes(entry.start, entry.spec.dtype, region.shape, layout) for region in regions.values()
    )


def by_devices(entry: Entry, regions: Mapping[Any, Region]) -> dict[Any, jax.Array]:
    """Each device's shard, made there, equal ones by each of theirs."""
    spec, (sizes, *_) = entry.spec, [region.shape for region in regions.values()]
    corners = {device: region.start for device, region in regions.items()}
    assert entry.start is not None, "nothing else has values of its own"
    return numbers.shards(entry.start, spec.dtype, entry.key, spec.sizes, corners, sizes, entry.numbered.layout)


def regions_of(sharding: Any, shape: tuple[int, ...]) -> dict[Any, Region]:
    """What each of this process's devices holds."""
    cuts = sharding.addressable_devices_indices_map(shape)
    return {device: region_of(cut, shape) for device, cut in cuts.items()}


def shard_of(region: Region) -> Shard:
    """A device that holds a box holds one run along each axis."""
    return Shard(tuple((ends,) for ends in zip(region.start, region.stop, strict=True)))


def laid(array: Any) -> Any:
    """The sharding of an array, or of the shape of one, that is laid out over several devices; `None` of others."""
    found = getattr(array, "sharding", None)
    if not isinstance(found, NamedSharding) or not isinstance(found.mesh, Mesh):
        return None
    return found if len(found.device_set) > 1 else None


def region_of(cut: Iterable[slice], shape: tuple[int, ...]) -> Region:
    """The box of a shard."""
    ends = [s.indices(n) for s, n in zip(cut, shape, strict=True)]
    return Region(tuple(a for a, _, _ in ends), tuple(b for _, b, _ in ends))


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
