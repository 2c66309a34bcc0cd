"""Models as keras.io shows them: started by seedbed and by Keras, compared."""

import keras
import numpy as np
import pytest
from tests.alike import unlike
from tests.keras.zoo import ZOO

import seedbed as sb


def array(variable):
    return keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))


def described(model):
    """Of every weight: its own name, its shape, its dtype and whether it is trained."""
    names = [v.name if "variable" not in v.name else "variable" for v in model.weights]
    return [(n, tuple(v.shape), v.dtype, v.trainable) for n, v in zip(names, model.weights, strict=True)]


def disagreements(make):
    """What is different between Keras's own model and the one that seedbed started; and its plan."""
    own, inputs = make()
    own(*inputs)
    model, _ = make()
    plan = sb.plan(model, *inputs, seed=1)
    sb.initialize(model, *inputs, seed=1)
    found = [] if described(model) == described(own) else ["structure"]
    found += [f"{e.spec.path} kept" for e in plan if e.kept and e.spec.kind == "parameter"]
    for mine, theirs in zip(model.weights, own.weights, strict=True):
        said = unlike(array(theirs), array(mine))
        found += [f"{mine.path}: {said}"] if said else []
    if not sb.check(model, plan):
        found.append("check")
    outputs = zip(keras.tree.flatten(model(*inputs)), keras.tree.flatten(own(*inputs)), strict=True)
    if not all(np.isfinite(array(y)).all() and y.shape == z.shape for y, z in outputs):
        found.append("outputs")
    return found, plan


@pytest.mark.parametrize("name", ZOO)
def test_a_model_starts_as_keras_starts_it(name):
    found, plan = disagreements(ZOO[name])
    assert not found
    assert plan.entries
