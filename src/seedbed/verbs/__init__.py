"""The verbs that users call: each finds the model's framework and runs the stages of the spine."""

from seedbed.verbs.building import deferred
from seedbed.verbs.planning import plan, trace
from seedbed.verbs.saving import check, write
from seedbed.verbs.starting import apply_init, initialize, materialize, start

__all__ = ["apply_init", "check", "deferred", "initialize", "materialize", "plan", "start", "trace", "write"]
