"""A checkpoint takes the place of another: all of its files, or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from seedbed.store.aside import Aside, aside, sync
from seedbed.store.files import EARLIER, GATE, REPLACING, File, Files


def exchange(made: Files, write: Callable[[File, int], None]) -> None:
    """Write every file aside, then put all in the place of what stands there.

    Args:
        made: The files, and where they go.
        write: Called with each file and what is open to write it into.

    Raises:
        OutputError: Another process is doing the same.
    """
    placed: list[tuple[Path, Path]] = []
    with Aside(made.index, GATE):  # whoever holds it is the only one that replaces here
        try:
            for file in made.files:
                placed.append((aside(file.path, REPLACING), file.path))
                with Aside(file.path, REPLACING) as there:
                    write(file, there.descriptor)
                    there.leave()
            if made.indexed is not None:
                placed.append((aside(made.index, REPLACING), made.index))
                with Aside(made.index, REPLACING) as there:
                    there.write(made.indexed)
                    there.leave()
            _swap(placed, made.standing())
            sync(made.folder)
        except BaseException:
            for path, _ in placed:
                path.unlink(missing_ok=True)
            raise


def _swap(made: Sequence[tuple[Path, Path]], earlier: Sequence[Path]) -> None:
    """The earlier index goes first and the new one comes last: a folder with an index is whole at any moment."""
    held: list[tuple[Path, Path]] = []
    placed: list[Path] = []
    try:
        if len(made) > 1 or list(earlier) != [made[0][1]]:
            for old in earlier:
                held.append((aside(old, EARLIER), old))
                os.replace(old, held[-1][0])
        for path, final in made:
            placed.append(final)
            os.replace(path, final)
    except BaseException:
        for final in placed if held or len(made) > 1 else []:
            if not final.is_dir():
                final.unlink(missing_ok=True)
        for path, old in reversed(held):
            if path.exists():
                os.replace(path, old)
        raise
    for path, _ in held:
        path.unlink(missing_ok=True)
