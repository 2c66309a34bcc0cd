"""Plans on disk, and values against plans."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seedbed.check import Findings
from seedbed.errors import InputError
from seedbed.frameworks import framework_of, loaded
from seedbed.plan import Plan
from seedbed.verbs.asked import ProgressLike, number_of_bytes, require_plan, shown


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
        framework_of(model).fit(plan, model)
        held = dict(framework_of(model).values(model))
    total = sum(e.spec.nbytes for e in plan if e.settled and e.spec.persistent and not e.kept)
    with shown(progress, total, "writing") as report:
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
        >>> import seedbed, torch
        >>> net = torch.nn.Linear(2, 2)
        >>> made = seedbed.plan(net)
        >>> bool(seedbed.check(seedbed.materialize(made, net), made))
        True
        >>> with torch.no_grad(): _ = net.weight[0, 0].fill_(42)
        >>> seedbed.check(net, made)["weight"].differing
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
    with shown(progress, sum(e.spec.nbytes for e in plan if e.settled and not e.kept), "checking") as report:
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
