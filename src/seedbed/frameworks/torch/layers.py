"""What torch.nn's layers use each parameter for: its role, and the roles of its axes."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.rnn import RNNBase, RNNCellBase


class Use(NamedTuple):
    """What one parameter is used for."""

    role: str
    axes: tuple[str, ...] = ()
    packed: tuple[int, ...] = ()
    groups: int = 1


MATRIX = ("out", "in")
BIAS = Use("bias", ("out",))
SCALE = Use("scale")

# First row whose class and name fit.
ROWS: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], str, Use], ...] = (
    (nn.Linear, "weight", Use("weight", MATRIX)),
    (nn.Linear, "bias", BIAS),
    (nn.Bilinear, "weight", Use("weight", ("out", "in", "in"))),
    (nn.Bilinear, "bias", BIAS),
    ((nn.Embedding, nn.EmbeddingBag), "weight", Use("embedding", ("in", "out"))),
    ((_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), "weight", SCALE),
    ((_NormBase, nn.LayerNorm, nn.GroupNorm), "bias", Use("bias")),
    (nn.MultiheadAttention, "in_proj_weight", Use("weight", MATRIX, (3, 1))),
    (nn.MultiheadAttention, "?_proj_weight", Use("weight", MATRIX)),
    (nn.MultiheadAttention, "in_proj_bias", Use("bias", ("out",), (3,))),
    (nn.PReLU, "weight", Use("other")),
)
BY_NAME = {("transformers.pytorch_utils", "Conv1D", "weight"): Use("weight", ("in", "out"))}


def use(module: nn.Module, name: str, rank: int) -> Use:
    """What `module` uses its parameter `name`, of `rank` axes, for.

    Axes of a layer that is not known stay without roles: they are never guessed.
    """
    if isinstance(module, _ConvNd) and name == "weight":
        ends = ("in", "out") if module.transposed else MATRIX
        return Use("weight", (*ends, *("window",) * len(module.kernel_size)), (), module.groups)
    if isinstance(module, _ConvNd) and name == "bias":
        return BIAS
    if isinstance(module, (RNNBase, RNNCellBase)):
        return _recurrent(module, name)
    for classes, pattern, found in ROWS:
        if isinstance(module, classes) and fnmatchcase(name, pattern):
            return found
    for cls in type(module).__mro__:
        if (cls.__module__, cls.__name__, name) in BY_NAME:
            return BY_NAME[cls.__module__, cls.__name__, name]
    kind = type(module).__name__
    if name.endswith("bias"):
        return Use("bias")
    if "Norm" in kind and rank <= 1:
        return SCALE
    if "Embedding" in kind and name == "weight":
        return Use("embedding")
    return Use("weight" if name.endswith("weight") and rank >= 2 else "other")


def place(module: nn.Module, path: str) -> tuple[str | None, str]:
    """The layer that a parameter belongs to and its name there, where the path does not tell: stacked recurrent ones."""
    above, _, name = path.rpartition(".")
    stacked = re.fullmatch(r"(.+)_l(\d+)(_reverse)?", name) if isinstance(module, RNNBase) else None
    if stacked is None:
        return None, ""
    return f"{above}_l{stacked[2]}{stacked[3] or ''}", stacked[1]


def _recurrent(module: RNNBase | RNNCellBase, name: str) -> Use:
    kind = getattr(module, "mode", type(module).__name__)
    gates = 4 if "LSTM" in kind else 3 if "GRU" in kind else 1
    if name.startswith("bias"):
        return Use("bias", ("out",), (gates,))
    if name.startswith("weight_hr"):
        return Use("weight", MATRIX)
    return Use("recurrent" if name.startswith("weight_hh") else "weight", MATRIX, (gates, 1))
