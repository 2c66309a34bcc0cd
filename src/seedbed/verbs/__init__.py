"""The verbs that users call: each finds the model's framework and runs the stages of the spine."""

from seedbed.verbs.building import deferred, dim, lazy
from seedbed.verbs.planning import plan, trace
from seedbed.verbs.saving import check, fingerprint, write
from seedbed.verbs.starting import apply_init, initialize, materialize, start

__all__ = [
    "apply_init",
    "check",
    "deferred",
    "dim",
    "fingerprint",
    "initialize",
    "lazy",
    "materialize",
    "plan",
    "start",
    "trace",
    "write",
]
