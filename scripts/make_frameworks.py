"""Write tests/golden/frameworks.json: how the networks of the contract start in PyTorch, for all frameworks to equal.

PYTHONPATH=. python scripts/make_frameworks.py
"""

import json

import numpy as np
from tests.equality import EXACT, INPUTS, NETS, PATH, RECIPES, canonical, digest, seen
from tests.frameworks.houses import torch as house

import seedbed as sb

facts = {}
for net in NETS:
    for name, recipe in RECIPES.items():
        model, inputs = getattr(house, net)()
        plan = sb.plan(model, *inputs, recipe=recipe, seed=7, streams="position")
        arrays = canonical(plan, house.arrays(sb.materialize(plan, model)))
        known = {
            stream: {"shape": list(a.shape), "zero": not a.any()}
            | ({"digest": digest(a)} if name in EXACT else {"seen": seen(a)})
            for stream, a in arrays.items()
        }
        facts[f"{net}, {name}"] = {"arrays": known}
        if name == "he":
            answer = np.ravel(house.forward(model, model, INPUTS[net]()))
            facts[f"{net}, {name}"]["answer"] = [round(float(v), 7) for v in answer]
rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(known)}" for name, known in facts.items())
PATH.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
print(f"{len(facts)} starts of {len(NETS)} networks")
