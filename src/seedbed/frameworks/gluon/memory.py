"""The memory of MXNet's arrays as NumPy sees it, without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call
from mxnet.gluon import Parameter
from mxnet.ndarray import NDArray as MXArray
from numpy.typing import NDArray

from seedbed.fill import fill, storage_dtype
from seedbed.frameworks.gluon.blocks import native_dtype, plain
from seedbed.materialize import BLOCK, Job, advise, run
from seedbed.plan import Entry
from seedbed.region import Region

KINDS_IN_REACH = ("cpu", "cpu_pinned", "cpu_shared")


def view_of(array: MXArray, *, new: bool = False) -> NDArray[Any] | None:
    """An array's own memory, once nothing that MXNet still computes reads or writes it; None on a GPU.

    MXNet computes behind the caller's back. What was asked of the array before is finished first; what is asked
    of it afterwards finds what was written. Of one that is `new` nothing has been asked.
    """
    if array.ctx.device_type not in KINDS_IN_REACH:
        return None
    dtype = storage_dtype(plain(array.dtype))
    if not array.size:
        return np.empty(array.shape, dtype)
    address = ctypes.c_void_p()
    if not new:
        check_call(_LIB.MXNDArrayWaitToWrite(array.handle))
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))  # lays it out as usual, if it was not
    if not new:
        check_call(_LIB.MXNDArrayWaitToWrite(array.handle))
    buffer: Any = (ctypes.c_uint8 * (array.size * dtype.itemsize)).from_address(address.value or 0)
    buffer.owner = array  # the memory lives as long as the view
    found: NDArray[Any] = np.frombuffer(buffer, dtype).reshape(array.shape)
    return found


def empty(shape: tuple[int, ...], dtype: Any, context: mx.Context) -> MXArray:
    """Memory that nothing has written, of the kind of array in use."""
    if mx.util.is_np_array():
        return mx.np.empty(shape, dtype=native_dtype(dtype), ctx=context)
    return mx.nd.empty(shape, ctx=context, dtype=native_dtype(dtype))


class Unwritten(NamedTuple):
    """What Gluon copies a parameter's memory from, when there is nothing to copy: room of its size."""

    shape: tuple[int, ...]
    dtype: Any

    def copyto(self, context: mx.Context) -> MXArray:
        """The parameter's array on one context, not written yet."""
        return empty(self.shape, self.dtype, context)


def allocate(parameter: Parameter, sizes: tuple[int, ...], contexts: Sequence[mx.Context] | None) -> None:
    """Memory for a parameter, and for its gradient, by Gluon's own code: nothing has written the first."""
    wished = parameter._deferred_init[1] if parameter._deferred_init else [mx.current_context()]
    parameter.shape = sizes
    parameter._init_impl(Unwritten(sizes, parameter.dtype), list(contexts or wished))
    parameter._deferred_init = ()


class Memory:
    """The arrays of one parameter: the first is filled where it stands, the others are copied to."""

    def __init__(self, arrays: list[MXArray], dtype: str, *, new: bool = False) -> None:
        self.dtype = dtype
        reach = [view_of(a, new=new) for a in arrays]
        for view in reach if new else ():
            if view is not None:
                advise(view.ctypes.data, view.nbytes)
        self.direct = next((view for view in reach if view is not None), None)
        self.views = [view for view in reach if view is not None and view is not self.direct]
        self.arrays = [a for a, view in zip(arrays, reach, strict=True) if view is None]

    def block(self, region: Region) -> NDArray[Any]:
        """The region of the parameter's memory, or room to fill it in."""
        if self.direct is None:
            return np.empty(region.shape, storage_dtype(self.dtype))
        return self.direct[region.slices] if region.start else self.direct

    def done(self, region: Region, values: NDArray[Any]) -> None:
        """Copy to the other contexts."""
        for view in self.views:
            view[region.slices if region.start else ...] = values
        for array in self.arrays:
            made = mx.nd.array(values, ctx=array.ctx, dtype=array.dtype)
            if region.start:
                array[region.slices] = made.as_np_ndarray() if mx.util.is_np_array() else made
            else:
                made.reshape(array.shape).copyto(array.as_nd_ndarray())


def start(entry: Entry, memory: Memory) -> None:
    """Fill one parameter: a small one here, a large one on several threads."""
    if entry.spec.count > BLOCK:
        run([Job(entry, memory)])
    elif entry.spec.count:
        whole = Region.whole(entry.spec.sizes)
        memory.done(whole, fill(entry, whole, memory.block(whole)))


class Values(NamedTuple):
    """A parameter's values, with the name of its dtype."""

    dtype: str
    shape: tuple[int, ...]
    given: MXArray

    @property
    def array(self) -> NDArray[Any]:
        """As NumPy has them: where they are when NumPy reaches them, or copied when they are asked for."""
        view = view_of(self.given)
        found: NDArray[Any] = self.given.asnumpy() if view is None else view
        return found


def values_of(arrays: Mapping[str, MXArray]) -> dict[str, Values]:
    """Arrays by path, as the spine takes them."""
    return {path: Values(plain(array.dtype), tuple(array.shape), array) for path, array in arrays.items()}
