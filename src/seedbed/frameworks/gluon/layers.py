"""What Gluon's layers use each parameter for: its role, the roles of its axes, and its name in PyTorch.

Gluon lays its arrays as PyTorch does: (out, in, window...), gates packed along axis 0 in PyTorch's order
(LSTM i, f, g, o; GRU r, z, n). Convolutions that keep channels last are the exception.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mxnet.gluon import Block, Constant, Parameter, nn, rnn
from mxnet.gluon.nn.basic_layers import _BatchNorm
from mxnet.gluon.nn.conv_layers import _Conv
from mxnet.gluon.rnn.rnn_layer import _RNNLayer


class Use(NamedTuple):
    """What one parameter is used for.

    Attributes:
        role: As `ParamSpec` has it.
        axes: One role per axis.
        packed: Blocks side by side along each axis.
        groups: Of a convolution.
        leaf: Its name in PyTorch's words; empty where that is its own.
        within: Added to the layer's path for the layer that PyTorch would cut out of it: one of stacked recurrent ones.
        order: For each axis of the canonical array the array's axes that make it; empty where it lies so.
    """

    role: str
    axes: tuple[str, ...] = ()
    packed: tuple[int, ...] = ()
    groups: int = 1
    leaf: str = ""
    within: str = ""
    order: tuple[tuple[int, ...], ...] = ()


MATRIX = ("out", "in")
NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
RECURRENT = re.compile(r"(?:(?P<side>[lr])(?P<layer>\d+)_)?(?P<what>i2h|h2h|h2r)_(?P<kind>weight|bias)")
NAMES = {
    ("i2h", "weight"): "weight_ih",
    ("h2h", "weight"): "weight_hh",
    ("i2h", "bias"): "bias_ih",
    ("h2h", "bias"): "bias_hh",
    ("h2r", "weight"): "weight_hr",
}


def use(block: Block, leaf: str, rank: int) -> Use:
    """What `block` uses its parameter `leaf`, of `rank` axes, for.

    Axes of a block that is not known stay without roles: they are never guessed.
    """
    recurrent = RECURRENT.fullmatch(leaf)
    if recurrent and isinstance(block, (_RNNLayer, rnn.RNNCell, rnn.LSTMCell, rnn.GRUCell)):
        return _recurrent(block, recurrent)
    if isinstance(block, nn.Dense) and leaf in ("weight", "bias"):
        return Use("weight", MATRIX) if leaf == "weight" else Use("bias", ("out",))
    if isinstance(block, _Conv) and leaf in ("weight", "bias"):
        return _convolution(block) if leaf == "weight" else Use("bias", ("out",))
    if isinstance(block, nn.Embedding) and leaf == "weight":
        return Use("embedding", ("in", "out"))
    if isinstance(block, nn.PReLU):
        return Use("other", leaf="weight")
    if isinstance(block, NORMS):
        return {"gamma": Use("scale", leaf="weight"), "beta": Use("bias", leaf="bias")}.get(leaf, Use("buffer"))
    return _by_name(type(block).__name__, leaf, rank)


def _by_name(layer: str, leaf: str, rank: int) -> Use:
    """What the names of a layer of one's own say: Gluon gives names a meaning too."""
    if leaf.endswith("gamma") or ("Norm" in layer and leaf.endswith("weight") and rank <= 1):
        return Use("scale", leaf="weight" if leaf == "gamma" else "")
    if leaf.endswith(("bias", "beta")):
        return Use("bias", leaf="bias" if leaf == "beta" else "")
    if "Embedding" in layer and leaf == "weight":
        return Use("embedding")
    return Use("weight" if leaf.endswith("weight") and rank >= 2 else "other")


def is_buffer(parameter: Parameter, leaf: str) -> bool:
    """Whether a parameter is state and not trained: running statistics and constants."""
    return isinstance(parameter, Constant) or (not parameter._differentiable and leaf.startswith("running_"))


def _convolution(block: _Conv) -> Use:
    """Channels stand second to the filters, or last where the layer's layout ends in C."""
    kernel, groups = block._kwargs["kernel"], block._kwargs["num_group"]
    ends = ("in", "out") if block._op_name == "Deconvolution" else MATRIX
    window = ("window",) * len(kernel)
    if block._kwargs["layout"].endswith("C"):
        last = len(kernel) + 1
        places = tuple((axis,) for axis in range(1, last))
        return Use("weight", (ends[0], *window, ends[1]), (), groups, order=((0,), (last,), *places))
    return Use("weight", (*ends, *window), (), groups)


def _recurrent(block: Block, parts: re.Match[str]) -> Use:
    mode = getattr(block, "_mode", type(block).__name__).upper()
    gates = next(n for name, n in GATES.items() if mode.startswith(name))
    within = ""
    if parts["layer"] is not None:
        within = f"_l{parts['layer']}{'_reverse' if parts['side'] == 'r' else ''}"
    name = NAMES[parts["what"], parts["kind"]]
    if parts["kind"] == "bias":
        return Use("bias", ("out",), (gates,), leaf=name, within=within)
    if parts["what"] == "h2r":
        return Use("weight", MATRIX, leaf=name, within=within)
    return Use("recurrent" if parts["what"] == "h2h" else "weight", MATRIX, (gates, 1), leaf=name, within=within)
