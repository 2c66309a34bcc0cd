"""What inputs settle, and what they leave open: sizes that vary are tried at several values and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from seedbed.frameworks.torch.dryrun import DryRun
from seedbed.frameworks.torch.resets import Record, starts
from seedbed.frameworks.torch.shapes import dry_run, is_shape
from seedbed.frameworks.torch.told import told as notes_of
from seedbed.frameworks.torch.twin import what_settled
from seedbed.frameworks.torch.wrappers import named_tensors
from seedbed.frameworks.varying import Axis, try_sizes, varying
from seedbed.spec import Settled, Shape

Told = dict[str, tuple[Shape, tuple[Record, str]]]
"""Shape, and start with its origin, of each path."""

UNTOLD = (Record(None), "")


@dataclass(frozen=True)
class Settlement:
    """What dry runs told of each path.

    Attributes:
        told: Shapes and starts; sizes that vary are None.
        varies: Which axes of which inputs a path depends on.
        waits: Paths that cannot be settled while those vary.
        reached: Paths that the inputs used.
        settled: What became of each lazy layer; empty while anything varies.
    """

    twin: nn.Module
    told: Told
    varies: Mapping[str, str]
    waits: frozenset[str]
    reached: set[str]
    settled: tuple[Settled, ...]


def settle(model: nn.Module, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Settlement:
    """Settle all that the inputs can settle."""

    def attempt(sizes: Mapping[Axis, int]) -> tuple[DryRun, Told]:
        run = dry_run(model, inputs, keywords, sizes)
        return run, tell(run.twin)

    tried = try_sizes(attempt, varying(inputs, keywords, is_shape))
    run = tried.run
    told = {p: (tried.shapes[p], UNTOLD if p in tried.moved else start) for p, (_, start) in tried.facts.items()}
    settled = () if tried.moved else what_settled(model, run.twin)
    return Settlement(run.twin, told, tried.varies, tried.moved, run.reached, settled)


def tell(twin: nn.Module) -> Told:
    """Shape and start of all that a twin has settled."""
    known = starts(twin) | {path: (note.start, note.origin) for path, note in notes_of(twin).items()}
    return {p: (tuple(t.shape), known.get(p, UNTOLD)) for p, t in named_tensors(twin) if not is_lazy(t)}
