"""What Flax's layers use each parameter for, in both APIs: roles, axes, and where PyTorch has the same numbers.

Flax's transposed convolutions do not flip the window as PyTorch's do, so their kernels hold the same numbers
but do not compute the same.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

Order = tuple[tuple[int, ...], ...]


class Use(NamedTuple):
    """What one parameter is used for.

    Attributes:
        role: As `ParamSpec` has it, and so `axes`, `packed` and `groups`.
        order: For each axis of PyTorch's array, the axes of this one that make it; empty where it is the same.
        blocks: Which of `of` equal blocks along PyTorch's first axis this array holds.
        of: How many blocks there are.
        unit: How many parts of the path, before the parameter's name, are not of PyTorch's layer.
        leaf: The parameter's name in PyTorch; empty where that is its own.
    """

    role: str
    axes: tuple[str, ...] = ()
    packed: tuple[int, ...] = ()
    groups: int = 1
    order: Order = ()
    blocks: tuple[int, ...] = ()
    of: int = 1
    unit: int = 0
    leaf: str = ""


class Place(NamedTuple):
    """Where a parameter stands.

    Attributes:
        layer: The module that holds it.
        name: Its name there.
        shape: Its shape.
        owner: The module that holds the layer, if any.
        part: The layer's name in its owner.
        stacked: Axes along which several layers lie side by side, as `vmap` and `scan` make them.
    """

    layer: Any
    name: str
    shape: Sequence[Any]
    owner: Any = None
    part: str = ""
    stacked: tuple[int, ...] = ()


DENSE: Order = ((1,), (0,))
MATRIX = ("in", "out")
LSTM, GRU, MGU = "ifgo", "rzn", "fn"
CELLS = {"LSTMCell": LSTM, "OptimizedLSTMCell": LSTM, "GRUCell": GRU, "MGUCell": MGU}
ATTENTION = ("MultiHeadDotProductAttention", "SelfAttention", "MultiHeadAttention", "MultiHeadCrossAttention")
NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "RMSNorm", "InstanceNorm")
STATISTICS = {"mean": "running_mean", "var": "running_var"}
BIAS = Use("bias", ("out",), leaf="bias")


def kinds(layer: Any) -> tuple[str, ...]:
    """Names of the classes of Flax that a layer is or extends, the nearest first."""
    return tuple(c.__name__ for c in type(layer).__mro__ if c.__module__.startswith("flax."))


def of_kind(layer: Any, *names: str) -> bool:
    """Whether a layer is one of these, or extends one."""
    return bool(set(kinds(layer)) & set(names))


def use(place: Place) -> Use:
    """What a parameter is used for; axes of a layer that is not known stay without roles."""
    if place.stacked:
        inner = tuple(n for axis, n in enumerate(place.shape) if axis not in place.stacked)
        return _side_by_side(use(place._replace(shape=inner, stacked=())), place.stacked, len(place.shape))
    found = _in_owner(place) or _in_layer(place)
    if found is None:
        return _by_name(place.name, len(place.shape))
    fits = not found.axes or len(found.axes) == len(place.shape)
    return found if fits else _by_name(place.name, len(place.shape))


def stacked(inner: Sequence[Any], whole: Sequence[Any]) -> tuple[int, ...]:
    """The axes that a stack of arrays has more than one of them; empty where shapes alone do not tell which."""
    left_out = itertools.combinations(range(len(whole)), max(len(whole) - len(inner), 0))
    fits = [axes for axes in left_out if tuple(n for a, n in enumerate(whole) if a not in axes) == tuple(inner)]
    return fits[0] if len(fits) == 1 else ()


def _side_by_side(found: Use, stack: tuple[int, ...], rank: int) -> Use:
    """The use of an array of several layers, from that of one of them."""
    own = [axis for axis in range(rank) if axis not in stack]
    if len(found.axes) != len(own):
        return found._replace(axes=(), packed=(), order=(), blocks=(), of=1)
    roles, parts = dict(zip(own, found.axes, strict=True)), dict(zip(own, found.packed, strict=False))
    order = found.order or tuple((axis,) for axis in range(len(own)))
    return found._replace(
        axes=tuple(roles.get(axis, "stack") for axis in range(rank)),
        packed=tuple(parts.get(axis, 1) for axis in range(rank)) if found.packed else (),
        order=(*((axis,) for axis in stack), *(tuple(own[axis] for axis in group) for group in order)),
        blocks=(),
        of=1,
        unit=0,
        leaf="",
    )


def _in_layer(place: Place) -> Use | None:
    layer, name, rank = place.layer, place.name, len(place.shape)
    if of_kind(layer, *NORMS):
        if name in STATISTICS:
            return Use("buffer", leaf=STATISTICS[name])
        return {"scale": Use("scale", leaf="weight"), "bias": Use("bias", leaf="bias")}.get(name)
    if of_kind(layer, "DenseGeneral", "LinearGeneral"):
        return _general(layer, name, rank)
    if of_kind(layer, "Einsum"):
        return _einsum(layer, name, rank)
    if of_kind(layer, "Dense", "Linear", "DenseParams") and name in ("kernel", "bias"):
        return Use("weight", MATRIX, order=DENSE, leaf="weight") if name == "kernel" else BIAS
    if of_kind(layer, "Embed") and name == "embedding":
        return Use("embedding", MATRIX, leaf="weight")
    if of_kind(layer, "ConvTranspose", "ConvLocal", "Conv") and name in ("kernel", "bias"):
        return _convolution(layer, name, rank)
    if of_kind(layer, "PReLU"):
        return Use("other", leaf="weight")
    if of_kind(layer, "LoRA") and name in ("lora_a", "lora_b"):
        return Use("weight", MATRIX, order=DENSE)
    return None


def _convolution(layer: Any, name: str, rank: int) -> Use:
    window = rank - 2
    spatial = tuple((axis,) for axis in range(window))
    if of_kind(layer, "ConvLocal"):
        if name == "bias":
            return Use("bias", (*("stack",) * (rank - 1), "out"))
        return Use("weight", (*("stack",) * window, *MATRIX))
    if name == "bias":
        return BIAS
    if of_kind(layer, "ConvTranspose"):
        swapped = bool(layer.transpose_kernel)
        ends = ("out", "in") if swapped else MATRIX
        into, out = (window + 1, window) if swapped else (window, window + 1)
        return Use("weight", (*("window",) * window, *ends), order=((into,), (out,), *spatial), leaf="weight")
    axes = (*("window",) * window, *MATRIX)
    order = ((window + 1,), (window,), *spatial)
    return Use("weight", axes, groups=int(layer.feature_group_count), order=order, leaf="weight")


def _general(layer: Any, name: str, rank: int) -> Use | None:
    """DenseGeneral: batch axes, then those that come in, then those that go out."""
    batch = len(_tuple(getattr(layer, "batch_dims", None) or tuple(getattr(layer, "batch_axis", ()))))
    out = len(_tuple(getattr(layer, "features", None) or getattr(layer, "out_features", ())))
    if name == "bias":
        order = (*((n,) for n in range(batch)), tuple(range(batch, rank))) if rank > 1 else ()
        return Use("bias", (*("stack",) * batch, *("out",) * (rank - batch)), order=order, leaf="bias")
    if name != "kernel":
        return None
    into = rank - batch - out
    order = (*((n,) for n in range(batch)), tuple(range(batch + into, rank)), tuple(range(batch, batch + into)))
    axes = (*("stack",) * batch, *("in",) * into, *("out",) * out)
    return Use("weight", axes, order=order, leaf="weight")


def _tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _einsum(layer: Any, name: str, rank: int) -> Use | None:
    text = (layer.einsum_str or "").replace(" ", "")
    if "->" not in text or text.count(",") != 1 or "." in text.split(",")[1].split("->")[0]:
        return None
    both, made = text.split("->")
    given, kernel = both.split(",")
    if name == "bias":
        return Use("bias", ("out",) * rank, order=(tuple(range(rank)),) if rank > 1 else (), leaf="bias")
    roles = ["in" if c not in made else "stack" if c in given else "out" for c in kernel]
    if name != "kernel" or not {"in", "out"} <= set(roles):
        return None
    where = {role: tuple(n for n, r in enumerate(roles) if r == role) for role in ("stack", "out", "in")}
    order = (*((n,) for n in where["stack"]), where["out"], where["in"])
    return Use("weight", tuple(roles), order=order, leaf="weight")


def _in_owner(place: Place) -> Use | None:
    """Parts of recurrent cells and of attention, as PyTorch packs them."""
    if place.owner is None:
        return None
    if of_kind(place.owner, *ATTENTION):
        return _attention(place)
    cell = next((k for k in kinds(place.owner) if k in (*CELLS, "SimpleCell", "ConvLSTMCell")), "")
    if not cell or place.name not in ("kernel", "bias"):
        return None
    part = place.part.rstrip("_")
    if cell == "ConvLSTMCell":
        side, gates, gate = part[:1], 4, None
    elif part in ("dense_i", "dense_h"):
        side, gates, gate = part[-1], 1 if cell == "SimpleCell" else len(CELLS[cell]), None
    elif part in ("i", "h"):
        side, gates, gate = part, 1, None
    else:
        side, gates, gate = part[:1], len(CELLS[cell]), CELLS[cell].find(part[1:])
    if side not in ("i", "h") or gate == -1:
        return None
    suffix = "ih" if side == "i" else "hh"
    blocks, of = ((gate,), gates) if gate is not None and gates > 1 else ((), 1)
    packed = gates if gate is None else 1
    if place.name == "bias":
        return Use(
            "bias", ("out",), (packed,) if packed > 1 else (), blocks=blocks, of=of, unit=1, leaf=f"bias_{suffix}"
        )
    window = len(place.shape) - 2
    axes = (*("window",) * window, *MATRIX)
    order = ((window + 1,), (window,), *((axis,) for axis in range(window)))
    packs = (*(1,) * (window + 1), packed) if packed > 1 else ()
    role = "weight" if side == "i" else "recurrent"
    return Use(role, axes, packs, order=order, blocks=blocks, of=of, unit=1, leaf=f"weight_{suffix}")


def _attention(place: Place) -> Use | None:
    parts = ("query", "key", "value")
    found = _in_layer(place)
    if found is None or place.part not in parts or place.name not in ("kernel", "bias"):
        return found
    leaf = "in_proj_weight" if place.name == "kernel" else "in_proj_bias"
    return found._replace(blocks=(parts.index(place.part),), of=3, unit=1, leaf=leaf)


def _by_name(name: str, rank: int) -> Use:
    if name == "bias" or name.endswith("_bias"):
        return Use("bias")
    if name == "scale" and rank <= 1:
        return Use("scale")
    if "embedding" in name:
        return Use("embedding")
    return Use("weight" if name.endswith(("kernel", "weight")) and rank >= 2 else "other")


def is_of_columns(found: Use, shape: Sequence[int], columns: int) -> bool:
    """Whether PyTorch's first axis is made of the last axes of this array, `columns` elements together.

    A random orthogonal matrix of so many columns is then one of so many rows there.
    """
    last = found.order[0] if found.order else ()
    return tuple(last) == tuple(range(len(shape) - len(last), len(shape))) and columns == math.prod(
        shape[axis] for axis in last
    )


def flat(axes: Sequence[str], shape: Sequence[int]) -> tuple[int, ...]:
    """The matrix that Flax shows to the initializers of kernels with several axes in or out; else the shape."""
    roles = "".join({"stack": "s", "in": "i", "out": "o"}.get(role, "w") for role in axes)
    plain = roles.lstrip("s").lstrip("i").lstrip("o")
    if plain or len(shape) < 3 or "i" not in roles or "o" not in roles:
        return tuple(shape)
    out = math.prod(n for n, role in zip(shape, axes, strict=True) if role == "out")
    return math.prod(n for n, role in zip(shape, axes, strict=True) if role != "out"), out


def origin_text(layer: Any, name: str, version: str) -> str:
    """Where a start was read: `Dense.kernel_init (flax 0.12.8)`."""
    cls, slot = type(layer), f"{name}_init"
    has = hasattr(layer, slot) or slot in inspect.signature(cls.__init__).parameters
    own = cls.__module__.startswith("flax.")
    return f"{cls.__name__}.{slot if has else name}" + (f" (flax {version})" if own else "")
