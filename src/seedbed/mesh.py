"""A plan over the devices of a mesh: what each will hold, without one of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

from seedbed import table
from seedbed.errors import PlanError, count, nearest, quoted
from seedbed.plan import Entry, Plan
from seedbed.shard import Shard
from seedbed.spec import ITEMSIZE

Placements = Mapping[str, Mapping[str, int]]
"""For patterns of paths, the axes of a parameter that axes of the mesh cut, in the order in which they do; first match wins."""


@dataclass(frozen=True)
class Division:
    """A plan over the devices of a mesh.

    Args:
        plan: Its sizes settled.
        mesh: The mesh's axes by name, with their sizes; devices are counted with the last axis fastest.
        placements: For patterns of paths, which axis of a parameter each axis of the mesh cuts. Where a parameter is
            cut twice along one axis, the first named is the first to cut, as tensor parallelism is before
            `fully_shard`. What no pattern matches is whole on every device, and so are buffers.

    Raises:
        PlanError: A placement does not fit the mesh or a parameter, or a pattern matches nothing.
    """

    plan: Plan
    mesh: Mapping[str, int]
    placements: Placements

    def __post_init__(self) -> None:
        self.plan.require_known()
        for name, size in self.mesh.items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise PlanError(f"mesh: {name} must have a whole number of devices, 1 or more, got {quoted(size)}.")
        if not self.mesh:
            raise PlanError("mesh: has no axis.", remedy="Name one:\n    mesh={'dp': 8}")
        for pattern, cuts in self.placements.items():
            for name in cuts:
                if name not in self.mesh:
                    raise PlanError(
                        f"placements: {pattern!r}: the mesh has no axis {name!r}.", remedy=nearest(name, self.mesh)
                    )
            paths = [p for e in self.plan for p in e.spec.paths]
            if not any(fnmatchcase(path, pattern) for path in paths):
                raise PlanError(f"placements: {pattern!r}: matches no parameter.", remedy=nearest(pattern, paths))
        for entry in self.plan:
            for name, axis in self.cuts(entry).items():
                if not isinstance(axis, int) or not 0 <= axis < len(entry.spec.shape):
                    raise PlanError(
                        f"placements: {entry.spec.path}: has no axis {axis} for {name} to cut.",
                        facts=[f"shape  {entry.spec.shown_shape}"],
                        remedy=f"Give it a pattern of its own, before the others: {entry.spec.path!r}",
                        path=entry.spec.path,
                    )

    def cuts(self, entry: Entry) -> Mapping[str, int]:
        """Which axes of a parameter the mesh cuts; of buffers, and of what has no axes, none."""
        return self._cuts[entry.spec.path]

    @cached_property
    def _cuts(self) -> Mapping[str, Mapping[str, int]]:
        def first(entry: Entry) -> Mapping[str, int]:
            fits = (c for p, c in self.placements.items() if any(fnmatchcase(path, p) for path in entry.spec.paths))
            return next(fits, {}) if entry.spec.shape and entry.spec.kind == "parameter" else {}

        return {entry.spec.path: first(entry) for entry in self.plan}

    def shard(self, path: str, device: int) -> Shard:
        """What a device of a number will hold of a parameter.

        Raises:
            PlanError: There is no such parameter, or no such device.
        """
        if not 0 <= device < self.devices:
            raise PlanError(f"device: must be from 0 to {self.devices - 1}, got {quoted(device)}.")
        entry = self.plan[path]
        place = dict(zip(self.mesh, _places(device, tuple(self.mesh.values())), strict=True))
        return self._shard(entry, place)

    def _shard(self, entry: Entry, place: Mapping[str, int]) -> Shard:
        shard = Shard.whole(entry.spec.sizes)
        for name, axis in self.cuts(entry).items():
            shard = shard.cut(axis, self.mesh[name], place[name])
        return shard

    @property
    def devices(self) -> int:
        """How many devices the mesh has."""
        return math.prod(self.mesh.values())

    @cached_property
    def nbytes(self) -> tuple[int, ...]:
        """Bytes that each device will hold."""
        totals = [0] * self.devices
        for (shape, size, cuts), number in self._alike.items():
            for device, elements in enumerate(self._counts(shape, dict(cuts))):
                totals[device] += number * elements * size
        return tuple(totals)

    @cached_property
    def _alike(self) -> Mapping[tuple[tuple[int, ...], int, tuple[tuple[str, int], ...]], int]:
        """How many parameters there are of each shape, size of an element, and cuts."""
        found: dict[tuple[tuple[int, ...], int, tuple[tuple[str, int], ...]], int] = {}
        for entry in self.plan:
            kind = entry.spec.sizes, ITEMSIZE[entry.spec.dtype], tuple(self.cuts(entry).items())
            found[kind] = found.get(kind, 0) + 1
        return found

    def _counts(self, shape: tuple[int, ...], cuts: Mapping[str, int]) -> list[int]:
        """Elements on each device: one count for all that stand at one place of the axes that cut."""
        known: dict[tuple[int, ...], int] = {}
        counts = []
        for place in itertools.product(*(range(n) for n in self.mesh.values())):
            at = dict(zip(self.mesh, place, strict=True))
            key = tuple(at[name] for name in cuts)
            if key not in known:
                shard = Shard.whole(shape)
                for name, axis in cuts.items():
                    shard = shard.cut(axis, self.mesh[name], at[name])
                known[key] = shard.count
            counts.append(known[key])
        return counts

    def table(self, *, fold: bool | None = None, width: int | None = None) -> str:
        """Columns of text: each parameter, how it is cut, and the largest and smallest shard of it."""
        rows = []
        for entry in self.plan:
            cuts = self.cuts(entry)
            corners = [dict(zip(self.mesh, place, strict=True)) for place in _corners(tuple(self.mesh.values()))]
            shapes = sorted({self._shard(entry, c).shape for c in corners}, key=lambda s: (-math.prod(s), s))
            words = ", ".join(f"{name}: {axis}" for name, axis in cuts.items()) or "whole"
            nbytes = table.size(math.prod(shapes[0]) * ITEMSIZE[entry.spec.dtype])
            ends = " to ".join(str(s) for s in dict.fromkeys((shapes[0], shapes[-1])))
            rows.append([entry.spec.path, entry.spec.shown_shape, entry.spec.dtype, words, ends, nbytes])
        rows = table.fold(rows) if (len(rows) > table.MANY if fold is None else fold) else rows
        return table.table(["parameter", "shape", "dtype", "cut by", "a device holds", "at most"], rows, width=width)

    def devices_table(self, *, width: int | None = None) -> str:
        """Columns of text: devices, and what each holds in all; those that hold as much as another together."""
        groups: dict[int, list[int]] = {}
        for device, nbytes in enumerate(self.nbytes):
            groups.setdefault(nbytes, []).append(device)
        rows = [[table.numbers(who), table.size(nbytes), f"{nbytes:,}"] for nbytes, who in groups.items()]
        return table.table(["devices", "each holds", "bytes"], rows, width=width)

    @property
    def summary(self) -> str:
        """One line."""
        whole = sum(e.spec.nbytes for e in self.plan)
        sizes = ", ".join(f"{name}={size}" for name, size in self.mesh.items())
        most, least = max(self.nbytes), min(self.nbytes)
        held = table.size(most) if most == least else f"{table.size(least)} to {table.size(most)}"
        parts = [f"{table.size(whole)} over {count(self.devices, 'device')} ({sizes})", f"{held} each"]
        return f"{', '.join(parts)}; {sum(self.nbytes) / max(whole, 1):.2f} times the whole in all"

    def __str__(self) -> str:
        return f"{self.table()}\n{self.devices_table()}\n{self.summary}"


def divide(plan: Plan, mesh: Mapping[str, int], placements: Placements | None = None) -> Division:
    """What each device of a mesh will hold, without one of them.

    Args:
        plan: Its sizes settled.
        mesh: As for `Division`.
        placements: As for `Division`; without them, the first axis of the mesh cuts the first axis of everything
            that has one, as `fully_shard` does.

    Returns:
        What prints as a table, and tells the shard of any device.

    Raises:
        PlanError: A placement does not fit the mesh or a parameter, or a pattern matches nothing.

    Example:
        >>> import seedbed, torch
        >>> net = torch.nn.Linear(6, 9, bias=False, device="meta")
        >>> division = divide(seedbed.plan(net), {"dp": 2, "tp": 2}, {"*": {"tp": 0, "dp": 0}})
        >>> division.shard("weight", 3).runs, division.nbytes
        ((((7, 9),), ((0, 6),)), (72, 48, 48, 48))
    """
    if placements is None:
        placements = {"*": dict.fromkeys(list(mesh)[:1], 0)}
    return Division(plan, dict(mesh), placements)


def _places(device: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    place = []
    for size in reversed(sizes):
        device, here = divmod(device, size)
        place.append(here)
    return tuple(reversed(place))


def _corners(sizes: tuple[int, ...]) -> itertools.product[tuple[int, ...]]:
    """The first and the last place along each axis, where the largest and the smallest shard are."""
    return itertools.product(*({0, n - 1} for n in sizes))


def mesh_of(text: str) -> dict[str, int]:
    """A mesh from text.

    Raises:
        PlanError: The text is none.

    Example:
        >>> mesh_of("dp=8,tp=2")
        {'dp': 8, 'tp': 2}
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)=(\d+)\s*", part, re.ASCII)
        if not match or match[1] in found:
            raise PlanError(
                f"mesh: {text!r} is not a mesh: {'an axis stands in it twice' if match else 'an axis needs a name and a size'}.",
                remedy="Write each axis of the mesh once, with its size, the slowest first:\n    dp=8,tp=2",
            )
        found[match[1]] = int(match[2])
    return found


def placements_of(texts: Iterable[str]) -> dict[str, dict[str, int]]:
    """Placements from texts, such as `*.up.weight=tp:0,dp:0`; `whole` in place of the cuts for none.

    Raises:
        PlanError: A text is none.

    Example:
        >>> placements_of(["*.up.weight=tp:0,dp:0", "*.norm.*=whole", "*=dp:0"])
        {'*.up.weight': {'tp': 0, 'dp': 0}, '*.norm.*': {}, '*': {'dp': 0}}
    """
    found: dict[str, dict[str, int]] = {}
    for text in texts:
        pattern, sign, cuts = text.rpartition("=")
        pairs = [] if cuts == "whole" else [cut.strip().partition(":") for cut in cuts.split(",")]
        names = [name for name, _, _ in pairs]
        if not sign or not pattern or not all(n and a.isdecimal() for n, _, a in pairs) or len(set(names)) < len(names):
            raise PlanError(
                f"placements: {text!r} is not a pattern and its cuts.",
                remedy="Write a pattern of paths, then each axis of the mesh and the axis it cuts, in the order of cutting:\n"
                "    '*.up.weight=tp:0,dp:0'  '*.norm.*=whole'",
            )
        found.setdefault(pattern, {name: int(axis) for name, _, axis in pairs})
    return found
