"""A plan and its entries: data that prints, compares, and goes to JSON and back."""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from seedbed import table
from seedbed.errors import PlanError, SeedbedError, count, no_path, quoted
from seedbed.initializers import Initializer, Keep, Native, from_dict
from seedbed.spec import UNREADABLE, Cut, ParamSpec, Settled, remarks, settled_from, unknown_sizes, unreadable

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


def seed_of(seed: Any) -> int:
    """The user's integer.

    Raises:
        PlanError: It is none, or out of range.

    Example:
        >>> seed_of(7)
        7
    """
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**64:
        raise PlanError(f"seed: must be a whole number from 0 to 2**64 - 1, got {quoted(seed)}.", seed=seed)
    return number


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a plan: a parameter and how it starts.

    Args:
        spec: The parameter.
        initializer: As the rule has it.
        start: The same without fans, which is what is filled; `None` while a size it needs is unknown, and
            where there are parts.
        why: The rule, or where the framework's own start was read.
        stream: The name its numbers are keyed by.
        seed: The user's integer.
        parts: The logical parameters that it holds, each with its place and an entry of its own; together
            they are all of it.
    """

    spec: ParamSpec
    initializer: Initializer
    start: Initializer | None
    why: str
    stream: str
    seed: int
    parts: tuple[tuple[Cut, Entry], ...] = ()

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
        started = all(part.settled for _, part in self.parts) if self.parts else self.start is not None
        return self.spec.known and started

    @cached_property
    def whole(self) -> bool:
        """Whether some of its values cannot be computed without others."""
        return any(part.whole for _, part in self.parts) or (self.start is not None and self.start.whole)

    @property
    def kept(self) -> bool:
        """Whether the values that are there stay."""
        return self.start == Keep(values=True)

    @property
    def shown_start(self) -> str:
        """The start as a table says it."""
        if self.kept:
            return "the values it has"
        if self.parts:
            return "in parts"
        if self.start is None:
            return "as its layer starts it" if self.initializer == Keep() else str(self.initializer)
        if self.start == self.initializer or self.initializer == Keep():
            return str(self.start)
        return f"{self.initializer}: {self.start}"

    def all(self) -> Iterator[Entry]:
        """Itself and what it holds, at every depth."""
        yield self
        for _, part in self.parts:
            yield from part.all()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the seed."""
        return {
            "spec": self.spec.to_dict(),
            "initializer": self.initializer.to_dict(),
            "start": None if self.start is None else self.start.to_dict(),
            "why": self.why,
            **({"stream": self.stream} if self.stream != self.spec.path else {}),
            **({"parts": [{**_plain(cut), "entry": e.to_dict()} for cut, e in self.parts]} if self.parts else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], seed: int) -> Entry:
        """The inverse of `to_dict`."""
        spec = ParamSpec.from_dict(data["spec"])
        return cls(
            spec=spec,
            initializer=from_dict(data["initializer"]),
            start=from_dict(data["start"]) if data["start"] is not None else None,
            why=data["why"],
            stream=data.get("stream", spec.path),
            seed=seed,
            parts=tuple((_cut(part), cls.from_dict(part["entry"], seed)) for part in data.get("parts", ())),
        )


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
        """The entry at `path`, which may be one of its aliases, or of a logical parameter that another holds."""
        found = self.paths.get(path) or next((e for e in self.all() if path in e.spec.paths), None)
        if found is None:
            raise no_path("plan", path, (p for e in self.all() for p in e.spec.paths))
        return found

    def all(self) -> Iterator[Entry]:
        """Every entry, and those of the logical parameters that some hold, after it."""
        for entry in self.entries:
            yield from entry.all()

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

        rows = [_row(e) for e in self.entries]
        text = json.dumps([VERSION, self.seed, rows], sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> str:
        """JSON text, read back by `from_json`."""
        data = {
            "seedbed": VERSION,
            "seed": self.seed,
            "recipe": self.recipe,
            "framework": self.framework,
            "fingerprint": self.fingerprint(),
            "settled": [dataclasses.asdict(s) for s in self.settled],
            "entries": [e.to_dict() for e in self.entries],
        }
        return json.dumps(data, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`.

        Raises:
            PlanError: The text is not a plan, is of another version or has no seed that a plan can have, or was
                changed since it was written.
        """
        try:
            data = json.loads(text)
            if data["seedbed"] != VERSION:
                raise PlanError(
                    "The plan is of a version that this seedbed does not read.",
                    facts=[f"expected  {VERSION}", f"got       {data['seedbed']!r}"],
                    remedy="Make the plan again, from the model and the recipe.",
                )
            seed = seed_of(data["seed"])
            entries = tuple(Entry.from_dict(e, seed) for e in data["entries"])
            settled = settled_from(data["settled"])
            plan = cls(entries, seed, data["recipe"], data["framework"], settled)
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
        rows = [line for e in self for line in _lines(e)]
        rows = table.fold(rows) if (len(rows) > table.MANY if fold is None else fold) else rows
        rows = [[depth + path, *cells] for path, *cells, depth in rows]
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
        mine, theirs = ({e.spec.path: e for e in plan.all()} for plan in (self, other))
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
                ("parts", _shown_parts(a), _shown_parts(b)),
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


def _lines(entry: Entry, depth: str = "") -> Iterator[list[str]]:
    """Rows of a table, at last how far each is set in; what an entry holds follows it."""
    spec = entry.spec
    yield [spec.path, spec.shown_shape, spec.dtype, entry.shown_start, entry.why, remarks(spec), depth]
    for _, part in entry.parts:
        yield from _lines(part, f"{depth}· ")


def _plain(cut: Cut) -> dict[str, Any]:
    """What is not at its default."""
    return {f.name: v for f in dataclasses.fields(cut) if (v := getattr(cut, f.name)) != f.default}


def _cut(data: Mapping[str, Any]) -> Cut:
    kept: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k != "entry"}
    return Cut(**kept)


def _shown_parts(entry: Entry) -> str:
    """Where the logical parameters lie that an entry holds."""
    places = []
    for cut, part in entry.parts:
        where = f"{cut.start}" if cut.dropped else f"{cut.start}:{cut.stop}"
        every = f"every {cut.every} of " if cut.every else ""
        order = f" as {cut.order}" if cut.order else ""
        places.append(f"{part.spec.path} at {where} of {every}axis {cut.axis}{order}")
    return ", ".join(places)


def _row(entry: Entry) -> list[Any]:
    """What decides an entry's numbers, for the fingerprint."""
    spec, layout = entry.spec, entry.numbered.layout
    return [
        *(spec.path, spec.shape, spec.dtype, spec.axes, entry.stream, _decisive(entry), list(spec.paths[1:])),
        *(dataclasses.astuple(layout) if layout else ()),
        *([[dataclasses.astuple(cut), _row(part)] for cut, part in entry.parts]),
    ]


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
