"""What can keep a plan from being carried out in a model, said alike for all frameworks."""

from __future__ import annotations

from collections.abc import Sequence

from seedbed.errors import PlanError, columns, count, shown
from seedbed.plan.entries import Entry


def require_fit(
    differences: Sequence[tuple[str, str]], homeless: Sequence[Entry], *, because: str, remedy: str
) -> None:
    """Raise `PlanError` where a plan is for another model, or keeps values that are not there.

    Args:
        differences: Paths, and what the plan and the model have otherwise.
        homeless: Entries that keep values where there are none.
        because: Why there are none.
        remedy: What to do about those.
    """
    if differences:
        raise PlanError(
            f"The plan does not fit the model: {count(len(differences), 'difference')}.",
            facts=shown(columns(differences)),
            remedy="Make the plan from this model, after its dtype and layers are final.",
            paths=tuple(path for path, _ in differences),
        )
    if homeless:
        specs = [entry.spec for entry in homeless]
        raise PlanError(
            f"{specs[0].path}: the plan keeps its values, and it has none{because}.",
            facts=shown(columns([(s.path, f"{s.dtype}{s.shown_shape}", s.origin or "start unknown") for s in specs])),
            remedy=remedy,
            paths=tuple(s.path for s in specs),
        )
