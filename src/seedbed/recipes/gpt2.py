"""GPT-2's start, as its paper tells it and its usual implementations have it.

A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3: weights of
residual layers are scaled by 1 / sqrt(N), N residual layers, two in each block. Standard deviation
0.02 and zero biases as in GPT, A. Radford et al., 2018, section 4.1.
"""

from __future__ import annotations

import math
import re

from seedbed.errors import RecipeError, shown
from seedbed.initializers import Normal, Ones, Zeros
from seedbed.recipe import Recipe, Rule, Where
from seedbed.spec import Specs

STD = 0.02


def recipe(specs: Specs) -> Recipe:
    """Rules for GPT-2's names; the number of blocks is counted in the specs."""
    found = (re.search(r"(?:^|\.)(?:h|blocks|layers)\.(\d+)\.", spec.path) for spec in specs)
    blocks = {match[1] for match in found if match}
    if not blocks or not any(spec.path.endswith(".c_proj.weight") for spec in specs):
        raise RecipeError(
            "recipe 'gpt2': the model has not GPT-2's names: blocks such as h.0, with a c_proj in each.",
            facts=["The parameters:", *shown([spec.path for spec in specs])],
            remedy="Give a recipe for the names this model has, such as recipe='xavier'.",
        )
    residual = Normal(std=STD / math.sqrt(2 * len(blocks)))
    return Recipe(
        (
            Rule("*.c_proj.weight", residual),
            Rule(Where(role="scale"), Ones(), optional=True),
            Rule(Where(role="bias"), Zeros(), optional=True),
            Rule("*.weight", Normal(std=STD)),
        ),
        name="gpt2",
    )
