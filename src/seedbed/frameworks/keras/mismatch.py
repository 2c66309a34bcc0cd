"""What a failed dry run means: which layer, what it expected, what it got, and from whom."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import keras
from keras.src.models.functional import Functional

from seedbed.errors import ModelError, SeedbedError, ShapeError
from seedbed.frameworks.keras.dryrun import DryRun

READS_VALUES = (
    "Tracer",
    "meta tensor",
    "aten::_local_scalar_dense",
    "symbolic `tf.Tensor`",
    "Python `bool`",
    "Cannot convert a symbolic",
)


def explain(error: Exception, run: DryRun) -> SeedbedError:
    """The error that says what went wrong in a dry run."""
    layer, given = run.failed or (run.model, [])
    through: list[Any] = []
    got = tuple(given[0].shape) if given else ()
    if given and len(given) == 1:
        layer, got, through = inside(layer, got)
    path = run.path_of(layer)
    name = f"{path or 'the model'}: {type(layer).__name__}"
    said, place = said_by(error), where(error)
    if given:
        expected = wanted(layer)
        source = run.source(given[0])
        if through and run.maker(given[0]).last is None:
            source = f"{source}, through {run.path_of(through[-1])} ({type(through[-1]).__name__})"
        if expected and not fits(layer, got):
            return ShapeError(
                f"{name} expects {expected[0]}, got {shown(got)}.",
                facts=[
                    f"expected  {expected[1]}",
                    f"got       {shown(got)}",
                    f"from      {source}",
                ],
                remedy="Let the two sizes agree, or make this layer anew: until it is built, any size fits."
                if layer.built
                else "Give it an input of as many axes as it takes.",
                path=path,
                expected=expected[1],
                got=got,
                source=run.path_of(run.maker(given[0]).sized),
            )
    if any(type(e).__name__.startswith("Tracer") or any(m in str(e) for m in READS_VALUES) for e in raised_by(error)):
        return ModelError(
            f"{name} reads a value, and a dry run has none.",
            facts=place,
            remedy="Take the value from a shape instead, or build the model with `model.build(...)` and plan it without inputs.",
            path=path,
        )
    if "create a variable while in a stateless scope" in str(error):
        return ModelError(
            f"{name} makes a variable of a value, not of a shape and an initializer, and a dry run has no values.",
            facts=place,
            remedy="Build the model first, with model.build(...), and plan it without inputs.",
            path=path,
        )
    facts = [*place, f"said  {type(error).__name__}: {said}"]
    facts += [f"got   {t.dtype}{shown(tuple(t.shape))} from {run.source(t)}" for t in given]
    return ShapeError(
        f"{name} cannot be run on these inputs.",
        facts=facts,
        remedy="Give inputs of the shapes and dtypes that the model's call takes.",
        path=path,
        got=None,
        source="",
    )


def inside(layer: Any, shape: tuple[int | None, ...]) -> tuple[Any, tuple[int | None, ...], list[Any]]:
    """The layer inside a chain that a shape does not fit, what it gets, and the layers before it."""
    through: list[Any] = []
    now = shape
    for part in chain(layer):
        if wanted(part) and not fits(part, now):
            found, got, more = inside(part, now)
            return found, got, [*through, *more]
        try:
            now = tuple(part.compute_output_shape(now))
        except Exception:  # it does not answer for shapes: the chain as a whole is to blame
            break
        through.append(part)
    return layer, shape, []


def chain(layer: Any) -> list[Any]:
    """The layers of a model that calls one after the other; of any other none."""
    if isinstance(layer, Functional):
        parts = [op for op in layer.operations if not isinstance(op, keras.layers.InputLayer)]
        one_way = all(isinstance(p, keras.layers.Layer) and len(p._inbound_nodes) == 1 for p in parts)
        one_way = one_way and all(len(p._inbound_nodes[0].input_tensors) == 1 for p in parts)
        return parts if one_way and len(layer.inputs) == 1 else []
    return list(layer.layers) if isinstance(layer, keras.Sequential) else []


def said_by(error: BaseException) -> str:
    """The line that says what was wrong, without what Keras puts around it."""
    text = str(error).rpartition("Error encountered:")[2]
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in text.split("\n")]
    return next((line for line in lines if line and not line.startswith("Exception encountered when")), "")


def where(error: BaseException) -> list[str]:
    """A line with file and line of the last of the model's own frames, if it has any outside Keras."""
    inside = ("/site-packages/", "/seedbed/frameworks/", "/seedbed/verbs/")
    found: list[str] = []
    for one in raised_by(error):
        frames = traceback.extract_tb(one.__traceback__)
        own = [f for f in frames if not any(part in f.filename.replace("\\", "/") for part in inside)]
        found = [f"at    {Path(f.filename).name}:{f.lineno}: {f.line}" for f in own[-1:]] or found
    return found


def raised_by(error: BaseException) -> list[BaseException]:
    """An error and those before it: Keras raises another in place of the first, which knows where it was."""
    found, one = [error], error.__context__
    while one is not None and one not in found:
        found.append(one)
        one = one.__context__
    return found


def _spec(layer: Any) -> Any:
    """What a layer says of its first input."""
    if isinstance(layer, keras.Sequential) and layer.built and getattr(layer, "_functional", None) is not None:
        layer = layer._functional
    spec = layer.input_spec
    return spec[0] if isinstance(spec, (list, tuple)) and spec else spec


def wanted(layer: Any) -> tuple[str, str] | None:
    """What a layer takes: in words, and as a shape."""
    spec = _spec(layer)
    if spec is None or isinstance(spec, dict):
        return None
    axes = {int(a): n for a, n in (getattr(spec, "axes", None) or {}).items() if n is not None}
    least, exact = getattr(spec, "min_ndim", None), getattr(spec, "ndim", None)
    if spec.shape is not None:
        shape = tuple(spec.shape)
        sizes = ["*" if n is None else str(n) for n in shape]
        sizes[:1] = ["batch"] if shape[:1] == (None,) else sizes[:1]
        return f"inputs of shape ({', '.join(sizes)})", f"({', '.join(sizes)})"
    if list(axes) == [-1]:
        return f"inputs of {axes[-1]} features", f"(..., {axes[-1]})"
    if axes:
        said = ", ".join(f"{n} on axis {a}" for a, n in axes.items())
        return f"inputs of {said}", said
    if exact or least:
        return (
            f"inputs of {exact or least} axes{'' if exact else ' or more'}",
            f"{exact or least} axes{'' if exact else ' or more'}",
        )
    return None


def fits(layer: Any, shape: tuple[int | None, ...]) -> bool:
    """Whether a layer takes an input of this shape, as far as it says."""
    spec = _spec(layer)
    if spec.shape is not None:
        return len(spec.shape) == len(shape) and all(
            a is None or b is None or a == b for a, b in zip(spec.shape, shape, strict=True)
        )
    if spec.ndim is not None and spec.ndim != len(shape):
        return False
    if spec.min_ndim is not None and len(shape) < spec.min_ndim:
        return False
    return all(n is None or shape[int(a)] in (n, None) for a, n in (spec.axes or {}).items())


def shown(shape: tuple[int | None, ...]) -> str:
    """A shape as it is printed."""
    sizes = ["?" if n is None else str(n) for n in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"
