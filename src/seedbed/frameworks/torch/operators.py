"""What is to be known of PyTorch's operators to record them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

WRITES_ONLY = {
    *("zero_", "fill_", "copy_", "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "cauchy_"),
    *("log_normal_", "geometric_"),
}
"""In-place operators that do not read what was there."""
EMPTY = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "empty_permuted"}


class Kind(NamedTuple):
    """What is to be known of an operator, read once from its schema."""

    name: str
    names: tuple[str, ...]
    defaults: Mapping[str, Any]
    mutated: tuple[str, ...]
    views: bool
    fills: bool
    random: bool
    device: bool

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by their names, those left out too."""
        return {**self.defaults, **dict(zip(self.names, args, strict=False)), **kwargs}


_kinds: dict[Any, Kind] = {}


def kind_of(func: Any) -> Kind:
    """From an operator's schema."""
    kind = _kinds.get(func)
    if kind is None:
        arguments, returns = func._schema.arguments, func._schema.returns
        name = func._schema.name.rpartition(":")[2]
        views = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        kind = _kinds[func] = Kind(
            name,
            tuple(a.name for a in arguments),
            {a.name: a.default_value for a in arguments if a.has_default_value()},
            tuple(a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write),
            views and name != "lift_fresh",
            name in WRITES_ONLY and name != "copy_",
            torch.Tag.nondeterministic_seeded in func.tags,
            any(a.name == "device" for a in arguments),
        )
    return kind


def _geqrf(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(a), a.new_empty((*a.shape[:-2], min(a.shape[-2:])))


def _unknown(*_: Any, **__: Any) -> Any:
    raise NotImplementedError


SHAPES = {
    torch.ops.aten.geqrf.default: _geqrf,
    torch.ops.aten.quantize_per_tensor.default: _unknown,
    torch.ops.aten.quantize_per_channel.default: _unknown,
}
"""What the meta device should know of operators, and does not."""
