"""Plans made real, in a model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from seedbed.errors import InputError
from seedbed.frameworks import framework_of
from seedbed.initializers import Initializer
from seedbed.materialize import Which, run
from seedbed.plan import Plan, Streams, decide, holding, streams_of
from seedbed.recipe import Recipe
from seedbed.recipes import recipe_of
from seedbed.spec import ParamSpec, Parts
from seedbed.verbs.agreeing import agree
from seedbed.verbs.asked import ProgressLike, owner_of, require_plan, shown
from seedbed.verbs.planning import RecipeLike, checkpoint_for


def materialize(
    plan: Plan,
    model: Any,
    *,
    device: Any = None,
    sharding: Any = None,
    threads: int | None = None,
    progress: ProgressLike = None,
    replace: bool = False,
    collective: bool = True,
) -> Any:
    """Make a plan real, in place: parameters stay the same objects, ties and views stay.

    Flax's linen modules hold no parameters: theirs are returned, and the module is not changed.
    Of a model that several processes hold together, each makes its own shards, and all must call this.
    Interrupted, it may simply be called again: the numbers depend on the plan alone.

    Args:
        plan: Made from this model, its sizes settled.
        model: The model to fill.
        device: Where parameters without memory get it; the CPU by default.
        sharding: For JAX: a `Sharding` for every parameter, a mapping of paths to them, or a function of the path.
        threads: How many; the machine's processors by default.
        progress: True for a bar, False for none, or a function of a path and bytes done. By default a
            long job on a terminal shows a bar.
        replace: In a sharded model: whether values that stand beside parameters without any are replaced.
        collective: Whether the ranks that hold a sharded model first make sure that they have one plan,
            by a small all-gather; nothing else is ever sent.

    Returns:
        The model; of a linen module, its variables.

    Raises:
        UnknownSizeError: Some sizes are not settled.
        PlanError: The plan does not fit the model, or the ranks have different ones.
        ModelError: A shard cannot be started.

    Example:
        >>> import seedbed, torch
        >>> net = torch.nn.Linear(2, 3)
        >>> seedbed.materialize(seedbed.plan(net, recipe=seedbed.initializers.Constant(value=42)), net).bias.tolist()
        [42.0, 42.0, 42.0]
    """
    require_plan(plan, "materialize")
    plan.require_known()
    agree(owner_of(model, "materialize"), plan, model, replace=replace, collective=collective)
    return _carry_out(plan, model, "all", device, sharding, threads, progress)


def _carry_out(
    plan: Plan,
    model: Any,
    which: Which,
    device: Any,
    sharding: Any = None,
    threads: int | None = None,
    progress: ProgressLike = None,
) -> Any:
    total = sum(e.spec.nbytes for e in plan if e.settled and not e.kept)
    with framework_of(model).placing(plan, model, device, sharding, which) as room:
        if isinstance(room.jobs, list):  # of a sharded model, what this process owns
            total = sum(job.nbytes for job in room.jobs)
        with shown(progress, total, "starting") as report:
            run(room.jobs, threads=threads, progress=report)
    return room.result()


def initialize(
    model: Any,
    *inputs: Any,
    recipe: RecipeLike = None,
    seed: int = 0,
    streams: Streams = None,
    parts: Mapping[str, Parts] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    leave: Sequence[str] = (),
    device: Any = None,
    sharding: Any = None,
    threads: int | None = None,
    progress: ProgressLike = None,
    replace: bool = False,
    collective: bool = True,
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
        parts: As for `plan`; then no size may be unknown.
        checkpoint: As for `plan`; what it holds is loaded, the rest starts as planned.
        leave: As for `plan`.
        device: As for `materialize`.
        sharding: As for `materialize`.
        threads: As for `materialize`.
        progress: As for `materialize`.
        replace: As for `materialize`.
        collective: As for `materialize`.
        **keywords: As for `trace`.

    Returns:
        The model; of a linen module, its variables, or a module whose `init` carries the kept wish out.

    Raises:
        UnknownSizeError: There are inputs, and they leave sizes unknown; nothing is started.
        SeedbedError: And what `plan` and `materialize` raise.

    Example:
        >>> import seedbed, torch
        >>> net = seedbed.initialize(torch.nn.Sequential(torch.nn.LazyLinear(3)), recipe=seedbed.initializers.Ones())
        >>> net(torch.ones(1, 2))
        tensor([[3., 3., 3.]], grad_fn=<AddmmBackward0>)
    """
    framework = owner_of(model, "initialize")
    specs = framework.trace(model, inputs, keywords)
    held = holding(specs, parts)
    made = recipe_of(recipe, held.logical)
    given = checkpoint_for(specs, checkpoint, leave)
    named = streams_of(streams, held.logical)
    decided = held.decide(made, seed=seed, streams=named, translate=framework.translate, given=given)
    if (given is not None or parts) and not (inputs or keywords):
        decided.require_known()
    if not decided.unknown:
        agree(framework, decided, model, replace=replace, collective=collective)
        return _carry_out(decided, model, "all", device, sharding, threads, progress)
    if inputs or keywords:
        decided.require_known()
    _carry_out(decided, model, "known", device, sharding, threads, progress)
    return framework.keep(model, specs, made, seed, named, device)


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
    framework = owner_of(model, "initialize")
    specs = framework.trace(model, inputs, keywords)
    known = {s.path: whole[s.path] if whole else s for s in specs}
    named = [
        dataclasses.replace(s, path=known[s.path].path, aliases=known[s.path].aliases, views=known[s.path].views)
        for s in specs
    ]
    decided = decide(
        dataclasses.replace(specs, params=tuple(named)),
        recipe,
        seed=seed,
        streams=streams,
        translate=framework.translate,
    )
    entries = (dataclasses.replace(entry, spec=spec) for entry, spec in zip(decided, specs, strict=True))
    _carry_out(dataclasses.replace(decided, entries=tuple(entries)), model, "waiting", device)


def apply_init(model: Any, inputs: Any, init: Any = None, *, seed: int = 0) -> Any:
    """The chapters' method: settle every shape, then run the user's init function.

    Args:
        model: A model, lazy or not.
        inputs: One input as for `trace`, or a list of them.
        init: A function of a layer, called on every layer as the chapters do; or any recipe as for
            `plan`. `None` starts each parameter as its framework does.
        seed: Of the start before the function runs, and of the recipe.

    Returns:
        What `initialize` returns.

    Example:
        >>> import seedbed, torch
        >>> def ones(module):
        ...     if type(module) == torch.nn.Linear:
        ...         torch.nn.init.ones_(module.weight)
        >>> net = torch.nn.Sequential(torch.nn.LazyLinear(2))
        >>> seedbed.apply_init(net, (1, 3), ones)[0].weight.tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]

    References:
        A. Zhang, Z. Lipton, M. Li and A. Smola, "Dive into Deep Learning", 2023, section 6.4 (Lazy
        Initialization), `apply_init`.
    """
    framework = owner_of(model, "apply_init")
    given = inputs if isinstance(inputs, list) else [inputs]
    plain_function = callable(init) and not isinstance(init, (Initializer, Recipe)) and not framework.is_native(init)
    if plain_function and framework.ranks(model) is not None:
        raise InputError(
            "apply_init: the model is sharded, and a function of layers would fill each shard as if it were the whole.",
            remedy="Give a recipe or an initializer, or seedbed.initializers.Custom(function) for one of your own.",
        )
    started = initialize(model, *given, recipe=None if plain_function else init, seed=seed)
    if plain_function:
        framework.apply(model, init)
    return started
