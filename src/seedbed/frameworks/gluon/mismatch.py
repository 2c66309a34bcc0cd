"""What a failed dry run means: which layer, what it expected, what it got, and from whom."""

from __future__ import annotations

import math
import re
import traceback
from pathlib import Path

from mxnet.gluon import Block, nn
from mxnet.gluon.nn.basic_layers import _BatchNorm
from mxnet.gluon.nn.conv_layers import _Conv
from mxnet.gluon.rnn.rnn_layer import _RNNLayer

from seedbed.errors import SeedbedError, ShapeError
from seedbed.frameworks.gluon.blocks import shape_of
from seedbed.frameworks.gluon.dryrun import DoesNotFit, DryRun, arrays_in
from seedbed.spec import ParamSpec, Shape

REMEDY = "Let the two sizes agree, or leave this one open: the layer takes it from its input."


def explain(error: Exception, run: DryRun) -> SeedbedError:
    """The error that says what went wrong in a dry run."""
    call = error.call if isinstance(error, DoesNotFit) else run.current
    sizes = error.got if isinstance(error, DoesNotFit) else [tuple(a.shape) for a in arrays_in(call and call.inputs)]
    path = call.path if call else ""
    name = f"{path or 'the model'}: {type(call.block).__name__}" if call else "the model"
    if call and sizes and sizes[0] is not None:
        source = run.source(call.inputs[0])
        expected = wanted_shape(call.block)
        if expected and not fits(call.block, sizes[0]):
            return ShapeError(
                f"{name} expects {expected[0]}, got {shown(sizes[0])}.",
                facts=[f"expected  {expected[1]}", f"got       {shown(sizes[0])}", f"from      {source}"],
                remedy=REMEDY,
                path=path,
                expected=expected[1],
                got=sizes[0],
                source=run.maker(call.inputs[0]).sized,
            )
    facts = [*where(error), f"said  {what(error, run)}"]
    if call:
        facts += [
            f"got   {shown(size)} from {run.source(value)}"
            for value, size in zip(call.inputs, sizes, strict=False)
            if size
        ]
    return ShapeError(
        f"{name} cannot be run on these inputs.",
        facts=facts,
        remedy="Give inputs of the shapes and dtypes that the model's forward takes.",
        path=path,
        got=None,
        source="",
    )


def what(error: Exception, run: DryRun) -> str:
    """MXNet's own words, without places in its source; operators are named by the paths of their blocks."""
    lines = [line for line in str(error).strip().split("\n") if line.strip()] or [type(error).__name__]
    first = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    first = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", first).removeprefix("MXNetError: ")
    for path, block in sorted(run.twin.blocks.values(), key=lambda pair: -len(pair[1].prefix)):
        if block.prefix:
            first = first.replace(block.prefix, f"{path}." if path else "")
    return first if isinstance(error, DoesNotFit) else f"{type(error).__name__}: {first}"


def where(error: BaseException) -> list[str]:
    """A line with file and line of the last of the model's own frames, if it has any outside MXNet."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = ("/mxnet/", "/seedbed/frameworks/")
    own = [f for f in frames if not any(part in f.filename.replace("\\", "/") for part in inside)]
    return [f"at    {Path(f.filename).name}:{f.lineno}: {f.line}" for f in own[-1:] if f.line]


def wanted_shape(block: Block) -> tuple[str, str] | None:
    """What a layer takes: in words, and as a shape."""
    inputs = _inputs(block)
    if isinstance(block, nn.Dense) and inputs:
        return f"inputs of {inputs} features", f"(batch, {inputs})" if block._flatten else f"(..., {inputs})"
    if isinstance(block, _Conv):
        layout = block._kwargs["layout"]
        sizes = {"N": "batch", "C": str(inputs or "channels")}
        axes = ", ".join(sizes.get(letter, "*") for letter in layout)
        return f"inputs of {inputs} channels" if inputs else f"inputs of {len(layout)} axes", f"({axes})"
    if isinstance(block, (_BatchNorm, nn.InstanceNorm)) and inputs:
        return f"inputs of {inputs} features", f"(batch, {inputs}, ...)"
    if isinstance(block, nn.LayerNorm) and inputs:
        return f"inputs that end in ({inputs})", f"(..., {inputs})"
    if isinstance(block, _RNNLayer):
        return (
            (f"inputs of {inputs} features", f"(..., {inputs})") if inputs else ("inputs of 3 axes", "(*, *, features)")
        )
    return None


def fits(block: Block, sizes: Shape) -> bool:
    """Whether a layer takes a value of this shape."""
    inputs = _inputs(block)
    if isinstance(block, nn.Dense):
        if not block._flatten:
            return bool(sizes) and sizes[-1] == inputs
        return None not in sizes and math.prod(n or 0 for n in sizes[1:]) == inputs
    if isinstance(block, _Conv):
        layout = block._kwargs["layout"]
        return bool(len(sizes) == len(layout) and inputs in (0, sizes[layout.index("C")]))
    if isinstance(block, (_BatchNorm, nn.InstanceNorm, nn.LayerNorm)):
        axis = getattr(block, "_axis", None)
        axis = block._kwargs["axis"] if axis is None else axis
        return bool(-len(sizes) <= axis < len(sizes) and sizes[axis] == inputs)
    if isinstance(block, _RNNLayer):
        return len(sizes) == 3 and inputs in (0, sizes[-1])
    return True


def _inputs(block: Block) -> int:
    """How many features or channels a layer was built for; 0 when it takes them from its input."""
    if isinstance(block, _Conv):
        inputs: int = block._in_channels
    elif isinstance(block, _RNNLayer):
        inputs = block._input_size
    elif isinstance(block, nn.Dense):
        inputs = block._in_units
    else:
        inputs = 0
    parameter = next(
        (block._reg_params[n] for n in ("weight", "gamma", "l0_i2h_weight") if n in block._reg_params), None
    )
    if inputs or parameter is None:
        return inputs
    if isinstance(block, _Conv):  # its weights know, once an input has told them
        ordinary = block._op_name == "Convolution" and block._kwargs["layout"].startswith("NC")
        return (shape_of(parameter)[1] or 0) * block._kwargs["num_group"] if ordinary else 0
    return shape_of(parameter)[-1] or 0


def zero_width(path: str, shape: Shape, axis: str) -> ShapeError:
    """The error of a parameter that would have no elements."""
    return ShapeError(
        f"{path}: would have no elements, because {axis} has size 0, and Gluon has no such parameters.",
        facts=[f"shape  {shown(shape)}"],
        remedy="Give an input with at least one feature; the batch may be empty.",
        path=path,
        expected=shape,
        got=None,
        source="",
    )


def shown(sizes: Shape) -> str:
    """A shape as it is printed."""
    return ParamSpec(path="", shape=sizes).shown_shape if sizes else "()"
