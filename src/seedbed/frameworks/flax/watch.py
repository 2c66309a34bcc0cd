"""A dry run being watched: which layer is called on what, and what an error in it means."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from seedbed.errors import InputError, ModelError, SeedbedError, ShapeError
from seedbed.frameworks.flax import layers
from seedbed.frameworks.flax.lazy import Lazy


@dataclass(eq=False)
class Call:
    """One layer, being called."""

    path: str
    layer: Any
    inputs: tuple[Any, ...]


@dataclass(eq=False)
class Watch:
    """What a dry run has called, and who made which array.

    Attributes:
        calls: The layers being called now, the innermost last.
        makers: Who made an array: the paths of the last layer with parameters, and of the last layer.
        layers: Every layer that was called, by path.
        last: The layer that was left last.
        shapes: Of each layer's own parameters while it was called: inside `vmap` and `scan`, those of one.
    """

    calls: list[Call] = field(default_factory=list)
    makers: dict[int, tuple[Any, tuple[str, str]]] = field(default_factory=dict)
    layers: dict[str, Any] = field(default_factory=dict)
    last: tuple[str, str] = ("", "")
    shapes: dict[tuple[str, str], tuple[Any, ...]] = field(default_factory=dict)

    def enter(self, path: str, layer: Any, inputs: tuple[Any, ...]) -> None:
        """A layer is called."""
        self.layers.setdefault(path, layer)
        for array in _arrays(inputs):  # what a function made of the last layer's output, or the model's own input
            self.makers.setdefault(id(array), (array, self.last if self.calls else ("", "")))
        self.calls.append(Call(path, layer, inputs))

    def leave(self, output: Any, *, sized: bool) -> None:
        """It has returned."""
        call = self.calls.pop()
        before = next((self.made(a)[0] for a in _arrays(call.inputs)), "")
        self.last = (call.path if sized else before, call.path)
        for array in _arrays(output):
            if id(array) not in self.makers:
                self.makers[id(array)] = (array, self.last)

    def made(self, array: Any) -> tuple[str, str]:
        """Who made an array: the last layer that was left, where a function lies between."""
        return self.makers.get(id(array), (None, self.last))[1]

    def source(self, array: Any) -> str:
        """The same in words."""
        names = [f"{p} ({_kind(self.layers[p])})" for p in dict.fromkeys(self.made(array)) if p]
        return ", through ".join(names) or "the model's input"


def _kind(layer: Any) -> str:
    """A layer's class; of a lazy one, that which it becomes."""
    wanted = vars(layer).get("wanted") if isinstance(layer, Lazy) else None
    return (wanted.cls if wanted is not None else type(layer)).__name__


def _arrays(tree: Any) -> list[Any]:
    return [a for a in jax.tree_util.tree_leaves(tree) if hasattr(a, "shape") and hasattr(a, "dtype")]


def shown(array: Any) -> str:
    """A shape as it is printed."""
    sizes = [str(n) if isinstance(n, int) else "?" for n in array.shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def where(error: BaseException) -> list[str]:
    """A line with file and line of the last of the model's own frames, if it has any outside the frameworks."""
    inside = ("/flax/", "/jax/", "/jaxlib/", "/seedbed/")
    found: BaseException | None = error
    own: list[traceback.FrameSummary] = []
    while found is not None and not own:
        frames = traceback.extract_tb(found.__traceback__)
        own = [f for f in frames if not any(part in f.filename.replace("\\", "/") for part in inside)]
        found = found.__cause__ or found.__context__
    return [f"at    {Path(f.filename).name}:{f.lineno}: {f.line}" for f in own[-1:]]


READS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def explain(error: Exception, watch: Watch) -> SeedbedError:
    """The error that says what went wrong in a dry run."""
    call = watch.calls[-1] if watch.calls else None
    path = call.path if call else ""
    name = f"{path or 'the model'}: {type(call.layer).__name__}" if call else "the model"
    said = str(error).strip().split("\n")[0]
    if isinstance(error, READS):
        return ModelError(
            f"{name} reads a value, and a dry run has none.",
            facts=[*where(error), f"said  {said}"],
            remedy="Take it from a shape instead, or give it as a plain Python value.",
            path=path,
        )
    arrays = _arrays(call.inputs) if call else []
    if call and arrays:
        wanted_dtype = _integers(call, arrays[0])
        if wanted_dtype:
            return InputError(
                f"{name} expects whole numbers, got {arrays[0].dtype}.",
                facts=[
                    "expected  int32",
                    f"got       {arrays[0].dtype}{shown(arrays[0])}",
                    f"from      {watch.source(arrays[0])}",
                ],
                remedy="Say what the input holds, such as Input(shape, 'int32').",
                path=path,
            )
        expected = wanted(call)
        if expected and not expected[2]:
            return ShapeError(
                f"{name} expects {expected[0]}, got {shown(arrays[0])}.",
                facts=[
                    f"expected  {expected[1]}",
                    f"got       {shown(arrays[0])}",
                    f"from      {watch.source(arrays[0])}",
                ],
                remedy="Let the two sizes agree, or leave this one open: the layer takes it from its input.",
                path=path,
                expected=expected[1],
                got=tuple(arrays[0].shape),
                source=watch.made(arrays[0])[0],
            )
    return ShapeError(
        f"{name} cannot be run on these inputs.",
        facts=[
            *where(error),
            f"said  {type(error).__name__}: {said}",
            *(f"got   {a.dtype}{shown(a)} from {watch.source(a)}" for a in arrays[:4]),
        ],
        remedy="Give inputs of the shapes and dtypes that the model's call takes.",
        path=path,
        got=None,
        source="",
    )


def _integers(call: Call, array: Any) -> bool:
    return layers.of_kind(call.layer, "Embed") and not jax.numpy.issubdtype(array.dtype, jax.numpy.integer)


def wanted(call: Call) -> tuple[str, str, bool] | None:
    """What a layer takes, in words and as a shape, and whether the first input is so."""
    layer, (array, *_) = call.layer, _arrays(call.inputs)
    sizes = tuple(array.shape)
    kernel = _held(layer, "kernel")
    if layers.of_kind(layer, "Einsum") and kernel is None:
        kernel = jax.ShapeDtypeStruct(tuple(layer.shape), array.dtype)
    if kernel is not None and layers.of_kind(layer, "Conv", "ConvTranspose"):
        groups = getattr(layer, "feature_group_count", 1)
        swapped = bool(getattr(layer, "transpose_kernel", False))
        channels = kernel.shape[-1 if swapped else -2] * groups
        window = ", ".join("*" for _ in kernel.shape[:-2])
        fits = len(sizes) >= len(kernel.shape) - 1 and sizes[-1] == channels
        return f"inputs of {channels} channels", f"(batch, {window}, {channels})", fits
    if kernel is not None and layers.of_kind(layer, "Dense", "Linear", "DenseParams"):
        features = kernel.shape[0]
        return f"inputs of {features} features", f"(..., {features})", bool(sizes) and sizes[-1] == features
    if kernel is not None and layers.of_kind(layer, "Einsum"):
        found = layers.use(layers.Place(layer, "kernel", kernel.shape))
        into = [n for n, role in zip(kernel.shape, found.axes, strict=False) if role == "in"]
        text = ", ".join(map(str, into))
        return f"inputs that end in ({text})", f"(..., {text})", sizes[len(sizes) - len(into) :] == tuple(into)
    scale = _held(layer, "scale") if layers.of_kind(layer, *layers.NORMS) else None
    if scale is not None and len(scale.shape) == 1:
        features = scale.shape[0]
        return f"inputs of {features} features", f"(..., {features})", bool(sizes) and sizes[-1] == features
    return None


def _held(layer: Any, name: str) -> Any:
    """A parameter that a layer has already."""
    if hasattr(layer, "get_variable"):
        return layer.get_variable("params", name) if layer.scope is not None else None
    value = vars(layer).get(name)
    return value.get_value() if hasattr(value, "get_value") else None
