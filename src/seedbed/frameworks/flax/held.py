"""Arrays as NumPy sees them; of those that several processes hold together, what this one has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from seedbed.errors import ModelError
from seedbed.fill import storage_dtype
from seedbed.frameworks import Ranks
from seedbed.frameworks.flax.place import region_of
from seedbed.region import Region
from seedbed.shard import Shard


class Held(NamedTuple):
    """An array's values, with the name of its dtype; of one that processes share, those that this one has.

    Attributes:
        given: The array.
        shard: What this process has of it, where others have some.
    """

    dtype: str
    shape: tuple[int, ...]
    given: Any
    shard: Shard | None = None

    @property
    def array(self) -> NDArray[Any]:
        """On the CPU, put together when it is asked for: JAX would keep what it puts together as long as the array."""
        parts = _parts(self.given)
        if len(parts) == 1 or not hasattr(self.given, "addressable_shards"):
            (there,) = parts.values() or [self.given]
            return np.asarray(there).view(storage_dtype(self.dtype))
        shard = self.shard or Shard.whole(self.shape)
        values = np.empty(shard.shape, storage_dtype(self.dtype))
        for there, here in shard.boxes():
            for region, data in parts.items():
                common = there.shared(region)
                if common is not None:
                    found = np.asarray(data).view(values.dtype)[common.moved(region.start).slices]
                    values[common.moved(there.start).moved(tuple(-n for n in here.start)).slices] = found
        return values


def held(path: str, array: Any) -> Held:
    """An array's values.

    Raises:
        ModelError: What this process has of it is no grid of boxes.
    """
    dtype, shape = str(array.dtype), tuple(array.shape)
    if getattr(array, "is_fully_addressable", True):
        return Held(dtype, shape, array)
    shard = _grid(list(_parts(array)), shape)
    if shard is None:
        raise ModelError(
            f"{path}: the shards that this process has lie in no grid, and cannot be compared together.",
            facts=[f"sharding  {getattr(array.sharding, 'spec', array.sharding)}", f"shape     {shape}"],
            remedy="Give it a sharding whose devices of one process are neighbors in the mesh.",
            path=path,
        )
    return Held(dtype, shape, array, shard)


def _parts(array: Any) -> dict[Region, Any]:
    """The different shards that this process has; none of what is no array of JAX."""
    return {region_of(s.index, tuple(array.shape)): s.data for s in getattr(array, "addressable_shards", ())}


def _grid(regions: list[Region], shape: tuple[int, ...]) -> Shard | None:
    """The shard that boxes make, where they are all that lie at the crossings of their ranges."""
    axes = [sorted({(r.start[axis], r.stop[axis]) for r in regions}) for axis in range(len(shape))]
    crossings = {Region(tuple(a for a, _ in box), tuple(b for _, b in box)) for box in product(*axes)}
    return Shard(tuple(map(tuple, axes))) if crossings == set(regions) else None


def ranks_of(arrays: Iterable[Any]) -> Ranks | None:
    """The processes that hold arrays together; `None` where this one holds all of them."""
    if all(getattr(array, "is_fully_addressable", True) for array in arrays):
        return None
    number, size = jax.process_index(), jax.process_count()
    return Ranks(number, (number,), f"{size} processes", size, {}, (), _gather)


def _gather(text: str) -> Mapping[int, str]:
    """What every process says: the lengths first, then texts of one length."""
    from jax.experimental import multihost_utils

    said = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array([said.size], np.int32))).reshape(-1)
    room = np.zeros(int(sizes.max()), np.uint8)
    room[: said.size] = said
    rows = np.asarray(multihost_utils.process_allgather(room)).reshape(len(sizes), -1)
    return {n: bytes(row[:size]).decode() for n, (row, size) in enumerate(zip(rows, sizes, strict=True))}
