"""The files that a plan becomes: their names, what each holds, the bytes each begins with, and the index."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seedbed.initializers import Custom, Initializer, Loaded, Overlay
from seedbed.plan import Entry, Plan
from seedbed.spec import ITEMSIZE
from seedbed.store.names import ABOUT, FORMAT, NAMES

PARTIAL, REPLACING, EARLIER, GATE = KINDS = ("partial", "replacing", "earlier", "gate")
"""Files being written; those of a checkpoint that takes another's place; those that make room for it; and
what is locked meanwhile."""


@dataclass(frozen=True)
class File:
    """One file of a checkpoint, as the plan decides it.

    Args:
        path: Its name when it is whole.
        entries: What it holds.
        header: The bytes it begins with, which hold the plan's fingerprint.
        places: Where each parameter begins in it.
    """

    path: Path
    entries: tuple[Entry, ...]
    header: bytes
    places: Mapping[str, int]

    @cached_property
    def size(self) -> int:
        """In bytes, the header with them."""
        return len(self.header) + sum(e.spec.nbytes for e in self.entries)

    @property
    def made(self) -> int:
        """Bytes whose values the plan makes."""
        return sum(e.spec.nbytes for e in self.entries if not e.kept)

    @property
    def decided(self) -> bool:
        """Whether equal headers mean equal values: none comes from a model, a function or another file."""
        return not any(e.kept or _foreign(e.start) for e in self.entries)

    def whole(self) -> bool:
        """Whether it stands under its name, of this very plan and of its size."""
        try:
            found = self.path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size != self.size:
                return False
            with self.path.open("rb") as file:
                return file.read(len(self.header)) == self.header
        except OSError:  # it is not there, or cannot be read
            return False

    @property
    def missing(self) -> bool:
        """Whether it is to be written, also over one of the same header."""
        return not (self.decided and self.whole())


@dataclass(frozen=True)
class Files:
    """A checkpoint: one file, or several and an index."""

    folder: Path
    stem: str
    files: tuple[File, ...]
    fingerprint: str

    @property
    def index(self) -> Path:
        """The name of the index, whether there is to be one or not."""
        return self.folder / f"{self.stem}.safetensors.index.json"

    @cached_property
    def indexed(self) -> bytes | None:
        """The bytes of the index; None where one file holds all."""
        if len(self.files) == 1:
            return None
        where = {e.spec.path: f.path.name for f in self.files for e in f.entries}
        total = sum(e.spec.nbytes for f in self.files for e in f.entries)
        data = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        return json.dumps(data, indent=2).encode()

    def index_whole(self) -> bool:
        """Whether the index stands there and is this one."""
        try:
            return self.indexed is not None and self.index.is_file() and self.index.read_bytes() == self.indexed
        except OSError:
            return False

    def standing(self) -> list[Path]:
        """Everything there under a name that a checkpoint of this name may have, the index first."""
        own = re.compile(re.escape(self.stem) + r"(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
        found = [self.folder / n for n in _listed(self.folder) if (m := own.fullmatch(n)) and not (m[1] and m[2])]
        return sorted(found, key=lambda p: (p != self.index, p.name))

    def others(self) -> list[Path]:
        """What of it is not a whole file of this plan."""
        own = {file.path: file for file in self.files}
        return [
            p for p in self.standing() if not (self.index_whole() if p == self.index else p in own and own[p].whole())
        ]

    def asides(self) -> list[Path]:
        """What writers of this name are at, or left behind, beside it."""
        kinds = re.compile(r"\." + re.escape(self.stem) + r"(-\d+-of-\d+)?\.safetensors(\.index\.json)?\.(\w+)")
        return [self.folder / n for n in _listed(self.folder) if (m := kinds.fullmatch(n)) and m[3] in KINDS]


def files_of(plan: Plan, entries: Sequence[Entry], folder: Path, stem: str, shard_size: int) -> Files:
    """The files that entries of a plan become."""
    shards = _shards(entries, shard_size)
    names = [f"{stem}-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    names = [f"{stem}.safetensors"] if len(shards) == 1 else names
    fingerprint = plan.fingerprint()
    made = []
    for name, shard in zip(names, shards, strict=True):
        header, places = _header(shard, plan, fingerprint)
        made.append(File(folder / name, tuple(shard), header, places))
    return Files(folder, stem, tuple(made), fingerprint)


def _foreign(start: Initializer | None) -> bool:
    """Whether a start's values are those of a function or a file that bears the same name another day."""
    return any(map(_foreign, start.parts)) if isinstance(start, Overlay) else isinstance(start, (Custom, Loaded))


def _listed(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _shards(entries: Sequence[Entry], most: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.spec.nbytes > most:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.spec.nbytes
    return shards


def _header(entries: Sequence[Entry], plan: Plan, fingerprint: str) -> tuple[bytes, dict[str, int]]:
    """The file's header and where each parameter begins in the file; widest dtype first keeps all aligned."""
    order = sorted(entries, key=lambda e: (-ITEMSIZE[e.spec.dtype], e.spec.path))
    ties = {alias: e.spec.path for e in entries for alias in e.spec.aliases}
    about = {
        **ties,
        "format": FORMAT.get(plan.framework, "np"),
        "seedbed.fingerprint": fingerprint,
        "seedbed.seed": str(plan.seed),
    }
    header: dict[str, Any] = {ABOUT: about}
    places, offset = {}, 0
    for entry in order:
        spec = entry.spec
        places[spec.path] = offset
        header[spec.path] = {
            "dtype": NAMES[spec.dtype],
            "shape": list(spec.sizes),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    base = 8 + len(raw)
    return struct.pack("<Q", len(raw)) + raw, {path: base + place for path, place in places.items()}
