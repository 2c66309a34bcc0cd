"""What exists, and what will happen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Union

from seedbed.errors import InputError
from seedbed.frameworks import loaded
from seedbed.initializers import Initializer
from seedbed.plan import Plan, Streams, holding
from seedbed.recipe import InitializerLike, Recipe, WhereLike
from seedbed.recipes import recipe_of
from seedbed.spec import Parts, Specs
from seedbed.verbs.asked import owner_of

RecipeLike = Union[Recipe, str, "os.PathLike[str]", InitializerLike, Mapping[WhereLike, InitializerLike], None]


def trace(model: Any, *inputs: Any, **keywords: Any) -> Specs:
    """What exists: every parameter and buffer of a model, before any has values.

    Nothing is computed, nothing allocated, and nothing in the model changes.

    Args:
        model: A model, lazy or not, with memory or without.
        *inputs: What its forward takes: shapes, `Input`s, arrays, or dicts and tuples of these. A size
            that is `None` varies: the sizes that follow from it stay `?`, and say what they depend on.
        **keywords: The same, by name.

    Returns:
        Specs in the model's order. Without inputs, sizes that only an input can tell are `None`.

    Raises:
        ModelError: `model` is not one of a known framework.
        InputError: The model does not take these inputs.
        ShapeError: Sizes inside the model do not fit.

    Example:
        >>> import torch
        >>> specs = trace(torch.nn.Sequential(torch.nn.LazyLinear(256), torch.nn.ReLU()))
        >>> specs["0.weight"].shown_shape
        '(256, ?)'
    """
    return owner_of(model, "trace").trace(model, inputs, keywords)


def plan(
    model_or_specs: Any,
    *inputs: Any,
    recipe: RecipeLike = None,
    seed: int = 0,
    streams: Streams = None,
    parts: Mapping[str, Parts] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    leave: Sequence[str] = (),
    **keywords: Any,
) -> Plan:
    """What will happen: how every parameter and buffer of a model will start.

    Args:
        model_or_specs: A model, or what `trace` returned.
        *inputs: As for `trace`.
        recipe: A `Recipe`, a name (`"he"`), one initializer for all, a mapping `{pattern: initializer}`, or
            a path to a TOML or JSON file; initializers by themselves or by the names that files give them
            (`"Zeros"`). `None` starts each parameter as its framework does.
        seed: From 0 to 2**64 - 1.
        streams: Names that replace some paths in the keys of the numbers, or `"position"`: the number of each
            layer and PyTorch's name for the parameter, which makes the same network start equal in every framework.
        parts: For patterns of paths, the logical parameters that the arrays there hold: see `Parts`. Recipe and
            streams then speak of these. With `recipe=None` a part starts as its array's own start says of
            single elements; an array whose own start is none of single elements, that has values which
            are kept, or that comes from a checkpoint stays whole.
        checkpoint: A safetensors file, index or folder: what it holds starts from there, before any rule.
        leave: Patterns of names in the checkpoint that are not for this model.
        **keywords: As for `trace`.

    Returns:
        A plan: data that prints as a table, compares, and goes to JSON and back.

    Raises:
        UnmatchedError: Parameters that no rule matches.
        UnusedRuleError: Rules that decide nothing.
        CheckpointError: The checkpoint is not sound, or holds what does not fit; all of it is listed.
        PlanError: Arrays cannot be cut into these parts.
        SeedbedError: And what `trace` raises.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.LazyLinear(256), torch.nn.ReLU(), torch.nn.LazyLinear(10))
        >>> print(plan(net, (2, 20), recipe="he").table(width=120))
        parameter  shape      dtype    starts as                        because
        ─────────  ─────────  ───────  ───────────────────────────────  ───────────────────
        0.weight   (256, 20)  float32  HeNormal(): Normal(std=0.3162)   rule 1: role=weight
        0.bias     (256,)     float32  Zeros()                          rule 3: role=bias
        2.weight   (10, 256)  float32  HeNormal(): Normal(std=0.08839)  rule 1: role=weight
        2.bias     (10,)      float32  Zeros()                          rule 3: role=bias
    """
    if isinstance(model_or_specs, Specs):
        specs, found = model_or_specs, next((f for f in loaded() if f.name == model_or_specs.framework), None)
        if inputs or keywords:
            raise InputError("plan: specs take no inputs; give them to `trace`.")
    else:
        found = owner_of(model_or_specs, "plan")
        specs = found.trace(model_or_specs, inputs, keywords)
    held = holding(specs, parts)
    made = recipe_of(recipe, held.logical)
    given = checkpoint_for(specs, checkpoint, leave)
    return held.decide(made, seed=seed, streams=streams, translate=found.translate if found else None, given=given)


def checkpoint_for(
    specs: Specs, checkpoint: str | os.PathLike[str] | None, leave: Sequence[str]
) -> dict[str, Initializer] | None:
    """What a checkpoint holds of a model, by path."""
    if checkpoint is None:
        if leave:
            raise InputError("leave: names what to leave of a checkpoint, and none is given.")
        return None
    from seedbed.store import fitted

    return dict(fitted(specs, checkpoint, [leave] if isinstance(leave, str) else leave))
