"""Stage 7: what did happen. Values against a plan, to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from seedbed import table
from seedbed.errors import count, no_path
from seedbed.materialize import BLOCK, Progress
from seedbed.plan import Entry, Plan

if TYPE_CHECKING:  # NumPy is imported with the first number, not with the package
    from numpy.typing import NDArray

Verdict = Literal["equal", "moved", "kept", "missing", "shape", "dtype", "extra"]


class Holder(Protocol):
    """An array with its dtype's name."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def array(self) -> NDArray[Any]: ...


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one parameter.

    Args:
        path: The parameter.
        verdict: `equal` to its plan bit for bit; `moved`; `kept` where the plan holds no values;
            `missing`; of another `shape` or `dtype`; or `extra`, in no plan.
        detail: How it differs.
        differing: Elements that differ.
        largest: The largest absolute difference.
    """

    path: str
    verdict: Verdict
    detail: str = ""
    differing: int = 0
    largest: float = 0.0


@dataclass(frozen=True)
class Findings:
    """One finding for each parameter and buffer; true when nothing differs from the plan."""

    findings: tuple[Finding, ...]
    elsewhere: tuple[tuple[int, str], ...] = ()
    """Of a sharded model: other ranks whose shards differ, and how."""

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, path: str) -> Finding:
        for finding in self.findings:
            if finding.path == path:
                return finding
        raise no_path("findings", path, (f.path for f in self.findings))

    @property
    def different(self) -> tuple[Finding, ...]:
        """Those that are neither equal nor kept."""
        return tuple(f for f in self.findings if f.verdict not in ("equal", "kept"))

    @property
    def ok(self) -> bool:
        """Whether every parameter equals its plan."""
        return not self.different and not self.elsewhere

    def __bool__(self) -> bool:
        return self.ok

    @property
    def summary(self) -> str:
        """One line."""
        equal = sum(f.verdict == "equal" for f in self.findings)
        kept = sum(f.verdict == "kept" for f in self.findings)
        where = " on this rank" if self.elsewhere else ""
        parts = [f"{equal:,} of {count(len(self), 'array')} equal the plan bit for bit{where}"]
        parts += [f"{len(self.different):,} do not"] if self.different else []
        parts += [f"{kept:,} keep values that the plan does not hold"] if kept else []
        return ", ".join(parts) + "."

    def __str__(self) -> str:
        if self.ok:
            return self.summary
        rows = [[f.path, f.verdict, f.detail] for f in self.different]
        lines = [table.table(["parameter", "finding", "detail"], rows)] if rows else []
        return "\n".join([*lines, self.summary, *(f"rank {rank}: {line}" for rank, line in self.elsewhere)])

    @property
    def line(self) -> str:
        """What differs, in one line; empty where nothing does."""
        if not self.different:
            return ""
        first = self.different[0]
        more = f", and {len(self.different) - 1:,} more" if len(self.different) > 1 else ""
        return f"{first.path} {first.verdict}: {first.detail}{more}"


def compare(
    held: Mapping[str, Holder],
    plan: Plan,
    *,
    persistent: bool = False,
    progress: Progress | None = None,
) -> Findings:
    """Compare arrays with what a plan says they start as.

    Args:
        held: Arrays by path; a tied parameter may stand under any of its paths.
        plan: Its sizes settled.
        persistent: Whether only what a checkpoint holds is expected.
        progress: Told after each block.
    """
    plan.require_known()
    findings = []
    for entry in plan:
        if persistent and not entry.spec.persistent:
            continue
        there = [p for p in (entry.spec.path, *entry.spec.aliases) if p in held]
        if not there:
            findings.append(Finding(path=entry.spec.path, verdict="missing", detail=entry.spec.shown_shape))
            continue
        findings.append(_compare(entry, entry.spec.path, held[there[0]], progress))
        for path in there[1:]:  # a tie that has come apart: values of its own under another of its paths
            if _apart(held[there[0]], held[path]):
                tied = _compare(entry, path, held[path], None)
                findings += [tied] if tied.verdict not in ("equal", "kept") else []
    planned = {p for e in plan for p in e.spec.paths}
    findings += [Finding(path=p, verdict="extra", detail=f"{h.shape}") for p, h in held.items() if p not in planned]
    return Findings(tuple(findings))


def _apart(one: Holder, other: Holder) -> bool:
    """Whether two arrays of one shape are in different memory."""
    here, there = one.array, other.array  # both kept: a second copy from a device may take a dropped one's place
    a, b = here.__array_interface__, there.__array_interface__
    return one.shape == other.shape and (a["data"][0], a["strides"]) != (b["data"][0], b["strides"])


def _compare(entry: Entry, path: str, held: Holder, progress: Progress | None) -> Finding:
    import numpy as np

    from seedbed.fill import fill, pieces

    spec = entry.spec
    for verdict, expected, got in (("shape", spec.sizes, held.shape), ("dtype", spec.dtype, held.dtype)):
        if expected != got:
            kind: Verdict = "shape" if verdict == "shape" else "dtype"
            return Finding(path=path, verdict=kind, detail=f"expected {expected}, got {got}")
    if entry.kept:
        return Finding(path=path, verdict="kept")
    differing, largest, first = 0, 0.0, None
    array = held.array  # asked for once: it may come from a device
    for region, here in pieces(entry, BLOCK, getattr(held, "shard", None)):
        planned, there = fill(entry, region), np.asarray(array[here.slices], order="C")
        unequal = _bits(planned) != _bits(there.astype(planned.dtype, copy=False))
        if unequal.any():
            places = np.argwhere(unequal)
            differing += len(places)
            if first is None:
                first = tuple(int(i + o) for i, o in zip(places[0], region.start, strict=True))
            with np.errstate(all="ignore"):  # what was there may be anything
                distance = abs(_numbers(planned, spec.dtype)[unequal] - _numbers(there, spec.dtype)[unequal])
            largest = float(np.max(distance, initial=largest))  # NaN stays
        if progress:
            progress(path, planned.nbytes)
    if not differing:
        return Finding(path=path, verdict="equal")
    shard = getattr(held, "shard", None)
    detail = f"{differing:,} of {count(shard.count if shard else spec.count, 'value')}, first at {list(first or ())}, by up to {largest:.3g}"
    return Finding(path=path, verdict="moved", detail=detail, differing=differing, largest=largest)


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    """Values as they stand in memory: NaN equals NaN, and 0 is not -0."""
    import numpy as np

    size = values.dtype.itemsize
    return values.view(f"u{size}" if size <= 8 else np.dtype([("real", "u8"), ("imaginary", "u8")]))


def _numbers(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """As float64 or complex128; the bits of what NumPy lacks become numbers first."""
    import numpy as np

    from seedbed.threefry import FLOAT8

    if dtype in FLOAT8:
        mantissa, smallest, _ = FLOAT8[dtype]
        field, fraction = (values & 0x7F) >> mantissa, (values & (2**mantissa - 1)).astype(np.int64)
        exponent = np.maximum(field.astype(np.int64) - 1, 0) + smallest - mantissa
        sizes = np.ldexp((fraction + (field > 0) * 2**mantissa).astype(np.float64), exponent)
        values = np.where(values & 0x80, -sizes, sizes)
    elif dtype == "bfloat16":
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.complex128 if dtype.startswith("complex") else np.float64)
