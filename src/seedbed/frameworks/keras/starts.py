"""Keras's initializers as ours, with Keras's own fans; the rest is run as it is, on seedbed's numbers."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import random
import threading
from collections.abc import Callable
from typing import Any, cast

import keras
import numpy as np
from keras import initializers as ki
from keras.src.backend.common import global_state
from keras.src.initializers.random_initializers import compute_fans
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell

from seedbed.errors import RecipeError
from seedbed.frameworks.keras.arrays import array_of
from seedbed.frameworks.keras.slot import Slot
from seedbed.initializers import (
    Constant,
    Identity,
    Initializer,
    Native,
    Normal,
    Ones,
    Orthogonal,
    Overlay,
    Recorded,
    TruncatedNormal,
    Uniform,
    Zeros,
)
from seedbed.initializers.scaled import TRUNCATED_STD
from seedbed.spec import Layout, ParamSpec

Axes = tuple[tuple[int, ...], tuple[int, ...]] | None
SCALING = (
    ki.VarianceScaling, ki.GlorotUniform, ki.GlorotNormal, ki.LecunNormal, ki.LecunUniform, ki.HeNormal, ki.HeUniform,
)  # fmt: skip
LSTMS = (keras.layers.LSTMCell, ConvLSTMCell)
RUNNING = threading.Lock()
"""Held while an initializer of Keras's or the user's runs: random states of the process are borrowed for it."""


def ours(native: Any, shape: tuple[int, ...], axes: Axes = None, layout: Layout | None = None) -> Initializer | None:
    """One of ours with exactly the distribution of one of Keras's, for an array of a shape.

    Args:
        native: The initializer.
        shape: Keras's own fans follow from it.
        axes: Which axes are inputs and which outputs, where Keras would tell the initializer.
        layout: How the array lies; Keras makes matrices orthogonal that have the last axis as columns.
    """
    kind = type(native)
    if kind is Slot:
        return cast("Initializer | None", native.resolved(shape))
    if kind is ki.Zeros:
        return Zeros()
    if kind is ki.Ones:
        return Ones()
    if kind is ki.Constant:
        return _constant(native.value)
    if kind is ki.RandomNormal:
        return Normal(mean=float(native.mean), std=float(native.stddev))
    if kind is ki.TruncatedNormal:
        return TruncatedNormal(mean=float(native.mean), std=float(native.stddev))
    if kind is ki.RandomUniform:
        low, high = float(native.minval), float(native.maxval)
        return Constant(value=low) if low == high else Uniform(low=low, high=high)
    if kind in SCALING:
        return _scaling(native, shape, axes)
    if kind is ki.Orthogonal and _by_last_axis(len(shape), layout):
        return Orthogonal(gain=native.gain)
    if kind is ki.Identity and len(shape) == 2:
        return Identity(gain=native.gain)
    return None


def _by_last_axis(rank: int, layout: Layout | None) -> bool:
    order = layout.order if layout is not None else ()
    return rank == 2 if not order else order[0] == (rank - 1,) and len(order) == rank


def _constant(value: Any) -> Initializer | None:
    if not isinstance(value, (int, float)) and np.ndim(value):
        return None
    number = float(value)
    return Zeros() if number == 0 else Ones() if number == 1 else Constant(value=number)


def _scaling(native: Any, shape: tuple[int, ...], axes: Axes) -> Initializer:
    """As `keras.initializers.VarianceScaling` computes it, from Keras's own fans."""
    given, made = native.input_axes, native.output_axes
    if axes is not None and (given is None or made is None):
        given, made = axes
    fan_in, fan_out = compute_fans(shape, given, made)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2.0}[native.mode]
    scale = native.scale / max(1.0, fan)
    if native.distribution == "truncated_normal":
        return TruncatedNormal(std=math.sqrt(scale) / TRUNCATED_STD)
    if native.distribution == "untruncated_normal":
        return Normal(std=math.sqrt(scale))
    bound = math.sqrt(3.0 * scale)
    return Uniform(low=-bound, high=bound)


def start_of(native: Any, shape: tuple[int, ...], layer: Any, name: str, layout: Layout | None) -> Initializer | None:
    """How a variable starts, by the initializer it was made with."""
    if native is None:
        return None
    forget = getattr(layer, "unit_forget_bias", False) and name == "bias" and inspect.isfunction(native)
    if forget and isinstance(layer, LSTMS) and type(layer.bias_initializer) not in SCALING:
        units = shape[0] // 4
        base = ours(layer.bias_initializer, (units,))
        if base is not None:
            return Overlay(base=base, boxes=((((units, 2 * units),), Ones()),))
    return ours(native, shape, layout=layout) or recorded(native, shape)


def recorded(native: Any, shape: tuple[int, ...]) -> Initializer:
    """An initializer that is run as it is."""
    text = name_of(native)
    config = {}
    if isinstance(native, ki.Initializer):
        config = {k: v for k, v in native.get_config().items() if k != "seed"}
    words = json.dumps([text, config, shape], default=repr, sort_keys=True)

    def function(dtype: str, draws: Callable[..., Any]) -> Any:
        return run(native, shape, dtype, int(draws("", 0, (1,)).bits()[0]) >> 1)

    return Recorded(text=text, digest=hashlib.blake2b(words.encode(), digest_size=8).hexdigest(), function=function)


def run(native: Any, shape: tuple[int, ...], dtype: str, seed: int) -> Any:
    """The values of an initializer, from a seed of ours; bfloat16 and float8 as their bits."""
    with RUNNING:
        states = random.getstate(), np.random.get_state()
        before = global_state.get_global_attribute("global_seed_generator")
        seeds, own = [i for i in _parts(native) if hasattr(i, "seed")], []
        try:
            random.seed(seed)
            np.random.seed(seed)
            global_state.set_global_attribute("global_seed_generator", keras.random.SeedGenerator(seed))
            for number, part in enumerate(seeds):
                own.append(part.seed)
                part.seed = seed + number
            made = array_of(keras.ops.convert_to_tensor(native(shape, dtype=dtype), dtype=dtype), dtype)
        finally:
            for part, value in zip(seeds, own, strict=False):
                part.seed = value
            global_state.set_global_attribute("global_seed_generator", before)
            random.setstate(states[0])
            np.random.set_state(states[1])
    return made


def _parts(native: Any) -> list[Any]:
    """An initializer, and those that a function of a layer's closes over."""
    if isinstance(native, ki.Initializer):
        return [native]
    cells = [c.cell_contents for c in getattr(native, "__closure__", None) or ()]
    inside = [v for cell in cells if isinstance(cell, keras.layers.Layer) for v in vars(cell).values()]
    return [v for v in (*cells, *inside) if isinstance(v, ki.Initializer)]


def name_of(native: Any) -> str:
    """An initializer's name, as a table shows it."""
    kind = native if inspect.isfunction(native) or inspect.isclass(native) else type(native)
    return str(kind.__qualname__.rpartition("<locals>.")[2])


def is_native(function: Any) -> bool:
    """Whether this is one of Keras's initializers, or a class of them."""
    if inspect.isclass(function):
        return issubclass(function, ki.Initializer)
    return isinstance(function, ki.Initializer)


def translate(native: Native, spec: ParamSpec) -> Initializer:
    """A Keras initializer, class or function of (shape, dtype) in a recipe, for one parameter."""
    function = native.function
    try:
        made = ki.get(function)
        inspect.signature(made).bind(spec.sizes, dtype=spec.dtype)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{spec.path}: {native.name} cannot be called as Keras's initializers are: {str(error).splitlines()[0]}.",
            remedy=f"For a function of (draw, spec) write Custom({native.name}).",
            path=spec.path,
        ) from None
    return ours(made, spec.sizes, einsum_axes(spec), spec.layout) or recorded(made, spec.sizes)


def einsum_axes(spec: ParamSpec) -> Axes:
    """The axes that Keras tells the initializer of an `EinsumDense` kernel."""
    if spec.layer != "EinsumDense" or spec.role != "weight" or not {"in", "out"} <= set(spec.axes):
        return None
    given = tuple(a for a, role in enumerate(spec.axes) if role == "in")
    return given, tuple(a for a, role in enumerate(spec.axes) if role == "out")
