"""Arrays and the backend's tensors: the same memory where that can be."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from seedbed.fill import storage_dtype
from seedbed.materialize import advise

ALIGNED = 64
"""Bytes; arrays that begin at a multiple of it are taken over without a copy by JAX and TensorFlow."""


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array that begins where backends take it over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNED, np.uint8)
    first = -raw.ctypes.data % ALIGNED
    advise(raw.ctypes.data + first, size)
    made: NDArray[Any] = raw[first : first + size].view(dtype).reshape(shape)
    return made


def torch_memory(variable: Any) -> Any:
    """The tensor of a variable; made where there is none."""
    import torch
    from keras.src.backend.torch.core import get_device, to_torch_dtype

    if variable._value is None:
        with torch.inference_mode(mode=False):  # memory made in inference mode could not be trained
            made = torch.empty(tuple(variable._shape), dtype=to_torch_dtype(variable._dtype), device=get_device())
            trained = variable.trainable and made.is_floating_point()
            variable._initialize(torch.nn.Parameter(made, requires_grad=trained))
        variable._initializer = None
        if made.device.type == "cpu":
            storage = made.untyped_storage()
            advise(storage.data_ptr(), storage.nbytes())
    return variable._value.detach()


def torch_view(tensor: Any, dtype: str) -> NDArray[Any] | None:
    """A tensor's memory as NumPy sees it, where it can."""
    import torch

    held = storage_dtype(dtype)
    if tensor.device.type != "cpu" or tensor.element_size() != held.itemsize:
        return None
    bits = {"uint8": torch.uint8, "uint16": torch.uint16}
    view: NDArray[Any] = (tensor if str(held) == dtype else tensor.view(bits[str(held)])).numpy()
    return view


def hand_over(variable: Any, array: NDArray[Any], dtype: str) -> None:
    """Make an array the value of a variable, without a copy where the backend can do without."""
    value = tensor_of(array, dtype)
    if variable._value is None:
        variable._initialize(value)
        variable._initializer = None
    else:
        variable._direct_assign(value)


def tensor_of(array: NDArray[Any], dtype: str) -> Any:
    """The backend's tensor of an array; bfloat16 and float8 are given as their bits."""
    import ml_dtypes

    backend = keras.backend.backend()
    named = array if str(array.dtype) == dtype else array.view(getattr(ml_dtypes, dtype))
    if backend == "jax":
        import jax

        return jax.device_put(named, may_alias=True)
    if backend == "tensorflow":
        import tensorflow as tf

        made = tf.experimental.dlpack.from_dlpack(array.__dlpack__()) if array.size else tf.convert_to_tensor(array)
        return made if named is array else tf.bitcast(made, tf.as_dtype(dtype))
    if backend == "torch":
        import torch
        from keras.src.backend.torch.core import to_torch_dtype

        there = torch.from_numpy(array)
        there = there if named is array else there.view(to_torch_dtype(dtype))
        return there.to(variable_device())
    return keras.ops.convert_to_tensor(named, dtype=dtype)


def variable_device() -> Any:
    """Where Keras puts torch's tensors."""
    from keras.src.backend.torch.core import get_device

    return get_device()


def array_of(value: Any, dtype: str) -> NDArray[Any]:
    """A backend's tensor as NumPy has it; bfloat16 and float8 as their bits."""
    backend, held = keras.backend.backend(), storage_dtype(dtype)
    if backend == "torch":
        found = torch_view(value.detach().cpu(), dtype)
        return value.detach().cpu().numpy().astype(held) if found is None else found
    there: NDArray[Any] = value.numpy() if backend == "tensorflow" else np.asarray(value)
    return there.view(held) if str(held) != dtype else there.astype(held, copy=False)
