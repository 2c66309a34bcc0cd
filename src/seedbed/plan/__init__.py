"""Stage 4: what will happen. Specs and a recipe become a plan; nothing is allocated, nothing is drawn.

A plan is data: equal plans give equal bits. The stream of a parameter is the name its numbers are
keyed by; it is the path, unless the user maps it.
"""

from seedbed.plan.decide import Streams, Translate, decide, streams_of
from seedbed.plan.entries import VERSION, Difference, Entry, Key, Plan, key
from seedbed.plan.misfits import require_fit
from seedbed.plan.parts import Holding, holding

__all__ = [
    "VERSION",
    "Difference",
    "Entry",
    "Holding",
    "Key",
    "Plan",
    "Streams",
    "Translate",
    "decide",
    "holding",
    "key",
    "require_fit",
    "streams_of",
]
