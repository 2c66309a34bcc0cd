"""Stage 5: the numbers. Any region of a parameter, alone, equal to that region of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedbed import engine, threefry
from seedbed.errors import InitializerError, PlanError, RegionError, quoted
from seedbed.fill import matrices
from seedbed.fill.parts import runs, within
from seedbed.fill.words import words
from seedbed.initializers import (
    Chain,
    Constant,
    Custom,
    Dirac,
    Identity,
    Initializer,
    Loaded,
    Mixture,
    Normal,
    Ones,
    Orthogonal,
    Overlay,
    Recorded,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zeros,
)
from seedbed.plan import Entry, Key, key
from seedbed.region import Region, blocks, laid
from seedbed.shard import Shard
from seedbed.spec import Layout, ParamSpec

CHUNK = 1 << 16
"""Elements computed at a time: their words and values stay in cache."""

Array = NDArray[Any]


def pieces(entry: Entry, most: int, shard: Shard | None = None) -> Iterator[tuple[Region, Region]]:
    """An entry in blocks: where each lies in the whole, and in a shard's memory.

    What needs the whole array, or the whole part of one, is one block.
    """
    shard = Shard.whole(entry.spec.sizes) if shard is None else shard
    for there, here in shard.boxes():
        origin = tuple(a - b for a, b in zip(there.start, here.start, strict=True))
        for run, whole in runs(entry):
            common = there.shared(run)
            if common is None:
                continue
            for block in blocks(common.shape, math.prod(common.shape) if whole else most):
                place = block.moved(tuple(-n for n in common.start))
                yield place, place.moved(origin)


def storage_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype that holds a parameter's values; what NumPy lacks is held as its bits."""
    return np.dtype({"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}.get(dtype, dtype))


def fill(entry: Entry, region: Region | None = None, out: Array | None = None) -> Array:
    """The values of one region of one parameter.

    The number at a position depends only on the seed, the stream and that position in the whole
    parameter: not on the region asked for, on the order of calls, or on anything else in the plan.

    Args:
        entry: From a plan, its sizes settled.
        region: A box inside the parameter; the whole when left out.
        out: Where to write, of the region's shape; any strides. Made when left out.

    Returns:
        An array of the region's shape in the parameter's dtype; bfloat16 and float8 as their bits.

    Raises:
        RegionError: The region reaches outside the parameter, or `out` cannot hold its values.
        PlanError: The entry keeps the values that are there, so it has none of its own.

    Example:
        >>> import seedbed as sb
        >>> specs = sb.Specs((sb.ParamSpec(path="fc.weight", shape=(4, 6)),))
        >>> (entry,) = sb.plan(specs, recipe=sb.initializers.Normal(std=0.02))
        >>> shard = fill(entry, Region((2, 0), (4, 6)))
        >>> bool((fill(entry)[2:4] == shard).all())
        True
    """
    spec, start = entry.spec, entry.start
    shape = spec.sizes
    region = Region.whole(shape) if region is None else region
    if not isinstance(region, Region):
        raise RegionError(f"{spec.path}: `region` must be a Region, got {quoted(region)}.", path=spec.path)
    if not region.within(shape):
        ends = f"{quoted(region.start)}..{quoted(region.stop)}"
        raise RegionError(f"{spec.path}: region {ends} reaches outside {spec.shown_shape}.", path=spec.path)
    if (start is None and not entry.parts) or entry.kept:
        raise PlanError(
            f"{spec.path}: the plan keeps the values that are there, and holds none itself.", path=spec.path
        )
    out = _memory(spec, region) if out is None else out
    _judge(out, spec, region)
    if entry.parts:
        for part, box, place in within(entry, region, out) if out.size else ():
            fill(part, box, place)
    elif isinstance(start, Chain):
        _chain(start, entry, region, out)
    elif isinstance(start, Recorded):
        out[...] = _recorded(start, entry)[region.slices]
    elif isinstance(start, Loaded):
        out[...] = _loaded(start, spec)[region.slices]
    elif out.size and start is not None:
        _lay(start, entry.numbered, entry.key, region, np.asarray(out))
    return out


def _lay(start: Initializer, spec: ParamSpec, key: Key, region: Region, out: Array) -> None:
    """Fill a region of an array that may lie in a layout of its own."""
    if isinstance(start, Overlay):
        _lay(start.base, spec, key, region, out)
        for box, part in start.boxes:
            common = region.shared(Region(*zip(*box, strict=True)))
            if common:
                _lay(part, spec, key, common, out[common.moved(region.start).slices])
        return
    if spec.layout is None or isinstance(start, Custom) or _constant(start) is not None:
        _fill(start, spec, key, region, out)
        return
    shape = spec.layout.whole(spec.shape)
    whole = ParamSpec(path=spec.path, shape=shape, dtype=spec.dtype, axes=spec.layout.roles(spec.axes))
    made = _filled(start, whole, key) if start.whole else None
    for piece, place in laid(spec.layout, spec.sizes, region, out):
        if made is None:
            _fill(start, whole, key, piece, place)
        else:
            place[...] = made[piece.slices]


def _filled(start: Initializer, spec: ParamSpec, key: Key) -> Array:
    out = np.empty(spec.sizes, storage_dtype(spec.dtype))
    _fill(start, spec, key, Region.whole(spec.sizes), out)
    return out


def _memory(spec: ParamSpec, region: Region) -> Array:
    try:
        return np.empty(region.shape, storage_dtype(spec.dtype))
    except ValueError:  # more bytes, or more axes, than an array can have; a lack of memory is a MemoryError
        raise RegionError(
            f"{spec.path}: no array can have the shape {region.shape}.", remedy="Fill smaller regions.", path=spec.path
        ) from None


def _judge(out: Any, spec: ParamSpec, region: Region) -> None:
    """Raise unless `out` can hold the region's values."""
    dtype = storage_dtype(spec.dtype)
    if not isinstance(out, np.ndarray) or out.shape != region.shape or out.dtype != dtype:
        got = f"{out.dtype}{out.shape}" if isinstance(out, np.ndarray) else quoted(out)
        raise RegionError(f"{spec.path}: `out` must be {dtype}{region.shape}, got {got}.", path=spec.path)
    if not out.flags.writeable:
        raise RegionError(f"{spec.path}: `out` is read-only.", path=spec.path)


def _fill(start: Initializer, spec: ParamSpec, key: Key, region: Region, out: Array) -> None:
    constant = _constant(start)
    floating = "float" in spec.dtype
    if constant is not None:
        out[...] = threefry.rounded(np.full(1, constant, np.float32), spec.dtype) if floating else constant
        return
    if engine.fill(start, spec.dtype, key, spec.sizes, region.start, out):
        return
    for block in blocks(region.shape, math.prod(region.shape) if start.whole else CHUNK):
        start_at = tuple(a + o for a, o in zip(block.start, region.start, strict=True))
        place = Region(start_at, tuple(a + n for a, n in zip(start_at, block.shape, strict=True)))
        values = _values(start, spec, key, place)
        out[block.slices] = threefry.rounded(values, spec.dtype) if floating else values


def _constant(start: Initializer) -> float | None:
    if isinstance(start, (Zeros, Ones)):
        return 0 if isinstance(start, Zeros) else 1
    return start.value if isinstance(start, Constant) else None


def _values(start: Initializer, spec: ParamSpec, key: Key, region: Region) -> NDArray[np.float32]:
    """float32 values of a region."""
    if isinstance(start, Mixture):
        choice, drawn = words(key, 0, spec.sizes, region), words(key, 1, spec.sizes, region)
        values = _elementwise(start.parts[-1][1], drawn)
        for threshold, (_, part) in reversed(list(zip(start.thresholds(), start.parts, strict=False))):
            values = np.where(choice.astype(np.uint64) < threshold, _elementwise(part, drawn), values)
        return values
    if isinstance(start, Custom):
        return _custom(start, spec, key, region)
    if isinstance(start, Orthogonal):
        return _orthogonal(start, spec, key)[region.slices]
    if isinstance(start, Sparse):
        return _sparse(start, spec, key, region)
    if isinstance(start, (Identity, Dirac)):
        return matrices.delta(start, spec.sizes, region)
    return _elementwise(start, words(key, 0, spec.sizes, region))


def _elementwise(start: Initializer, words: threefry.Words) -> NDArray[np.float32]:
    if isinstance(start, Uniform):
        return threefry.uniform(words, start.low, start.high)
    if isinstance(start, Normal):
        return threefry.scaled(threefry.normal(words), start.std, start.mean)
    if isinstance(start, TruncatedNormal):
        z = threefry.normal(words, threefry.lowest_within(start.cut))
        return threefry.scaled(z, start.std, start.mean)
    constant = _constant(start)
    if constant is None:
        raise InitializerError(
            f"{start}: holds no numbers of its own, so it cannot fill a parameter or a part of one.",
            remedy="Give numbers in its place, such as Normal(std=...) for one that is scaled by fans.",
        )
    return np.full(words.shape, constant, np.float32)


class Draw:
    """Fresh values for one region, as a `Custom` function is given them.

    Attributes:
        shape: The region's shape, which is the shape to return.
        region: The region.
    """

    def __init__(
        self, key: Key, shape: tuple[int, ...], region: Region, number: int = 0, layout: Layout | None = None
    ) -> None:
        self.shape, self.region = region.shape, region
        self._key, self._whole, self._draw, self._layout = key, shape, number, layout

    def filled(self, start: Initializer, dtype: str) -> Array:
        """What an initializer makes of a parameter that has this key and a shape."""
        out = np.empty(self.shape, storage_dtype(dtype))
        if out.size:
            spec = ParamSpec(path="part", shape=self._whole, dtype=dtype, layout=self._layout)
            _lay(start, spec, self._key, self.region, out)
        return out

    def run(self, first: int, count: int) -> Draw:
        """The same numbers at `count` places of the whole from `first` on, in order; they go on past its end."""
        return Draw(self._key, (first + count,), Region((first,), (first + count,)), self._draw)

    def made(self, start: Initializer) -> NDArray[np.float32]:
        """Values of an initializer; of draws after the first, as of a parameter with a key of its own."""
        if self._draw:
            words = threefry.threefry4x32(self._key, (0, 0, np.array([self._draw], np.uint32), 1))  # no value's words
            a, b, c, d = (int(w[0]) for w in words)
            return Draw((a, b, c, d), self._whole, self.region, layout=self._layout).made(start)
        return self.filled(start, "float32")

    def bits(self) -> threefry.Words:
        """Uniform 32-bit words; every call is independent of the ones before."""
        made = np.empty(self.shape, np.uint32)
        if self._layout is None:
            words(self._key, self._draw, self._whole, self.region, made)
        else:
            whole = ParamSpec(path="whole", shape=self._layout.whole(self._whole)).sizes
            for box, place in laid(self._layout, self._whole, self.region, made):
                words(self._key, self._draw, whole, box, place)
        self._draw += 1
        return made

    def uniform(self, low: float = 0.0, high: float = 1.0) -> NDArray[np.float32]:
        """Uniform values, `low <= x < high`."""
        return threefry.uniform(self.bits(), low, high)

    def normal(self, mean: float = 0.0, std: float = 1.0) -> NDArray[np.float32]:
        """Normal values."""
        return threefry.scaled(threefry.normal(self.bits()), std, mean)

    def index(self, axis: int) -> NDArray[np.int64]:
        """Places along `axis` of the region's elements in the whole, of a shape that broadcasts."""
        axis = range(len(self.shape))[axis]
        places = np.arange(self.region.start[axis], self.region.stop[axis])
        return places.reshape([-1 if a == axis else 1 for a in range(len(self.shape))])


def _recorded(start: Recorded, entry: Entry) -> Any:
    """What the function gives: the whole array, or of a chain the function that gives its blocks."""
    spec = entry.spec
    if start.function is None:
        raise PlanError(
            f"{spec.path}: the plan names what a constructor computes, and a file cannot hold that.",
            facts=[str(start)],
            remedy="Make the plan from the model again.",
            path=spec.path,
        )

    def draws(stream: str, number: int, shape: tuple[int, ...]) -> Draw:
        of = key(entry.seed, stream.split(".")) if stream else entry.key
        return Draw(of, shape, Region.whole(shape), number)

    return start.function(spec.dtype, draws)


def _chain(start: Chain, entry: Entry, region: Region, out: Array) -> None:
    """The blocks that a region has elements of, some at a time."""
    if not out.size:
        return
    shape, made, step, some = entry.spec.sizes, _recorded(start, entry), start.STEP, CHUNK // start.STEP
    for piece in blocks(region.shape, CHUNK):
        places: Array = np.zeros((), np.int64)
        for size, first, a, b in zip(shape, region.start, piece.start, piece.stop, strict=True):
            places = places[..., None] * size + np.arange(first + a, first + b)
        places = places.reshape(-1)  # in ascending order, as rows are counted
        numbers, which = np.unique(places // step, return_inverse=True)
        values = np.empty(places.shape, out.dtype)
        for n in range(0, len(numbers), some):
            here = slice(*np.searchsorted(which, (n, n + some)))
            values[here] = made(numbers[n : n + some])[which[here] - n, places[here] % step]
        out[piece.slices] = values.reshape(piece.shape)


def _loaded(start: Loaded, spec: ParamSpec) -> Array:
    if start.array is None:
        raise PlanError(
            f"{spec.path}: the plan names a checkpoint, and it was read from a file without it.",
            facts=[str(start)],
            remedy="Make the plan from the model and the checkpoint again.",
            path=spec.path,
        )
    values: Array = start.array
    return values


def _custom(start: Custom, spec: ParamSpec, key: Key, region: Region) -> NDArray[np.float32]:
    values = np.asarray(start.function(Draw(key, spec.sizes, region, layout=spec.layout), spec))
    if values.shape != region.shape or values.dtype.kind not in "fiub":
        raise InitializerError(
            f"{spec.path}: {start} must return numbers of the shape it was asked for.",
            facts=[f"expected  {region.shape}", f"got       {values.dtype}{values.shape}"],
            remedy="Return an array of the shape `draw.shape`; it is the shape of a region, not always of the whole.",
            path=spec.path,
        )
    return values.astype(np.float32)


def _normals(std: float, shape: tuple[int, ...], key: Key, region: Region) -> NDArray[np.float32]:
    out = np.empty(region.shape, np.float32)
    _fill(Normal(std=std), ParamSpec(path="normals", shape=shape), key, region, out)
    return out


def _orthogonal(start: Orthogonal, spec: ParamSpec, key: Key) -> NDArray[np.float32]:
    z = _normals(1.0, spec.sizes, key, Region.whole(spec.sizes))
    return matrices.orthogonal(start, z, spec.axes.count("stack"))


def _sparse(start: Sparse, spec: ParamSpec, key: Key, region: Region) -> NDArray[np.float32]:
    values = _normals(start.std, spec.sizes, key, region)
    tall = Region((0, region.start[1]), (spec.sizes[0], region.stop[1]))
    columns = np.empty(tall.shape[::-1], np.uint32)  # a column is a row of it
    words(key, 1, spec.sizes, tall, columns.T)
    matrices.thin(start, values, columns, region.start[0])
    return values
