"""What a failed dry run means: which layer, what it expected, what it got, and from whom."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.rnn import RNNBase, RNNCellBase

from seedbed.errors import InputError, ModelError, SeedbedError, ShapeError
from seedbed.frameworks.torch.dryrun import Call, DryRun

READS_VALUES = ("cannot be called on meta tensors", "aten::_local_scalar_dense", "aten::nonzero", "meta tensors cannot")


def explain(error: Exception, run: DryRun) -> SeedbedError:
    """The error that says what went wrong in a dry run."""
    place = where(error)
    call = run.calls[-1] if run.calls else None
    path = call.path if call else ""
    name = f"{path or 'the model'}: {type(call.module).__name__}" if call else "the model"
    said = str(error).strip().split("\n")[0]
    if isinstance(error, NotImplementedError) or any(mark in str(error) for mark in READS_VALUES):
        return ModelError(
            f"{name} reads a value, and a dry run has none.",
            facts=[*place, f"said  {said}"],
            remedy="Give the sizes of its lazy layers, or take the value from a shape instead."
            if run.lazy
            else "None of its layers is lazy: plan it without inputs.",
            path=path,
        )
    tensors = [t for t in call.inputs if isinstance(t, torch.Tensor)] if call else []
    if call and tensors:
        source = run.source(tensors[0])
        expected = wanted_shape(call.module)
        if expected and not fits(call.module, tensors[0]):
            return ShapeError(
                f"{name} expects {expected[0]}, got {shape(tensors[0])}.",
                facts=[
                    f"expected  {expected[1]}",
                    f"got       {shape(tensors[0])}",
                    f"from      {source}",
                ],
                remedy="Let the two sizes agree, or leave this one open: a lazy layer takes it from its input.",
                path=path,
                expected=expected[1],
                got=tuple(tensors[0].shape),
                source=run.maker(tensors[0]).sized,
            )
    facts = [*place, f"said  {type(error).__name__}: {said}"]
    facts += [f"got   {plain(t.dtype)}{shape(t)} from {run.source(t)}" for t in tensors]
    return ShapeError(
        f"{name} cannot be run on these inputs.",
        facts=facts,
        remedy="Give inputs of the shapes and dtypes that the model's forward takes.",
        path=path,
        got=None,
        source="",
    )


def judge(run: DryRun, call: Call) -> None:
    """Raise `InputError` when a layer is called on a dtype it does not take: the meta device would not notice."""
    tensors = [t for t in call.inputs if isinstance(t, torch.Tensor)]
    wanted = wanted_dtype(call, tensors[0]) if tensors else ""
    if wanted:
        raise InputError(
            f"{call.path or 'the model'}: {type(call.module).__name__} expects {wanted} values, got {plain(tensors[0].dtype)}.",
            facts=[
                f"expected  {wanted}",
                f"got       {plain(tensors[0].dtype)}{shape(tensors[0])}",
                f"from      {run.source(tensors[0])}",
            ],
            remedy=f"Say what the input holds, such as Input(shape, {wanted!r}).",
            path=call.path,
        )


def where(error: BaseException) -> list[str]:
    """A line with file and line of the last of the model's own frames, if it has any outside torch."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = ("/torch/", "/seedbed/frameworks/")
    own = [f for f in frames if not any(part in f.filename.replace("\\", "/") for part in inside)]
    return [f"at    {Path(f.filename).name}:{f.lineno}: {f.line}" for f in own[-1:]]


def wanted_dtype(call: Call, tensor: torch.Tensor) -> str:
    """The dtype a layer needs and did not get."""
    if isinstance(call.module, (nn.Embedding, nn.EmbeddingBag)):
        return "int64" if tensor.dtype not in (torch.int64, torch.int32) else ""
    if not isinstance(call.module, (nn.Linear, nn.Bilinear, _ConvNd, RNNBase)):
        return ""
    own = next(call.module.parameters(recurse=False), None)
    return plain(own.dtype) if own is not None and own.dtype.is_floating_point and own.dtype != tensor.dtype else ""


def wanted_shape(module: nn.Module) -> tuple[str, str] | None:
    """What a layer takes: in words, and as a shape."""
    if isinstance(module, nn.Linear) and module.in_features:
        return f"inputs of {module.in_features} features", f"(..., {module.in_features})"
    if isinstance(module, _ConvNd):
        window = ", ".join("*" for _ in module.kernel_size)
        if not module.in_channels:
            return f"inputs of {len(module.kernel_size) + 2} axes", f"(batch, channels, {window})"
        return f"inputs of {module.in_channels} channels", f"(batch, {module.in_channels}, {window})"
    if isinstance(module, _NormBase) and module.num_features:
        return f"inputs of {module.num_features} features", f"(batch, {module.num_features}, ...)"
    if isinstance(module, nn.GroupNorm):
        return f"inputs of {module.num_channels} channels", f"(batch, {module.num_channels}, ...)"
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        sizes = ", ".join(map(str, module.normalized_shape))
        return f"inputs that end in ({sizes})", f"(..., {sizes})"
    if isinstance(module, (RNNBase, RNNCellBase)):
        return f"inputs of {module.input_size} features", f"(..., {module.input_size})"
    if isinstance(module, nn.MultiheadAttention):
        return f"queries of {module.embed_dim} features", f"(..., {module.embed_dim})"
    return None


def fits(module: nn.Module, tensor: torch.Tensor) -> bool:
    """Whether a layer takes a tensor of this shape."""
    sizes: tuple[Any, ...] = tuple(tensor.shape)
    if isinstance(module, _ConvNd):
        rank = len(module.kernel_size) + 1
        return len(sizes) in (rank, rank + 1) and module.in_channels in (0, sizes[-rank])
    if isinstance(module, _NormBase):
        return len(sizes) > 1 and sizes[1] == module.num_features
    if isinstance(module, nn.GroupNorm):
        return len(sizes) > 1 and sizes[1] == module.num_channels
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return sizes[-len(module.normalized_shape) :] == tuple(module.normalized_shape)
    last = module.in_features if isinstance(module, nn.Linear) else getattr(module, "input_size", None)
    last = module.embed_dim if isinstance(module, nn.MultiheadAttention) else last
    return bool(sizes) and sizes[-1] == last


def plain(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def shape(tensor: torch.Tensor) -> str:
    """A tensor's shape as it is printed."""
    return str(tuple(tensor.shape))
