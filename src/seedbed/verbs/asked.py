"""What verbs share: the judging of arguments, and the bar."""

from __future__ import annotations

import re
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Union

from seedbed.errors import PlanError
from seedbed.materialize import Progress
from seedbed.plan import Plan

ProgressLike = Union[bool, Progress, None]
LONG = 256_000_000
"""Bytes from which a bar is shown on a terminal unless told otherwise."""


def require_plan(plan: object, verb: str) -> None:
    """Raise `PlanError` when something else stands where a plan belongs."""
    if not isinstance(plan, Plan):
        takes = {
            "fingerprint": "fingerprint(plan)",
            "check": "check(model_or_path, plan)",
            "write": "write(plan, path)",
        }.get(verb, "materialize(plan, model)")
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


def shown(progress: ProgressLike, total: int, what: str) -> AbstractContextManager[Progress | None]:
    """A bar where one is asked for, or a long job runs on a terminal."""
    if callable(progress):
        return nullcontext(progress)
    if progress or (progress is None and total >= LONG and sys.stderr.isatty()):
        from seedbed.reports.terminal import bar

        return bar(total, what)
    return nullcontext(None)
