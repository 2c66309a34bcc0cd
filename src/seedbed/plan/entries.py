"""A plan and its entries: data that prints, compares, and goes to JSON and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from seedbed import table
from seedbed.errors import PlanError, SeedbedError, count, no_path
from seedbed.initializers import Initializer, Keep, Native, from_dict
from seedbed.spec import UNREADABLE, ParamSpec, Settled, remarks, settled_from, unknown_sizes, unreadable

VERSION = 1
"""Of the contract of the numbers (docs/determinism.md)."""

Key = tuple[int, int, int, int]


def key(seed: int, parts: Sequence[str]) -> Key:
    """The four 32-bit words that key one parameter's numbers.

    BLAKE2b-128 over the seed (8 bytes), the number of parts (8 bytes) and each part in UTF-8 with its
    length (8 bytes) before it; integers little-endian.

    Example:
        >>> key(0, ("ab", "c")) != key(0, ("a", "bc"))
        True
    """
    import hashlib

    digest = hashlib.blake2b(seed.to_bytes(8, "little") + len(parts).to_bytes(8, "little"), digest_size=16)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    raw = digest.digest()
    a, b, c, d = (int.from_bytes(raw[i : i + 4], "little") for i in (0, 4, 8, 12))
    return a, b, c, d


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a plan: a parameter and how it starts.

    Args:
        spec: The parameter.
        initializer: As the rule has it.
        start: The same without fans, which is what is filled; `None` while a size it needs is unknown.
        why: The rule, or where the framework's own start was read.
        stream: The name its numbers are keyed by.
        seed: The user's integer.
    """

    spec: ParamSpec
    initializer: Initializer
    start: Initializer | None
    why: str
    stream: str
    seed: int

    @cached_property
    def key(self) -> Key:
        """Derived from seed and stream."""
        return key(self.seed, self.stream.split("."))

    @cached_property
    def numbered(self) -> ParamSpec:
        """Its spec, with the layout that its numbers follow: it is a part of a whole where it shares a stream."""
        layout = self.spec.layout
        if layout is None or not layout.partial or self.stream != self.spec.path:
            return self.spec
        return dataclasses.replace(self.spec, layout=layout.alone)

    @property
    def settled(self) -> bool:
        """Whether its sizes and its start are known."""
        return self.spec.known and self.start is not None

    @property
    def kept(self) -> bool:
        """Whether the values that are there stay."""
        return self.start == Keep(values=True)

    @property
    def shown_start(self) -> str:
        """The start as a table says it."""
        if self.kept:
            return "the values it has"
        if self.start is None:
            return "as its layer starts it" if self.initializer == Keep() else str(self.initializer)
        if self.start == self.initializer or self.initializer == Keep():
            return str(self.start)
        return f"{self.initializer}: {self.start}"


@dataclass(frozen=True)
class Plan:
    """What will happen to every parameter and buffer, in the model's order.

    Args:
        entries: One per parameter or buffer that owns memory.
        seed: The user's integer.
        recipe: The recipe's name; empty for the framework's own start.
        framework: The framework of the model it was made from.
        settled: What the dry run settled in lazy layers.
    """

    entries: tuple[Entry, ...]
    seed: int = 0
    recipe: str = ""
    framework: str = ""
    settled: tuple[Settled, ...] = field(default=())

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, path: str) -> Entry:
        """The entry at `path`, which may be one of its aliases."""
        if path in self.paths:
            return self.paths[path]
        raise no_path("plan", path, self.paths)

    @cached_property
    def paths(self) -> Mapping[str, Entry]:
        """The entry at every path, ties and views included."""
        return {p: e for e in reversed(self.entries) for p in e.spec.paths}

    @property
    def unknown(self) -> tuple[str, ...]:
        """Paths whose sizes are not all settled."""
        return tuple(e.spec.path for e in self.entries if not e.settled)

    def require_known(self) -> None:
        """Raise `UnknownSizeError` unless every size is settled."""
        specs = [e.spec for e in self.entries if not e.settled]
        if specs:
            raise unknown_sizes(specs)

    def materialize(self, model: Any, **options: Any) -> Any:
        """`seedbed.materialize(self, model, **options)`."""
        import seedbed

        return seedbed.materialize(self, model, **options)

    def fingerprint(self) -> str:
        """128 bits, in hexadecimal, of all that decides the numbers: two equal ones start equal.

        Names of recipes and rules, layers and origins are not part of it.
        """
        import hashlib

        rows = [
            [
                *(e.spec.path, e.spec.shape, e.spec.dtype, e.spec.axes, e.stream, _decisive(e), list(e.spec.paths[1:])),
                *(dataclasses.astuple(e.numbered.layout) if e.numbered.layout else ()),
            ]
            for e in self.entries
        ]
        text = json.dumps([VERSION, self.seed, rows], sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> str:
        """JSON text, read back by `from_json`."""
        entries = [
            {
                "spec": e.spec.to_dict(),
                "initializer": e.initializer.to_dict(),
                "start": _plain(e.start),
                "why": e.why,
                **({"stream": e.stream} if e.stream != e.spec.path else {}),
            }
            for e in self.entries
        ]
        data = {
            "seedbed": VERSION,
            "seed": self.seed,
            "recipe": self.recipe,
            "framework": self.framework,
            "fingerprint": self.fingerprint(),
            "settled": [dataclasses.asdict(s) for s in self.settled],
            "entries": entries,
        }
        return json.dumps(data, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`.

        Raises:
            PlanError: The text is not a plan, is of another version, or was changed since it was written.
        """
        try:
            data = json.loads(text)
            if data["seedbed"] != VERSION:
                raise PlanError(
                    "The plan is of a version that this seedbed does not read.",
                    facts=[f"expected  {VERSION}", f"got       {data['seedbed']!r}"],
                    remedy="Make the plan again, from the model and the recipe.",
                )
            entries = []
            for e in data["entries"]:
                spec = ParamSpec.from_dict(e["spec"])
                start = from_dict(e["start"]) if e["start"] is not None else None
                entries.append(
                    Entry(
                        spec=spec,
                        initializer=from_dict(e["initializer"]),
                        start=start,
                        why=e["why"],
                        stream=e.get("stream", spec.path),
                        seed=data["seed"],
                    )
                )
            settled = settled_from(data["settled"])
            plan = cls(tuple(entries), data["seed"], data["recipe"], data["framework"], settled)
            written, found = data["fingerprint"], plan.fingerprint()
        except SeedbedError:
            raise
        except UNREADABLE as error:
            raise unreadable("a plan", error) from None
        if found != written:
            raise PlanError(
                "The plan was changed since it was written: its fingerprint differs.",
                facts=[f"written  {written}", f"found    {found}"],
                remedy="Change the recipe and make the plan again, from the model and the recipe.",
            )
        return plan

    def table(self, *, fold: bool | None = None, width: int | None = None) -> str:
        """Columns of text; `fold` writes rows that differ in a number only as one (by default when many)."""
        rows = [[e.spec.path, e.spec.shown_shape, e.spec.dtype, e.shown_start, e.why, remarks(e.spec)] for e in self]
        rows = table.fold(rows) if (len(rows) > table.MANY if fold is None else fold) else rows
        return table.table(["parameter", "shape", "dtype", "starts as", "because", "remarks"], rows, width=width)

    @property
    def summary(self) -> str:
        """One line: how many, how much, which seed, the fingerprint."""
        known = [e.spec for e in self if e.settled]
        parts = [count(sum(s.count for s in known if s.kind == "parameter"), "value")]
        parts += [table.size(sum(s.nbytes for s in known))]
        if len(known) < len(self):
            parts += [count(len(self) - len(known), "parameter") + " not settled yet"]
        kept = sum(e.kept for e in self)
        parts += [f"{kept:,} with the values they have"] if kept else []
        arrays = count(len(self), "parameter or buffer", "parameters and buffers")
        return f"{arrays}: {', '.join(parts)}; seed {self.seed}, fingerprint {self.fingerprint()}"

    def __str__(self) -> str:
        return f"{self.table()}\n{self.summary}"

    def diff(self, other: Plan) -> Difference:
        """What would start otherwise under `other`."""
        mine, theirs = ({e.spec.path: e for e in plan} for plan in (self, other))
        rows = []
        for path in [*mine, *(p for p in theirs if p not in mine)]:
            a, b = mine.get(path), theirs.get(path)
            if a is None or b is None:
                rows.append((path, "present", "" if a is None else "yes", "" if b is None else "yes"))
                continue
            for what, left, right in (
                ("shape", a.spec.shown_shape, b.spec.shown_shape),
                ("dtype", a.spec.dtype, b.spec.dtype),
                ("stream", a.stream, b.stream),
                ("seed", str(a.seed), str(b.seed)),
                ("ties", ", ".join(a.spec.paths[1:]), ", ".join(b.spec.paths[1:])),
            ):
                if left != right:
                    rows.append((path, what, left, right))
            if a.start != b.start or (a.start is None and a.initializer != b.initializer):
                left, right = a.shown_start, b.shown_start
                exact = repr(a.start), repr(b.start)  # when the difference is beyond the digits of a table
                rows.append((path, "starts as", *((left, right) if left != right else exact)))
        return Difference(tuple(rows))


@dataclass(frozen=True)
class Difference:
    """Rows of path, what differs, here, there; false when there are none."""

    rows: tuple[tuple[str, str, str, str], ...]

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __str__(self) -> str:
        if not self.rows:
            return "The plans are equal."
        return table.table(["parameter", "what", "this plan", "the other"], [list(r) for r in self.rows])


def _plain(start: Initializer | None) -> Any:
    return None if start is None else start.to_dict()


def _decisive(entry: Entry) -> Any:
    """What decides an entry's numbers: its start, or what was asked while sizes are unknown."""
    if entry.start is not None:
        return _floats(entry.start.to_dict())
    asked = entry.initializer
    return ["asked", str(asked) if isinstance(asked, Native) else _floats(asked.to_dict())]


def _floats(value: Any) -> Any:
    """Plain data in which 1 and 1.0 are one: initializers that are equal have one fingerprint."""
    if isinstance(value, dict):
        return {k: _floats(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_floats(v) for v in value]
    exact = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53
    return float(value) if exact else value
