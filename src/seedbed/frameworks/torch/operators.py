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
    fresh: bool

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
        views |= torch.Tag.inplace_view in func.tags and name not in (
            "resize_",
            "resize_as_",
            "set_",
        )  # nothing is written
        kind = _kinds[func] = Kind(
            name,
            tuple(a.name for a in arguments),
            {a.name: a.default_value for a in arguments if a.has_default_value()},
            tuple(a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write),
            views and name != "lift_fresh",
            name in WRITES_ONLY and name != "copy_",
            torch.Tag.nondeterministic_seeded in func.tags,
            any(a.name == "device" for a in arguments),
            any(r.alias_info is None for r in returns),
        )
    return kind


def _by_columns(a: torch.Tensor, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Without memory, as LAPACK lays out what it returns."""
    return a.new_empty((*shape[:-2], shape[-1], shape[-2]), dtype=dtype).mT


def _geqrf(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _by_columns(a, *a.shape), a.new_empty((*a.shape[:-2], min(a.shape[-2:])))


def _eig(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = a.dtype.to_complex()
    return a.new_empty(a.shape[:-1], dtype=dtype), _by_columns(a, *a.shape, dtype=dtype)


def _svd(
    a: torch.Tensor,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    driver: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    *batch, m, n = a.shape
    k = min(m, n)
    s = a.new_empty((*batch, k), dtype=a.dtype.to_real())
    if not compute_uv:
        return a.new_empty((0,)), s, a.new_empty((0,))
    rows, columns = (m, n) if full_matrices else (k, k)
    return _by_columns(a, *batch, m, rows), s, _by_columns(a, *batch, columns, n)


def _lstsq(
    a: torch.Tensor, b: torch.Tensor, rcond: float | None = None, *, driver: str | None = None
) -> tuple[torch.Tensor, ...]:
    """The solution in the memory of a larger right side, what is left over, the rank, and singular values."""
    flat = b.dim() == a.dim() - 1 and b.shape == a.shape[:-1]
    *batch, m, n = a.shape
    columns = 1 if flat else b.shape[-1]
    made = _by_columns(a, *batch, max(m, n), columns).narrow(-2, 0, n)
    full, values = m > n and driver not in (None, "gelsy"), driver in ("gelsd", "gelss")
    left = a.new_empty((*batch, columns) if full else (0,), dtype=a.dtype.to_real())  # if the rank is full
    rank = a.new_empty((0,) if driver == "gels" else batch, dtype=torch.long)
    singular = a.new_empty((*batch, min(m, n)) if values else (0,), dtype=a.dtype.to_real())
    return made.squeeze(-1) if flat else made, left, rank, singular


def _unknown(*_: Any, **__: Any) -> Any:
    raise NotImplementedError


def _of_the_first(a: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return a.new_empty(a.shape)


SHAPES = {
    torch.ops.aten._linalg_svd.default: _svd,
    torch.ops.aten._sample_dirichlet.default: _of_the_first,
    torch.ops.aten.binomial.default: _of_the_first,
    torch.ops.aten.geqrf.default: _geqrf,
    torch.ops.aten.linalg_eig.default: _eig,
    torch.ops.aten.linalg_lstsq.default: _lstsq,
    torch.ops.aten.quantize_per_tensor.default: _unknown,
    torch.ops.aten.quantize_per_channel.default: _unknown,
}
"""What the meta device should know of operators, and does not."""
STEADY = {torch.ops.aten.linalg_lstsq.default: ("driver", (None, "gelsy"), "gelsd")}
"""Arguments with which PyTorch reads memory that nobody wrote, and gives other last bits each time: its name, those, and
one that gives the same."""
