"""What Keras's layers use each variable for: its role, the roles of its axes, and how PyTorch would lay it out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from keras import layers as kl
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell

from seedbed.frameworks.keras.walk import Held

Order = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Use:
    """What one variable is used for.

    Attributes:
        role: As `ParamSpec.role`.
        axes: One role per axis; empty where they are not known.
        packed: Blocks side by side along each axis.
        groups: Of a convolution.
        leaf: Its name in PyTorch's words; its own where that is empty.
        up: How many parts of its layer's path PyTorch's layer has less.
        below: Added to that path.
        order: For each axis of PyTorch's array, the axes here that make it; empty as it is.
        blocks: Which of PyTorch's blocks along axis 0 this holds, in this order.
        of: How many blocks PyTorch's array has.
        within: The class of the layer above that PyTorch has in place of this one.
    """

    role: str
    axes: tuple[str, ...] = ()
    packed: tuple[int, ...] = ()
    groups: int = 1
    leaf: str = ""
    up: int = 0
    below: str = ""
    order: Order = ()
    blocks: tuple[int, ...] = ()
    of: int = 1
    within: str = ""


MATRIX = Use("weight", ("in", "out"), leaf="weight", order=((1,), (0,)))
BIAS = Use("bias", ("out",), leaf="bias")
SCALE, SHIFT = Use("scale", leaf="weight"), Use("bias", leaf="bias")
NORMS = (kl.BatchNormalization, kl.LayerNormalization, kl.GroupNormalization, kl.RMSNormalization)
CONVOLUTIONS = (kl.Conv1D, kl.Conv2D, kl.Conv3D)
TRANSPOSED = (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)
DEPTHWISE = (kl.DepthwiseConv1D, kl.DepthwiseConv2D)
SEPARABLE = (kl.SeparableConv1D, kl.SeparableConv2D)
CELLS = {kl.LSTMCell: (4, ()), kl.GRUCell: (3, (1, 0, 2)), kl.SimpleRNNCell: (1, ())}
"""Gates of each cell, and in which order PyTorch's stand in Keras's: (z, r, h) for its (r, z, n)."""
SUFFIX = {"forward_layer": "", "backward_layer": "_l0_reverse"}

ROWS: tuple[tuple[Any, str, Use], ...] = (
    (kl.Dense, "kernel", MATRIX),
    ((kl.Dense, kl.EinsumDense), "bias", BIAS),
    (kl.Embedding, "embeddings", Use("embedding", ("in", "out"), leaf="weight")),
    (kl.Embedding, "reverse_embeddings", Use("embedding", ("out", "in"), leaf="reverse_weight")),
    (NORMS, "gamma", SCALE),
    (NORMS, "scale", SCALE),
    (NORMS, "beta", SHIFT),
    (kl.BatchNormalization, "moving_mean", Use("buffer", leaf="running_mean")),
    (kl.BatchNormalization, "moving_variance", Use("buffer", leaf="running_var")),
    (kl.PReLU, "alpha", Use("other", leaf="weight")),
)


def use(place: Held, shape: tuple[int | None, ...]) -> Use:
    """What a layer uses its variable for.

    Axes of a layer that is not known stay without roles: they are never guessed.
    """
    layer, name = place.layer, place.name
    found = _use(place, shape)
    if len(found.axes) not in (0, len(shape)):
        found = replace(found, axes=(), order=(), packed=())
    if not place.trained:
        return Use("buffer", leaf=found.leaf if found.role == "buffer" else name)
    return found if found.leaf else replace(found, leaf=name if layer is not None else "")


def _use(place: Held, shape: tuple[int | None, ...]) -> Use:
    layer, name, rank = place.layer, place.name, len(shape)
    if isinstance(layer, kl.EinsumDense) and name in ("kernel", "bias"):
        return _within_attention(place, _einsum(layer, name, rank))
    if isinstance(layer, tuple(CELLS)):
        return _recurrent(place, rank)
    if isinstance(layer, ConvLSTMCell):
        return _convolutional_cell(name, rank)
    if isinstance(layer, (*SEPARABLE, *DEPTHWISE, *TRANSPOSED, *CONVOLUTIONS)):
        return _convolution(layer, name, shape)
    for classes, wanted, found in ROWS:
        if isinstance(layer, classes) and name == wanted:
            return found
    if name.endswith("bias") or name == "beta":
        return Use("bias")
    kind = type(layer).__name__
    if "Norm" in kind and rank <= 1:
        return SCALE
    if "Embedding" in kind and name.startswith("embedding"):
        return Use("embedding")
    return Use("weight" if re.search("(kernel|weight)s?$", name) and rank >= 2 else "other")


def _convolution(layer: Any, name: str, shape: tuple[int | None, ...]) -> Use:
    """Kernels are (window..., in, out), transposed ones (window..., out, in), depthwise ones (window..., in, times)."""
    separable = isinstance(layer, SEPARABLE)
    if name == "bias":
        return replace(BIAS, below="pointwise" if separable else "")
    n = len(shape) - 2
    window = ("window",) * n
    order: Order = ((n + 1,), (n,), *((axis,) for axis in range(n)))
    if name in ("depthwise_kernel", "kernel") and isinstance(layer, (*SEPARABLE, *DEPTHWISE)):
        # Each input channel is a group of its own, so its fan in is the window's: as many blocks as channels.
        packed = (*(1 for _ in window), shape[n] or 1, 1)
        order = ((n, n + 1), *((axis,) for axis in range(n)))
        found = Use("weight", (*window, "in", "out"), packed, leaf="weight", order=order)
        return replace(found, below="depthwise") if separable else found
    if isinstance(layer, TRANSPOSED):
        return Use("weight", (*window, "out", "in"), leaf="weight", order=order)
    if name in ("kernel", "pointwise_kernel"):
        groups = 1 if separable else layer.groups
        found = Use("weight", (*window, "in", "out"), groups=groups, leaf="weight", order=order)
        return replace(found, below="pointwise") if separable else found
    return Use("other")


def _convolutional_cell(name: str, rank: int) -> Use:
    """Gates lie side by side along the last axis of (window..., in, out)."""
    if name == "bias":
        return replace(BIAS, packed=(4,))
    window, n = ("window",) * (rank - 2), rank - 2
    role = "recurrent" if name == "recurrent_kernel" else "weight"
    order: Order = ((n + 1,), (n,), *((axis,) for axis in range(n)))
    return Use(role, (*window, "in", "out"), (*(1 for _ in window), 1, 4), leaf=name, order=order)


def _einsum(layer: Any, name: str, rank: int) -> Use:
    """Axes by the letters of the equation: what only the input has goes in, what only the output has comes out."""
    given, kernel, made = re.split(",|->", layer.equation.replace("...", "").replace(" ", ""))
    if name == "bias":
        return Use("bias", ("out",) * rank, leaf="bias", order=(tuple(range(rank)),) if rank > 1 else ())
    roles = tuple("stack" if c in given and c in made else "in" if c in given else "out" for c in kernel)
    places = {role: tuple(a for a, r in enumerate(roles) if r == role) for role in ("stack", "out", "in")}
    order = (*((a,) for a in places["stack"]), *(places[r] for r in ("out", "in") if places[r]))
    return Use("weight", roles, leaf="weight", order=order)


PROJECTIONS = {"query": 0, "key": 1, "value": 2}


def _within_attention(place: Held, found: Use) -> Use:
    """PyTorch keeps query, key and value in one array, where they are of one size."""
    above = place.owners[-2][1] if len(place.owners) > 1 else None
    if not isinstance(above, kl.MultiHeadAttention):
        named = isinstance(above, kl.GroupQueryAttention)
        return replace(found, within=type(above).__name__ if named else "")
    found = replace(found, within="MultiHeadAttention")
    part = PROJECTIONS.get(place.layer.name)
    if part is None:
        return found
    parts = [getattr(above, f"_{name}_dense")._kernel for name in PROJECTIONS]
    if len({tuple(k._shape) for k in parts}) > 1:
        names = {"weight": f"{'qkv'[part]}_proj_weight", "bias": f"{'qkv'[part]}_proj_bias"}
        return replace(found, up=1, leaf=names[found.leaf])
    return replace(found, up=1, leaf=f"in_proj_{found.leaf}", blocks=(part,), of=3)


def _recurrent(place: Held, rank: int) -> Use:
    """Gates lie side by side along the last axis."""
    cell = next(c for c in CELLS if isinstance(place.layer, c))
    gates, blocks = CELLS[cell]
    above = place.owners[-2] if len(place.owners) > 1 else ("", None)
    within = isinstance(above[1], kl.RNN)
    up, suffix = int(within), ""
    if within and len(place.owners) > 2 and isinstance(place.owners[-3][1], kl.Bidirectional):
        up, suffix = 2, SUFFIX.get(above[0].rpartition(".")[2], "")
    shared = replace(MATRIX, up=up, within=type(above[1]).__name__ if within else "")
    of = gates if blocks else 1
    if place.name == "bias":
        if rank == 2:  # one for the inputs, one for the state: two arrays in PyTorch
            axes, packed = ("stack", "out"), (1, gates)
            return replace(shared, role="bias", axes=axes, packed=packed, leaf=f"bias{suffix}", order=())
        leaf = f"bias_ih{suffix}"
        return replace(shared, role="bias", axes=("out",), packed=(gates,), leaf=leaf, order=(), blocks=blocks, of=of)
    role, leaf = ("recurrent", "weight_hh") if place.name == "recurrent_kernel" else ("weight", "weight_ih")
    return replace(shared, role=role, packed=(1, gates), leaf=f"{leaf}{suffix}", blocks=blocks, of=of)
