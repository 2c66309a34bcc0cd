"""A wish kept by a linen module: its `init` gives seedbed's values instead of Flax's."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import linen as nn

from seedbed.recipe import Recipe


class Wish(NamedTuple):
    """A start asked for before the sizes are known."""

    recipe: Recipe | None
    seed: int
    streams: Mapping[str, str] | None
    device: Any


def keep(model: nn.Module, wish: Wish) -> nn.Module:
    """A new module that is the same but for `init`, `init_with_output` and `lazy_init`, which carry out the wish.

    Linen's modules hold no values, so there is nothing to fill later; and they are frozen, so the one that was
    given stays as it is. The key given to `init` decides nothing: the numbers come from the wish's seed. It is
    still taken, so that the module is called as any other, and gives dropout its numbers where an output is asked for.
    """
    made = model.clone()
    for name, function in (("init", init), ("lazy_init", init), ("init_with_output", init_with_output)):
        object.__setattr__(made, name, functools.partial(function, model, wish))
    return made


def init(model: nn.Module, wish: Wish, rngs: Any, *inputs: Any, **keywords: Any) -> Any:
    """The variables, started as the wish says."""
    from seedbed import verbs

    if isinstance(rngs, Mapping):
        keywords["rngs"] = rngs
    return verbs.initialize(
        model,
        *inputs,
        recipe=wish.recipe,
        seed=wish.seed,
        streams=wish.streams,
        device=wish.device,
        progress=False,
        **keywords,
    )


def init_with_output(model: nn.Module, wish: Wish, rngs: Any, *inputs: Any, **keywords: Any) -> Any:
    """The module's output on these inputs, and the variables before that call."""
    variables = init(model, wish, rngs, *inputs, **keywords)
    keys = dict(rngs) if isinstance(rngs, Mapping) else {"params": rngs}
    mutable = [name for name in variables if name != "params"]
    output, _ = model.apply(variables, *inputs, rngs=keys, **{"mutable": mutable, **keywords})
    return output, variables
