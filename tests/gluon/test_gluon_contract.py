"""Gluon keeps the contract of adapters."""

import dataclasses

from tests.contract import Contract
from tests.frameworks.houses import gluon as house

import seedbed as sb
from seedbed.spec import Layout

PARTS = {"query": 0, "key": 1, "value": 2}


def part(spec):
    """A part of PyTorch's packed parameter, where it is one."""
    layer, kind = spec.path.split(".")
    if layer not in PARTS:
        return spec
    return dataclasses.replace(
        spec, unit="attention", leaf=f"in_proj_{kind}", layout=Layout(blocks=(PARTS[layer],), of=3)
    )


class TestGluon(Contract):
    """Gluon's blocks."""

    house = house

    def plan(self, built, **options):
        """Queries, keys and values share PyTorch's stream: Gluon has no layer of attention that would say so."""
        net, inputs = built
        if not hasattr(net, "query") or options.get("streams") != "position":
            return sb.plan(net, *inputs, **options)
        return sb.plan(sb.Specs(tuple(map(part, sb.trace(net, *inputs))), "gluon"), **options)

    def start(self, built, **options):
        return sb.materialize(self.plan(built, **options), built[0])
