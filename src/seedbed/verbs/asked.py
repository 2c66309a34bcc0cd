"""What verbs share: the judging of arguments, and the bar."""

from __future__ import annotations

import os
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Union

from seedbed.errors import CaptureError, InputError, PlanError, quoted
from seedbed.frameworks import Framework, framework_of
from seedbed.materialize import Progress
from seedbed.plan import Plan

ProgressLike = Union[bool, Progress, None]
LONG = 256_000_000
"""Bytes from which a bar is shown on a terminal unless told otherwise."""

TAKES = {
    "apply_init": "apply_init(model, inputs, ...)",
    "check": "check(model_or_path, plan)",
    "fingerprint": "fingerprint(plan, model)",
    "materialize": "materialize(plan, model)",
    "write": "write(plan, path)",
}
"""How verbs are called whose first argument is no model, or not only."""


def require_plan(plan: object, verb: str) -> None:
    """Raise `PlanError` when something else stands where a plan belongs."""
    if not isinstance(plan, Plan):
        raise PlanError(
            f"{verb}: a Plan is needed, got {type(plan).__name__}.", remedy=f"Call it as seedbed.{TAKES[verb]}"
        )


def owner_of(model: object, verb: str) -> Framework:
    """The framework that owns a model whose construction has ended.

    Raises:
        ModelError: None does.
        CaptureError: The model is still being recorded.
    """
    framework = framework_of(model)
    require_built(framework, verb)
    return framework


def require_built(framework: Framework, verb: str) -> None:
    """Raise `CaptureError` inside `deferred()`: how a model starts is known when its construction has ended."""
    if framework.recording():
        raise CaptureError(
            f"{verb}: cannot be done inside deferred(), which records what is done instead of doing it.",
            remedy="Leave the block first:\n"
            f"    with seedbed.deferred():\n        model = ...\n    seedbed.{TAKES.get(verb, f'{verb}(model, ...)')}",
        )


def number_of_bytes(size: int | str) -> int:
    """`"5GB"` as a number; decimal units, or binary with an i.

    Example:
        >>> number_of_bytes("5GB"), number_of_bytes("1KiB"), number_of_bytes(7)
        (5000000000, 1024, 7)
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?\s*", str(size))
    if not match or float(match[1]) <= 0:
        raise PlanError(f"shard_size: must be a number of bytes above 0, such as '5GB', got {size!r}.")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def number_of_process(process: object) -> tuple[int, int]:
    """One of several processes: its number, from 0, and how many there are.

    Example:
        >>> number_of_process((1, 4))
        (1, 4)
    """
    if isinstance(process, (tuple, list)) and len(process) == 2:
        rank, of = process
        if all(isinstance(n, int) and not isinstance(n, bool) for n in process) and 0 <= rank < of:
            return rank, of
    raise InputError(
        f"process: must be (rank, of), whole numbers with 0 <= rank < of, got {quoted(process)}.",
        remedy="The first of four processes is process=(0, 4), the last is process=(3, 4).",
    )


def process_told(text: str | None) -> tuple[int, int]:
    """Which process of how many, as the option says, or the environment that torchrun makes."""
    if text is not None:
        given, parts, named = f"--process {text!r}", text.split("/"), "--process R/N"
    else:
        set_ = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE") if name in os.environ}
        if not set_:
            return 0, 1
        given, parts, named = ", ".join(f"{k}={v}" for k, v in set_.items()), list(set_.values()), "RANK and WORLD_SIZE"
    if len(parts) == 2 and all(re.fullmatch(r"\d{1,9}", p, re.ASCII) for p in parts) and int(parts[0]) < int(parts[1]):
        return int(parts[0]), int(parts[1])
    raise InputError(
        f"{given}: does not say which process this is, of how many.",
        remedy=f"Give {named} two whole numbers: the first process of four is 0 of 4, the last is 3 of 4; "
        "one process alone is\n    --process 0/1",
    )


def shown(progress: ProgressLike, total: int, what: str) -> AbstractContextManager[Progress | None]:
    """A bar where one is asked for, or a long job runs on a terminal."""
    if callable(progress):
        return nullcontext(progress)
    if progress or (progress is None and total >= LONG and sys.stderr.isatty()):
        from seedbed.reports.terminal import bar

        return bar(total, what)
    return nullcontext(None)
