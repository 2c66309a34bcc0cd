"""Plans on disk, and values against plans."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seedbed.check import Findings
from seedbed.errors import InputError, PlanError
from seedbed.errors import shown as shown_lines
from seedbed.frameworks import Framework, Ranks, framework_of, loaded
from seedbed.plan import Plan
from seedbed.shard import Shard
from seedbed.verbs.agreeing import one_by_one
from seedbed.verbs.asked import (
    ProgressLike,
    number_of_bytes,
    number_of_process,
    owner_of,
    require_built,
    require_plan,
    shown,
)


def write(
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    shard_size: int | str = "5GB",
    process: tuple[int, int] = (0, 1),
    replace: bool = False,
    model: Any = None,
    threads: int | None = None,
    progress: ProgressLike = None,
) -> list[Path]:
    """Write a plan's values to disk as a safetensors checkpoint, never more than a buffer in memory.

    A file appears under its name only when it is whole, the index when all of them are. After a failure,
    the same call goes on: files that are whole and of this very plan are not written again, but for those
    with values of a model, a `Custom` function or another checkpoint, which the plan does not decide.

    Args:
        plan: Its sizes settled.
        path: A file that ends in `.safetensors`, or a folder.
        shard_size: The most bytes in one file, as a number or such as `"5GB"`; what does not fit goes to
            `name-00001-of-00002.safetensors` and so on, with an index.
        process: `(rank, of)`: the files of this one of several processes, which say nothing to each other.
            Together they write the bytes that one alone would; whichever ends last writes the index.
        replace: Whether another model that stands there may be replaced: all of it, once the new one is
            whole. By one process alone.
        model: Where values that the plan keeps are read.
        threads: As for `materialize`.
        progress: As for `materialize`; files that are there already are not counted.

    Returns:
        The files of this process, the index last if all files are there.

    Raises:
        UnknownSizeError: Some sizes are not settled.
        PlanError: The plan keeps values, and no model was given.
        InputError: `process` is not one of several.
        OutputError: The place cannot be written, holds another model, or is being written by another process.

    Example:
        >>> import seedbed, tempfile, torch
        >>> made = seedbed.plan(torch.nn.Linear(2, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = seedbed.write(made, folder)
        ...     [f.name for f in files], bool(seedbed.check(folder, made))
        (['model.safetensors'], True)
    """
    from seedbed import store

    require_plan(plan, "write")
    held = None
    if model is not None:
        framework = owner_of(model, "write")
        framework.fit(plan, model)
        held = dict(framework.values(model))
        _require_whole(plan, held)
    return store.save(
        plan,
        path,
        shard_size=number_of_bytes(shard_size),
        process=number_of_process(process),
        replace=replace,
        kept=(lambda entry: held[entry.spec.path].array) if held is not None else None,
        threads=threads,
        reporting=lambda total: shown(progress, total, "writing"),
    )


def _require_whole(plan: Plan, held: Mapping[str, Any]) -> None:
    kept = [e.spec for e in plan if e.kept and e.spec.persistent]
    parts = [s.path for s in kept if getattr(held[s.path], "shard", None) not in (None, Shard.whole(s.sizes))]
    if parts:
        raise PlanError(
            f"{parts[0]}: the plan keeps its values, and this process has only a shard of them.",
            facts=shown_lines(parts),
            remedy="Save the model with torch.distributed.checkpoint, or give these parameters a rule that starts them.",
            paths=tuple(parts),
        )


def check(params_or_path: Any, plan: Plan, *, progress: ProgressLike = None, collective: bool = True) -> Findings:
    """Which parameters equal their plan to the bit, which moved, which are missing.

    Args:
        params_or_path: A model, a mapping of paths to arrays, or the path of a checkpoint.
        plan: Its sizes settled.
        progress: As for `materialize`.
        collective: Whether the ranks that hold a sharded model, each of which checks its own shards, tell each
            other what differs; then all must call this. Without, each speaks for itself.

    Returns:
        Findings; true when nothing differs, on other ranks neither.

    Raises:
        CheckpointError: The file is not a sound checkpoint.
        UninitializedError: Parameters have no values yet.

    Example:
        >>> import seedbed, torch
        >>> net = torch.nn.Linear(2, 2)
        >>> made = seedbed.plan(net)
        >>> bool(seedbed.check(seedbed.materialize(made, net), made))
        True
        >>> with torch.no_grad(): _ = net.weight[0, 0].fill_(42)
        >>> seedbed.check(net, made)["weight"].differing
        1
    """
    require_plan(plan, "check")
    _require_built(params_or_path, "check")
    ranks = _ranks(params_or_path) if collective else None
    found = Findings(())

    def line() -> str:
        nonlocal found
        found = _compared(params_or_path, plan, progress)
        return found.line

    said = one_by_one(ranks, line)
    number = ranks.number if ranks else 0
    return replace(found, elsewhere=tuple((n, text) for n, text in said.items() if text and n != number))


def _compared(params_or_path: Any, plan: Plan, progress: ProgressLike) -> Findings:
    from seedbed.check import compare

    saved = isinstance(params_or_path, (str, os.PathLike))
    if saved:
        from seedbed.store import load

        held: Mapping[str, Any] = load(params_or_path)
    else:
        held = _values(params_or_path)
    with shown(progress, sum(e.spec.nbytes for e in plan if e.settled and not e.kept), "checking") as report:
        return compare(held, plan, persistent=saved or isinstance(params_or_path, Mapping), progress=report)


def fingerprint(plan: Plan, params_or_path: Any = None, *, progress: ProgressLike = None) -> str:
    """128 bits of values, in hexadecimal: the same for every sharding, so that a line compares two starts.

    All that a checkpoint holds counts, each parameter under its own path. Where several processes hold a model
    together, all must call this; each sums up its own shards, and only the sums are exchanged.

    Args:
        plan: Its sizes settled.
        params_or_path: As for `check`; without it, the fingerprint that a start will have.
        progress: As for `materialize`.

    Returns:
        32 characters; not `plan.fingerprint()`, which is of what decides the values.

    Raises:
        PlanError: Some values are not there, or replicas of one shard differ.

    Example:
        >>> import seedbed, torch
        >>> net = torch.nn.Linear(2, 3)
        >>> made = seedbed.plan(net, recipe="he")
        >>> expected = seedbed.fingerprint(made)
        >>> seedbed.fingerprint(made, seedbed.materialize(made, net)) == expected
        True
        >>> _ = net.weight.data.add_(1)
        >>> seedbed.fingerprint(made, net) == expected
        False
    """
    from seedbed import digest

    require_plan(plan, "fingerprint")
    plan.require_known()
    _require_built(params_or_path, "fingerprint")

    def sums() -> str:
        held = _held(params_or_path)
        with shown(progress, sum(e.spec.nbytes for e in plan if e.spec.persistent), "summing up") as report:
            return digest.to_text(digest.sums(plan, held, report))

    said = one_by_one(_ranks(params_or_path), sums)
    return digest.together({rank: digest.from_text(text) for rank, text in said.items()})


def _held(params_or_path: Any) -> Mapping[str, Any] | None:
    if params_or_path is None:
        return None
    if isinstance(params_or_path, (str, os.PathLike)):
        from seedbed.store import load

        return load(params_or_path)
    return _values(params_or_path)


def _owner(held: Any) -> Framework | None:
    """The framework of a model or of a mapping of arrays, if it is one's."""
    if held is None or isinstance(held, (str, os.PathLike)):
        return None
    if not isinstance(held, Mapping):
        return framework_of(held)
    return next((f for f in loaded() if held and f.owns_values(held)), None)


def _require_built(held: Any, verb: str) -> None:
    if (owner := _owner(held)) is not None:
        require_built(owner, verb)


def _ranks(held: Any) -> Ranks | None:
    owner = _owner(held)
    return owner.ranks(held) if owner else None


def _values(held: Any) -> Mapping[str, Any]:
    if (owner := _owner(held)) is not None:
        return owner.values(held)
    from seedbed.store import Tensor

    strange = [p for p, v in held.items() if not (hasattr(v, "dtype") and hasattr(v, "shape"))]
    if strange:
        raise InputError(
            f"check: {strange[0]!r} is not an array, but {type(held[strange[0]]).__name__}.",
            remedy="Give a mapping of paths to arrays; from a training checkpoint, the part that is the state dict.",
        )
    return {path: Tensor(str(array.dtype), tuple(array.shape), array) for path, array in held.items()}
