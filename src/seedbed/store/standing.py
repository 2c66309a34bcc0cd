"""What stands where a checkpoint is to be written."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from seedbed.errors import OutputError, columns, count, printable, shown
from seedbed.store.files import Files
from seedbed.store.names import ABOUT, LARGEST_HEADER


def refused(target: Path, made: Files, others: Sequence[Path], *, replace: bool, several: bool) -> OutputError:
    """The error of writing over another model, unasked or by several processes.

    Args:
        target: As it was given.
        made: What was to be written.
        others: What is in the way.
        replace: Whether it was to be replaced.
        several: Whether several processes were to write.
    """
    found = [f"{printable(p.name)}: {_found(p, made)}" for p in others]
    expected = f"fingerprint {made.fingerprint}, in {count(len(made.files), 'file')}"
    rows = [("expected" * (not n), expected) for n in range(1)]
    rows += [("found" * (not n), line) for n, line in enumerate(shown(found))]
    return OutputError(
        f"{target}: holds another model" + (", which several processes cannot replace." if replace else "."),
        facts=columns(rows),
        remedy="Remove it first, give another place, or let one process alone replace it."
        if several
        else "Give another place, or replace it: replace=True, on the command line\n    --replace",
        path=str(target),
        paths=tuple(others),
    )


def _found(path: Path, made: Files) -> str:
    if path == made.index:
        return "an index of other files"
    if not path.is_file() or not os.access(path, os.R_OK):
        return "not a file that can be read"
    fingerprint = _fingerprint(path)
    if fingerprint is None:
        return "not written by seedbed"
    if fingerprint != made.fingerprint:
        return f"fingerprint {printable(fingerprint)}"
    whole = path not in [file.path for file in made.files]
    return "of this plan, " + ("which is now cut into other files" if whole else "but not whole")


def _fingerprint(path: Path) -> str | None:
    """The fingerprint that a file's metadata holds; None where there is none to be read."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            found = json.loads(file.read(length))[ABOUT]["seedbed.fingerprint"] if length <= LARGEST_HEADER else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error):  # a file of anybody's
        return None
    return found if isinstance(found, str) else None
