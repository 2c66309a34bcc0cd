"""Deferred parameter initialization.

Build any model without sizes and without memory. See how every parameter will start before it does.
Make it real: fast, in place or on disk, and the same bits everywhere.
"""

from seedbed import initializers
from seedbed.check import Finding, Findings
from seedbed.errors import SeedbedError
from seedbed.mesh import Division, divide
from seedbed.plan import Entry, Plan
from seedbed.recipe import Recipe, Rule, Where
from seedbed.spec import Input, ParamSpec, Parts, Specs
from seedbed.verbs import (
    apply_init,
    check,
    deferred,
    dim,
    fingerprint,
    initialize,
    lazy,
    materialize,
    plan,
    trace,
    write,
)

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 -- in the order in which the data meets them
    "Input",
    "ParamSpec",
    "Specs",
    "Parts",
    "initializers",
    "Where",
    "Rule",
    "Recipe",
    "Entry",
    "Plan",
    "Division",
    "Finding",
    "Findings",
    "SeedbedError",
    "deferred",
    "dim",
    "lazy",
    "trace",
    "plan",
    "divide",
    "materialize",
    "initialize",
    "apply_init",
    "write",
    "check",
    "fingerprint",
]
