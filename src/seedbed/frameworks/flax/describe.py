"""Specs of Flax's parameters, and sizes that vary: tried as symbols, or at several values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import flax

from seedbed.errors import ModelError
from seedbed.frameworks.flax import layers
from seedbed.frameworks.flax.inputs import Given, given, is_shape
from seedbed.frameworks.flax.laws import Matrix, Program
from seedbed.frameworks.varying import STAND_INS, Axis, varying
from seedbed.initializers import Initializer, Orthogonal
from seedbed.spec import ITEMSIZE, Layout, ParamSpec


@dataclass(eq=False)
class Leaf:
    """One parameter or buffer that a dry run found.

    Attributes:
        path: Its dotted path.
        home: The path of the layer that holds it.
        place: Where it stands.
        dtype: Its dtype's name.
        kind: `parameter` or `buffer`.
        result: Its place among the results of the program.
        start: How it starts; `None` while that is not known.
        origin: Where that was read.
        depends: The inputs' axes that its sizes follow from.
        aliases: Its other paths.
    """

    path: str
    home: str
    place: layers.Place
    dtype: str
    kind: Literal["parameter", "buffer"]
    result: int = -1
    start: Initializer | None = None
    origin: str = ""
    depends: dict[str, None] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    waits: bool = False

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Its sizes; `None` for those that are symbols."""
        return tuple(n if isinstance(n, int) else None for n in self.place.shape)


def read_start(leaf: Leaf, program: Program) -> None:
    """Note how a leaf starts, from the program that computes it."""
    out = program.closed.jaxpr.outvars[leaf.result]
    found = layers.use(leaf.place)
    law = program.law(out) if None not in leaf.shape else None
    if isinstance(law, Matrix):
        sizes = tuple(n for n in leaf.shape if n is not None)
        law = Orthogonal(gain=law.gain) if layers.is_of_columns(found, sizes, law.columns) else None
    if law is None and None not in leaf.shape and not program.is_open(out):
        law = program.recorded(out)
        if law is None:
            leaf.origin = "computed from the model's input"
    leaf.start = law
    leaf.origin = leaf.origin or layers.origin_text(leaf.place.layer, leaf.place.name, flax.__version__)


def spec_of(leaf: Leaf, *, reached: bool | None = None) -> ParamSpec:
    """What `trace` says of a leaf."""
    if leaf.dtype not in ITEMSIZE:
        raise ModelError(
            f"{leaf.path}: holds {leaf.dtype}, and seedbed starts numbers.",
            remedy="Keep it out of the model's variables, or give it a dtype that NumPy and JAX share.",
            path=leaf.path,
        )
    found, layer = layers.use(leaf.place), leaf.place.layer
    is_parameter = leaf.kind == "parameter"
    return ParamSpec(
        path=leaf.path,
        shape=leaf.shape,
        dtype=leaf.dtype,
        role=found.role if is_parameter and found.role != "buffer" else "other" if is_parameter else "buffer",
        axes=found.axes if is_parameter else (),
        packed=found.packed if is_parameter else (),
        groups=found.groups,
        layer=type(layer).__name__ if layer is not None else "",
        bases=_bases(layer),
        kind=leaf.kind,
        start=leaf.start,
        origin=leaf.origin,
        aliases=leaf.aliases,
        layout=_layout(found),
        unit=".".join(leaf.home.split(".")[: -found.unit or None]),
        leaf=found.leaf,
        lazy=leaf.waits,
        reached=reached,
        varies=", ".join(leaf.depends),
    )


def _layout(found: layers.Use) -> Layout | None:
    """Where the array lies in PyTorch's; `None` where it lies as PyTorch has it."""
    straight = all(group == (axis,) for axis, group in enumerate(found.order))
    if straight and not found.blocks:
        return None
    return Layout(order=() if straight else found.order, blocks=found.blocks, of=found.of)


def _bases(layer: Any) -> tuple[str, ...]:
    names = [c.__name__ for c in type(layer).__mro__[1:] if c is not object]
    ends = ("Module", "ModuleBase", "Pytree", "ABC", "Generic", "Representable", "Protocol")
    return tuple(n for n in names if n not in ends) if layer is not None else ()


Run = Callable[[Given], Sequence[Leaf]]
"""A dry run on inputs without values."""


def settle(run: Run, inputs: Sequence[Any], keywords: Mapping[str, Any], dtype: Any) -> Sequence[Leaf]:
    """Dry runs that settle all that the inputs can settle.

    Where an input's size varies it is a symbol first; where the model does not work on symbols, it is run at
    several sizes, and what differs depends on it.
    """
    axes = varying(inputs, keywords, is_shape)
    if not axes:
        return run(given(inputs, keywords, dtype))
    symbolic = given(inputs, keywords, dtype)
    try:
        leaves = run(symbolic)
    except Exception:  # whatever the model does with a size that is no number; numbers will tell
        return _tried(run, inputs, keywords, dtype, axes)
    for leaf in leaves:
        for size in leaf.place.shape:
            leaf.depends.update(dict.fromkeys([] if isinstance(size, int) else symbolic.depends(size)))
    return leaves


def _tried(
    run: Run, inputs: Sequence[Any], keywords: Mapping[str, Any], dtype: Any, axes: Sequence[Axis]
) -> Sequence[Leaf]:
    base, leaves = _first_that_fits(run, inputs, keywords, dtype, axes)
    by_path = {leaf.path: leaf for leaf in leaves}
    shapes = {path: list(leaf.place.shape) for path, leaf in by_path.items()}
    for name, axis in axes:
        for other in (base * 2, base + 1):
            sizes = {**dict.fromkeys(axes, base), (name, axis): other}
            found: Sequence[Leaf] = ()
            with contextlib.suppress(Exception):  # a layer whose sizes are fixed does not take this one
                found = run(given(inputs, keywords, dtype, sizes))
            for leaf in found:
                mine = by_path.get(leaf.path)
                if mine is None or (leaf.place.shape == mine.place.shape and leaf.start == mine.start):
                    continue
                mine.depends[f"{name} axis {axis}"] = None
                pairs = zip(shapes[leaf.path], mine.place.shape, leaf.place.shape, strict=True)
                shapes[leaf.path] = [None if a != b else kept for kept, a, b in pairs]
    for path, leaf in by_path.items():
        if leaf.depends:
            leaf.start = None
            leaf.place = leaf.place._replace(shape=tuple(shapes[path]))
    return leaves


def _first_that_fits(
    run: Run, inputs: Sequence[Any], keywords: Mapping[str, Any], dtype: Any, axes: Sequence[Axis]
) -> tuple[int, Sequence[Leaf]]:
    first: Exception | None = None
    for size in STAND_INS:
        try:
            return size, run(given(inputs, keywords, dtype, dict.fromkeys(axes, size)))
        except Exception as error:  # explained already, and raised again when no size fits
            first = first or error
    assert first is not None
    raise first
