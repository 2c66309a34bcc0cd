"""Stage 7: what did happen. Values against a plan, to the bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from seedbed import table
from seedbed.errors import count
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

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, path: str) -> Finding:
        for finding in self.findings:
            if finding.path == path:
                return finding
        raise KeyError(path)

    @property
    def different(self) -> tuple[Finding, ...]:
        """Those that are neither equal nor kept."""
        return tuple(f for f in self.findings if f.verdict not in ("equal", "kept"))

    @property
    def ok(self) -> bool:
        """Whether every parameter equals its plan."""
        return not self.different

    def __bool__(self) -> bool:
        return self.ok

    @property
    def summary(self) -> str:
        """One line."""
        equal = sum(f.verdict == "equal" for f in self.findings)
        kept = sum(f.verdict == "kept" for f in self.findings)
        parts = [f"{equal:,} of {count(len(self), 'array')} equal the plan bit for bit"]
        parts += [f"{len(self.different):,} do not"] if self.different else []
        parts += [f"{kept:,} keep values that the plan does not hold"] if kept else []
        return ", ".join(parts) + "."

    def __str__(self) -> str:
        if self.ok:
            return self.summary
        rows = [[f.path, f.verdict, f.detail] for f in self.different]
        return table.table(["parameter", "finding", "detail"], rows) + "\n" + self.summary


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
        path = next((p for p in entry.spec.paths if p in held), None)
        if path is None:
            findings.append(Finding(path=entry.spec.path, verdict="missing", detail=entry.spec.shown_shape))
        else:
            findings.append(_compare(entry, held[path], progress))
    planned = {p for e in plan for p in e.spec.paths}
    findings += [Finding(path=p, verdict="extra", detail=f"{h.shape}") for p, h in held.items() if p not in planned]
    return Findings(tuple(findings))


def _compare(entry: Entry, held: Holder, progress: Progress | None) -> Finding:
    import numpy as np

    from seedbed.fill import fill, pieces

    spec = entry.spec
    for verdict, expected, got in (("shape", spec.sizes, held.shape), ("dtype", spec.dtype, held.dtype)):
        if expected != got:
            kind: Verdict = "shape" if verdict == "shape" else "dtype"
            return Finding(path=spec.path, verdict=kind, detail=f"expected {expected}, got {got}")
    if entry.kept:
        return Finding(path=spec.path, verdict="kept")
    differing, largest, first = 0, 0.0, None
    for region in pieces(entry, BLOCK):
        planned, there = fill(entry, region), np.asarray(held.array[region.slices], order="C")
        bits = f"u{planned.dtype.itemsize}"
        unequal = planned.view(bits) != there.astype(planned.dtype, copy=False).view(bits)
        if unequal.any():
            places = np.argwhere(unequal)
            differing += len(places)
            if first is None:
                first = tuple(int(i + o) for i, o in zip(places[0], region.start, strict=True))
            distance = abs(_numbers(planned, spec.dtype)[unequal] - _numbers(there, spec.dtype)[unequal])
            largest = max(largest, float(np.max(distance)) if not np.isnan(distance).any() else math.nan)
        if progress:
            progress(spec.path, planned.nbytes)
    if not differing:
        return Finding(path=spec.path, verdict="equal")
    detail = f"{differing:,} of {count(spec.count, 'value')}, first at {list(first or ())}, by up to {largest:.3g}"
    return Finding(path=spec.path, verdict="moved", detail=detail, differing=differing, largest=largest)


def _numbers(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """As float64, bfloat16's bits included."""
    import numpy as np

    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float64)
