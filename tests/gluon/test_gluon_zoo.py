"""Models as Gluon's examples show them: started by seedbed and by Gluon, compared."""

import mxnet as mx
import numpy as np
import pytest
from tests.alike import unlike
from tests.gluon.zoo import ZOO

import seedbed as sb


def array(parameter):
    return parameter.data().astype("float32").asnumpy()


def described(model):
    return [(tuple(p.shape), np.dtype(p.dtype), p.grad_req) for p in model.collect_params().values()]


def disagreements(make, *, hybrid=False):
    """What is different between Gluon's own model and the one that seedbed started; and its plan."""
    own, inputs = make()
    model, _ = make()
    if hybrid:
        own.hybridize()
        model.hybridize()
    own.initialize()
    own(*inputs)
    plan = sb.plan(model, *inputs, seed=1)
    sb.initialize(model, *inputs, seed=1)
    found = [] if described(model) == described(own) else ["structure"]
    found += [f"{e.spec.path} kept" for e in plan if e.kept and e.spec.kind == "parameter"]
    theirs, mine = own.collect_params(), model.collect_params()
    for (name, parameter), other in zip(mine.items(), theirs.values(), strict=True):
        said = unlike(array(other), array(parameter))
        found += [f"{name}: {said}"] if said else []
    if not sb.check(model, plan):
        found.append("check")
    with mx.autograd.record():
        outputs = model(*inputs)
        outputs = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        loss = outputs.sum()
    loss.backward()
    if not np.isfinite(outputs.asnumpy()).all():
        found.append("outputs")
    return found, plan


@pytest.mark.filterwarnings("ignore:Cannot decide type:UserWarning")  # of a block of symbols, by MXNet
@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("name", ZOO)
def test_a_model_starts_as_gluon_starts_it(name, hybrid):
    found, plan = disagreements(ZOO[name], hybrid=hybrid)
    assert not found
    assert plan.entries
