"""Stage 2: what exists. Parameters and buffers, with what is known of them before they have values.

A size that nothing has settled yet is `None` and is printed `?`. Axes carry roles, set by the
framework's adapter, so that a fan is never guessed from position.
"""

from seedbed.spec.input import FLOATS, ITEMSIZE, Dim, Input, Shape
from seedbed.spec.layout import Layout
from seedbed.spec.param import AXIS_ROLES, ROLES, ParamSpec, remarks, unknown_sizes
from seedbed.spec.parts import Cut, Parts, captured
from seedbed.spec.specs import UNREADABLE, Settled, Specs, settled_from, unreadable

__all__ = [
    "AXIS_ROLES",
    "FLOATS",
    "ITEMSIZE",
    "ROLES",
    "UNREADABLE",
    "Cut",
    "Dim",
    "Input",
    "Layout",
    "ParamSpec",
    "Parts",
    "Settled",
    "Shape",
    "Specs",
    "captured",
    "remarks",
    "settled_from",
    "unknown_sizes",
    "unreadable",
]
