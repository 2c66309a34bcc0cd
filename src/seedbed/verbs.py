"""The verbs that users call: each finds the model's framework and runs the stages of the spine."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Union

from seedbed.check import Findings
from seedbed.errors import InputError, PlanError
from seedbed.frameworks import framework_of, loaded
from seedbed.initializers import Initializer
from seedbed.materialize import Progress, Which, run
from seedbed.plan import Plan, decide
from seedbed.recipe import InitializerLike, Recipe, WhereLike
from seedbed.recipes import recipe_of
from seedbed.spec import ParamSpec, Specs

RecipeLike = Union[Recipe, str, "os.PathLike[str]", InitializerLike, Mapping[WhereLike, InitializerLike], None]
ProgressLike = Union[bool, Progress, None]
LONG = 256_000_000
"""Bytes from which a bar is shown on a terminal unless told otherwise."""


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
    return framework_of(model).trace(model, inputs, keywords)


def plan(
    model_or_specs: Any,
    *inputs: Any,
    recipe: RecipeLike = None,
    seed: int = 0,
    streams: Mapping[str, str] | None = None,
    **keywords: Any,
) -> Plan:
    """What will happen: how every parameter and buffer of a model will start.

    Args:
        model_or_specs: A model, or what `trace` returned.
        *inputs: As for `trace`.
        recipe: A `Recipe`, a name (`"he"`), one initializer for all, a mapping `{pattern: initializer}`, or
            a path to a TOML or JSON file. `None` starts each parameter as its framework does.
        seed: From 0 to 2**64 - 1.
        streams: Names that replace some paths in the keys of the numbers.
        **keywords: As for `trace`.

    Returns:
        A plan: data that prints as a table, compares, and goes to JSON and back.

    Raises:
        UnmatchedError: Parameters that no rule matches.
        UnusedRuleError: Rules that decide nothing.
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
        found = framework_of(model_or_specs)
        specs = found.trace(model_or_specs, inputs, keywords)
    made = recipe_of(recipe, specs)
    return decide(specs, made, seed=seed, streams=streams, translate=found.translate if found else None)


def materialize(
    plan: Plan,
    model: Any,
    *,
    device: Any = None,
    threads: int | None = None,
    progress: ProgressLike = None,
) -> Any:
    """Make a plan real, in place: parameters stay the same objects, ties and views stay.

    Interrupted, it may simply be called again: the numbers depend on the plan alone.

    Args:
        plan: Made from this model, its sizes settled.
        model: The model to fill.
        device: Where parameters without memory get it; the CPU by default.
        threads: How many; the machine's processors by default.
        progress: True for a bar, False for none, or a function of a path and bytes done. By default a
            long job on a terminal shows a bar.

    Returns:
        The model.

    Raises:
        UnknownSizeError: Some sizes are not settled.
        PlanError: The plan does not fit the model.

    Example:
        >>> import seedbed, torch
        >>> net = torch.nn.Linear(2, 3)
        >>> materialize(plan(net, recipe=seedbed.initializers.Constant(value=42)), net).bias.tolist()
        [42.0, 42.0, 42.0]
    """
    require_plan(plan, "materialize")
    plan.require_known()
    return _carry_out(plan, model, "all", device, threads, progress)


def _carry_out(
    plan: Plan, model: Any, which: Which, device: Any, threads: int | None = None, progress: ProgressLike = None
) -> Any:
    total = sum(e.spec.nbytes for e in plan if e.settled and not e.kept)
    with (
        framework_of(model).placing(plan, model, device, which) as jobs,
        _shown(progress, total, "starting") as report,
    ):
        run(jobs, threads=threads, progress=report)
    return model


def initialize(
    model: Any,
    *inputs: Any,
    recipe: RecipeLike = None,
    seed: int = 0,
    streams: Mapping[str, str] | None = None,
    device: Any = None,
    threads: int | None = None,
    progress: ProgressLike = None,
    **keywords: Any,
) -> Any:
    """Plan and materialize.

    Without inputs, and with sizes still unknown, what is known starts now, and the wish is kept and
    carried out at the model's first call, with the same numbers.

    Args:
        model: The model to start.
        *inputs: As for `trace`.
        recipe: As for `plan`.
        seed: As for `plan`.
        streams: As for `plan`.
        device: As for `materialize`.
        threads: As for `materialize`.
        progress: As for `materialize`.
        **keywords: As for `trace`.

    Returns:
        The model.

    Raises:
        UnknownSizeError: There are inputs, and they leave sizes unknown; nothing is started.
        SeedbedError: And what `plan` and `materialize` raise.

    Example:
        >>> import seedbed, torch
        >>> net = initialize(torch.nn.Sequential(torch.nn.LazyLinear(3)), recipe=seedbed.initializers.Ones())
        >>> net(torch.ones(1, 2))
        tensor([[3., 3., 3.]], grad_fn=<AddmmBackward0>)
    """
    framework = framework_of(model)
    specs = framework.trace(model, inputs, keywords)
    made = recipe_of(recipe, specs)
    decided = decide(specs, made, seed=seed, streams=streams, translate=framework.translate)
    if not decided.unknown:
        return materialize(decided, model, device=device, threads=threads, progress=progress)
    if inputs or keywords:
        decided.require_known()
    _carry_out(decided, model, "known", device, threads, progress)
    framework.keep(model, specs, made, seed, streams, device)
    return model


def start(
    model: Any,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
    recipe: Recipe | None,
    seed: int,
    streams: Mapping[str, str] | None,
    whole: Mapping[str, ParamSpec] | None,
    device: Any,
) -> None:
    """Carry out a kept wish, on the inputs of a first call, where it still waits and the inputs reach.

    For one layer of a model, `whole` says by which paths the model knows its parameters.
    """
    framework = framework_of(model)
    specs = framework.trace(model, inputs, keywords)
    known = {s.path: whole[s.path] if whole else s for s in specs}
    named = [
        replace(s, path=known[s.path].path, aliases=known[s.path].aliases, views=known[s.path].views) for s in specs
    ]
    decided = decide(
        replace(specs, params=tuple(named)), recipe, seed=seed, streams=streams, translate=framework.translate
    )
    entries = (replace(entry, spec=spec) for entry, spec in zip(decided, specs, strict=True))
    _carry_out(replace(decided, entries=tuple(entries)), model, "waiting", device)


def apply_init(model: Any, inputs: Any, init: Any = None, *, seed: int = 0) -> Any:
    """The chapters' method: settle every shape, then run the user's init function.

    Args:
        model: A model, lazy or not.
        inputs: One input as for `trace`, or a list of them.
        init: A function of a layer, called on every layer as the chapters do; or any recipe as for
            `plan`. `None` starts each parameter as its framework does.
        seed: Of the start before the function runs, and of the recipe.

    Returns:
        The model.

    Example:
        >>> import torch
        >>> def ones(module):
        ...     if type(module) == torch.nn.Linear:
        ...         torch.nn.init.ones_(module.weight)
        >>> net = torch.nn.Sequential(torch.nn.LazyLinear(2))
        >>> apply_init(net, (1, 3), ones)[0].weight.tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]

    References:
        A. Zhang, Z. Lipton, M. Li and A. Smola, "Dive into Deep Learning", 2023, section 6.4 (Lazy
        Initialization), `apply_init`.
    """
    framework = framework_of(model)
    given = inputs if isinstance(inputs, list) else [inputs]
    plain_function = callable(init) and not isinstance(init, (Initializer, Recipe)) and not framework.is_native(init)
    initialize(model, *given, recipe=None if plain_function else init, seed=seed)
    if plain_function:
        framework.apply(model, init)
    return model


def write(
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    shard_size: int | str = "5GB",
    model: Any = None,
    threads: int | None = None,
    progress: ProgressLike = None,
) -> list[Path]:
    """Write a plan's values to disk as a safetensors checkpoint, never more than a buffer in memory.

    Files appear under their names only when they are whole; a failure leaves what stood there before.

    Args:
        plan: Its sizes settled.
        path: A file that ends in `.safetensors`, or a folder.
        shard_size: The most bytes in one file, as a number or such as `"5GB"`; what does not fit goes to
            `name-00001-of-00002.safetensors` and so on, with an index.
        model: Where values that the plan keeps are read.
        threads: As for `materialize`.
        progress: As for `materialize`.

    Returns:
        The files written, the index last.

    Raises:
        UnknownSizeError: Some sizes are not settled.
        PlanError: The plan keeps values, and no model was given.
        OutputError: The place cannot be written.

    Example:
        >>> import tempfile, torch
        >>> made = plan(torch.nn.Linear(2, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = write(made, folder)
        ...     [f.name for f in files], bool(check(folder, made))
        (['model.safetensors'], True)
    """
    from seedbed import store

    require_plan(plan, "write")
    held = None
    if model is not None:
        framework_of(model).fit(plan, model)
        held = dict(framework_of(model).values(model))
    total = sum(e.spec.nbytes for e in plan if e.settled and e.spec.persistent and not e.kept)
    with _shown(progress, total, "writing") as report:
        return store.save(
            plan,
            path,
            shard_size=number_of_bytes(shard_size),
            kept=(lambda entry: held[entry.spec.path].array) if held is not None else None,
            threads=threads,
            progress=report,
        )


def check(params_or_path: Any, plan: Plan, *, progress: ProgressLike = None) -> Findings:
    """Which parameters equal their plan to the bit, which moved, which are missing.

    Args:
        params_or_path: A model, a mapping of paths to arrays, or the path of a checkpoint.
        plan: Its sizes settled.
        progress: As for `materialize`.

    Returns:
        Findings; true when nothing differs.

    Raises:
        CheckpointError: The file is not a sound checkpoint.
        UninitializedError: Parameters have no values yet.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2)
        >>> made = plan(net)
        >>> bool(check(materialize(made, net), made))
        True
        >>> with torch.no_grad(): _ = net.weight[0, 0].fill_(42)
        >>> check(net, made)["weight"].differing
        1
    """
    from seedbed.check import compare

    require_plan(plan, "check")
    saved = isinstance(params_or_path, (str, os.PathLike))
    if saved:
        from seedbed.store import load

        held: Mapping[str, Any] = load(params_or_path)
    else:
        held = _values(params_or_path)
    with _shown(progress, sum(e.spec.nbytes for e in plan if e.settled and not e.kept), "checking") as report:
        return compare(held, plan, persistent=saved or isinstance(params_or_path, Mapping), progress=report)


def _values(held: Any) -> Mapping[str, Any]:
    if not isinstance(held, Mapping):
        return framework_of(held).values(held)
    for framework in loaded():
        if held and framework.owns_values(held):
            return framework.values(held)
    from seedbed.store import Tensor

    strange = [p for p, v in held.items() if not (hasattr(v, "dtype") and hasattr(v, "shape"))]
    if strange:
        raise InputError(
            f"check: {strange[0]!r} is not an array, but {type(held[strange[0]]).__name__}.",
            remedy="Give a mapping of paths to arrays; from a training checkpoint, the part that is the state dict.",
        )
    return {path: Tensor(str(array.dtype), tuple(array.shape), array) for path, array in held.items()}


def require_plan(plan: object, verb: str) -> None:
    """Raise `PlanError` when something else stands where a plan belongs."""
    if not isinstance(plan, Plan):
        takes = {"check": "check(model_or_path, plan)", "write": "write(plan, path)"}.get(
            verb, "materialize(plan, model)"
        )
        raise PlanError(f"{verb}: a Plan is needed, got {type(plan).__name__}.", remedy=f"Call it as seedbed.{takes}")


def number_of_bytes(size: int | str) -> int:
    """`"5GB"` as a number; decimal units, or binary with an i.

    Example:
        >>> number_of_bytes("5GB"), number_of_bytes("1KiB"), number_of_bytes(7)
        (5000000000, 1024, 7)
    """
    if isinstance(size, int) and size > 0:
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?\s*", str(size))
    if not match or float(match[1]) <= 0:
        raise PlanError(f"shard_size: must be a number of bytes above 0, such as '5GB', got {size!r}.")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def _shown(progress: ProgressLike, total: int, what: str) -> AbstractContextManager[Progress | None]:
    if callable(progress):
        return nullcontext(progress)
    if progress or (progress is None and total >= LONG and sys.stderr.isatty()):
        from seedbed.reports.terminal import bar

        return bar(total, what)
    return nullcontext(None)
