"""A checkpoint to start from: what it holds of a model, and what does not fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from seedbed.errors import CheckpointError, columns, shown
from seedbed.initializers import Loaded
from seedbed.spec import ParamSpec, Specs
from seedbed.store.load import Tensor, load


def fitted(specs: Specs, path: str | os.PathLike[str], leave: Sequence[str] = ()) -> Iterator[tuple[str, Loaded]]:
    """Each path that the checkpoint has values for, with them.

    Args:
        specs: What exists; sizes that are unknown take nothing.
        path: A `.safetensors` file, an index, or a folder.
        leave: Patterns of names in the checkpoint to leave out.

    Raises:
        CheckpointError: A name is not one of the model's, a shape or dtype differs, or a pattern leaves
            nothing out. All are listed, those of the model that get nothing beside them.
    """
    held, shown_path = load(path), os.fspath(path)
    left = {pattern: [n for n in held if fnmatchcase(n, pattern)] for pattern in leave}
    idle = [pattern for pattern, names in left.items() if not names]
    if idle:
        raise CheckpointError(
            f"leave: {idle[0]!r} leaves nothing out of {shown_path}.", facts=shown(sorted(held)), pattern=idle[0]
        )
    skipped = {n for names in left.values() for n in names}
    paths = {p: spec for spec in specs for p in (*spec.paths, *spec.views)}
    strange = [n for n in held if n not in paths and n not in skipped]
    wrong = [(n, why) for n in held if n in paths and n not in skipped and (why := _misfit(paths[n], n, held[n]))]
    if strange or wrong:
        raise _unfit(specs, shown_path, held, skipped, strange, wrong)
    for spec in specs:
        name = next((p for p in spec.paths if p in held and p not in skipped), None)
        if name is not None:
            yield spec.path, Loaded(file=shown_path, tensor=name, array=held[name].array)


def _misfit(spec: ParamSpec, name: str, tensor: Tensor) -> str:
    """Why an array cannot be a parameter's values, if it cannot."""
    if name in spec.views:  # what it is a view of is in the checkpoint, or starts as planned
        return ""
    if not spec.known or tensor.shape != spec.sizes:
        return f"{tensor.shape} there, {spec.shown_shape} in the model"
    return "" if tensor.dtype == spec.dtype else f"{tensor.dtype} there, {spec.dtype} in the model"


def _unfit(
    specs: Specs,
    path: str,
    held: dict[str, Tensor],
    skipped: set[str],
    strange: Sequence[str],
    wrong: Sequence[tuple[str, str]],
) -> CheckpointError:
    import difflib

    without = [s.path for s in specs if s.persistent and not any(p in held and p not in skipped for p in s.paths)]

    def near(name: str, known: Sequence[str]) -> str:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        return f"near {close[0]}" if close else ""

    facts = shown(columns([(n, why) for n, why in wrong])) if wrong else []
    if strange:
        facts += [
            "only in the checkpoint:",
            *(f"    {x}" for x in shown(columns([(n, near(n, without)) for n in strange]))),
        ]
    if without and strange:
        facts += ["only in the model:", *(f"    {x}" for x in shown(columns([(n, near(n, strange)) for n in without])))]
    count = len(strange) + len(wrong)
    first = strange[0] if strange else wrong[0][0]
    return CheckpointError(
        f"{path}: {f'{count} of its arrays do' if count > 1 else f'{first} does'} not fit the model.",
        facts=facts,
        remedy=f"To start without them, leave them out:\n    leave=[{first!r}, ...]      --leave {first!r} ...",
        names=(*strange, *(n for n, _ in wrong)),
    )
