"""One number for many values, which depends neither on how they are laid out nor on the order they come in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seedbed import engine
from seedbed.errors import PlanError, columns, shown
from seedbed.fill import CHUNK, fill, pieces
from seedbed.materialize import BLOCK, Progress, abreast, processors, shares
from seedbed.plan import Entry, Plan
from seedbed.region import Region, blocks
from seedbed.shard import Shard

PART = 1 << 22
"""Elements of an array handed to a thread at a time: nothing is made for them, and handing over costs as much as 100,000."""


class Sum(NamedTuple):
    """What one process has of a parameter, summed up.

    Attributes:
        dtype: Of its values.
        shape: Of the whole.
        runs: What the process has of it, as a `Shard` says it.
        total: The sum over these elements, modulo 2**64.
    """

    dtype: str
    shape: tuple[int, ...]
    runs: Any
    total: int


def sums(plan: Plan, held: Mapping[str, Any] | None = None, progress: Progress | None = None) -> dict[str, Sum]:
    """The sums of all that a checkpoint of a plan holds.

    Each element gives `mix(mix(k + i) ^ b)`: i its place in the whole, in row-major order; b its bits; k the
    first 8 bytes of the BLAKE2b of its path. All are added, modulo 2**64, so that order and layout do not matter.

    Args:
        plan: Its sizes settled.
        held: Arrays by path, of which a tied one may stand under any of its paths; as planned when left out.
        progress: Told after each block.

    Raises:
        PlanError: Some are not there, or the plan keeps values and there are none.

    References:
        G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
        10.1145/2660193.2660195: the function `mix`, with the constants of variant 13.
    """
    entries = [e for e in plan if e.spec.persistent]
    there = {e.spec.path: next((held[p] for p in e.spec.paths if p in held), None) for e in entries} if held else {}
    lost = [e.spec.path for e in entries if (e.kept if held is None else there.get(e.spec.path) is None)]
    if lost:
        raise PlanError(
            f"{lost[0]}: has no values to be fingerprinted."
            if len(lost) == 1
            else f"{len(lost)} parameters have no values to be fingerprinted.",
            facts=shown(lost),
            remedy="Give what holds them:\n    seedbed.fingerprint(plan, model)",
            paths=tuple(lost),
        )
    totals = dict.fromkeys((e.spec.path for e in entries), 0)

    def work(share: list[_Block]) -> list[tuple[int, int]]:
        return [whole.sum(place, here) for whole, place, here in share]

    def done(share: list[_Block], made: list[tuple[int, int]]) -> None:
        for (whole, *_), (part, nbytes) in zip(share, made, strict=True):
            totals[whole.entry.spec.path] += part
            if progress:
                progress(whole.entry.spec.path, nbytes)

    abreast(shares(_blocks(entries, there)), work, done, processors())
    found = {}
    for entry in entries:
        path = entry.spec.path
        dtype, shape, shard = _geometry(entry, there.get(path))
        found[path] = Sum(dtype, shape, shard.runs, totals[path] % 2**64)
    return found


class _Whole(NamedTuple):
    """A parameter that is summed up: `array` is what there is of it, or nothing, and it is made as planned."""

    entry: Entry
    key: int
    shape: tuple[int, ...]
    array: Any

    def sum(self, place: Region, here: Region) -> tuple[int, int]:
        """That of a block, and its bytes."""
        values = np.asarray(fill(self.entry, place) if self.array is None else self.array[here.slices])
        return total(self.key, self.shape, place, values), values.nbytes


_Block = tuple[_Whole, Region, Region]


def _geometry(entry: Entry, held: Any) -> tuple[str, tuple[int, ...], Shard]:
    """Dtype and shape of the whole, and what is there of it."""
    dtype, shape = (entry.spec.dtype, entry.spec.sizes) if held is None else (held.dtype, tuple(held.shape))
    return dtype, shape, getattr(held, "shard", None) or Shard.whole(shape)


def _blocks(entries: list[Entry], there: Mapping[str, Any]) -> Iterator[_Block]:
    for entry in entries:
        held = there.get(entry.spec.path)
        _, shape, shard = _geometry(entry, held)
        key = int.from_bytes(hashlib.blake2b(entry.spec.path.encode(), digest_size=8).digest(), "little")
        # Asked for once: it may come from a device, and is dropped when its blocks are summed up.
        whole = _Whole(entry, key, shape, None if held is None else held.array)
        for place, here in pieces(entry, BLOCK) if held is None else shard.blocks(PART):
            yield whole, place, here


def total(key: int, shape: tuple[int, ...], region: Region, values: NDArray[Any]) -> int:
    """The sum of a region's elements, modulo 2**64.

    Args:
        key: Of the path.
        shape: Of the whole.
        region: A box inside it.
        values: The region's; any strides.
    """
    if values.dtype.itemsize > 8:  # complex128: two numbers at each place
        halves = values[..., None].view(np.float64)
        return total(key, (*shape, 2), Region((*region.start, 0), (*region.stop, 2)), halves)
    found = engine.total(key, shape, region.start, values)
    if found is not None:
        return found
    if not shape:
        return _in_numpy(key, shape, region, values)
    origin = tuple(-n for n in region.start)
    return sum(_in_numpy(key, shape, b.moved(origin), values[b.slices]) for b in blocks(region.shape, CHUNK)) % 2**64


def _in_numpy(key: int, shape: tuple[int, ...], region: Region, values: NDArray[Any]) -> int:
    """What every engine is to give, at most `CHUNK` elements at a time, so that they stay in cache."""
    place: NDArray[Any] = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for size, first, last in zip(shape, region.start, region.stop, strict=True):
            place = place[..., None] * np.uint64(size) + np.arange(first, last, dtype=np.uint64)
        words = place.reshape(-1) + np.uint64(key)
        _mix(words)
        words ^= np.ascontiguousarray(values).reshape(-1).view(f"u{values.dtype.itemsize}")
        _mix(words)
        return int(words.sum(dtype=np.uint64))


def _mix(words: NDArray[np.uint64]) -> None:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words ^= words >> np.uint64(shift)
        words *= np.uint64(factor)
    words ^= words >> np.uint64(31)


def together(said: Mapping[int, Mapping[str, Sum]]) -> str:
    """128 bits, in hexadecimal, of what all processes have together.

    Raises:
        PlanError: Two processes hold different values of one shard, or some elements are held by none.
    """
    shards: dict[str, dict[str, dict[int, Sum]]] = {}
    for rank, found in said.items():
        for path, one in found.items():
            shards.setdefault(path, {}).setdefault(json.dumps(one.runs), {})[rank] = one
    rows, apart, lost = [], [], []
    for path, parts in sorted(shards.items()):
        apart += [
            (path, *(f"rank {rank}: {one.total:016x}" for rank, one in [*same.items()][:2]))
            for same in parts.values()
            if len({one.total for one in same.values()}) > 1
        ]
        one = next(iter(next(iter(parts.values())).values()))
        there = sum(Shard(_tuples(json.loads(runs))).count for runs in parts)
        if there != Shard.whole(one.shape).count:
            lost.append((path, f"{there:,} of {Shard.whole(one.shape).count:,} values"))
        total = sum(next(iter(same.values())).total for same in parts.values()) % 2**64
        rows.append([path, one.dtype, one.shape, total])
    if apart or lost:
        first = (apart or lost)[0][0]
        raise PlanError(
            f"{first}: its replicas differ." if apart else f"{first}: not all of it is there.",
            facts=shown(columns([row[: min(map(len, apart or lost))] for row in apart or lost])),
            remedy="Start the model again on all ranks with one seed."
            if apart
            else "Ask on all ranks that hold the model.",
        )
    text = json.dumps(rows, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def to_text(found: Mapping[str, Sum]) -> str:
    """Sums as text, to be sent."""
    return json.dumps({path: list(one) for path, one in found.items()})


def from_text(text: str) -> dict[str, Sum]:
    """The inverse of `to_text`."""
    return {path: Sum(*_tuples(one)) for path, one in json.loads(text).items()}
