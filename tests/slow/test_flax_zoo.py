"""Models as Flax's examples show them: started by seedbed and by Flax, compared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import meta
from tests.alike import unlike
from tests.frameworks.zoo_flax import LINEN, NNX

import seedbed as sb

pytestmark = pytest.mark.slow


def described(leaves):
    return {k: (a.shape, a.dtype) for k, a in leaves.items()}


def compared(own, ours):
    """What is different between two mappings of arrays."""
    found = [] if described(own) == described(ours) else ["structure"]
    said = {k: unlike(own[k].astype(jnp.float32), ours[k].astype(jnp.float32)) for k in own.keys() & ours.keys()}
    return found + [f"{k}: {s}" for k, s in said.items() if s]


def by_path(variables):
    return {jax.tree_util.keystr(k): a for k, a in jax.tree_util.tree_flatten_with_path(meta.unbox(variables))[0]}


def linen_disagreements(make):
    """What is different between what linen's `init` gives and seedbed; and the plan."""
    net, inputs, keywords = make()
    keys = {name: jax.random.key(n) for n, name in enumerate(("params", "dropout"))}
    own = jax.jit(lambda: net.init(keys, *inputs, **keywords))()
    plan = sb.plan(net, *inputs, seed=1, **keywords)
    variables = sb.initialize(net, *inputs, seed=1, **keywords)
    found = compared(by_path(own), by_path(variables))
    if not sb.check(variables, plan):
        found.append("check")
    mutable = [c for c in variables if c != "params"]
    outputs, _ = net.apply(variables, *inputs, mutable=mutable, rngs=keys, **keywords)
    if not all(np.isfinite(y).all() for y in jax.tree_util.tree_leaves(outputs)):
        found.append("outputs")
    return found, plan


def arrays(model):
    """The values of every variable but the states of random numbers."""
    flat = nnx.to_flat_state(nnx.state(model))
    return {".".join(map(str, k)): v.get_value() for k, v in flat if not isinstance(v, nnx.RngState)}


def nnx_disagreements(make):
    """What is different between the constructor's values and seedbed's, in a real model and an abstract one; and the plan."""
    (own, inputs), (model, _) = make(), make()
    abstract = nnx.eval_shape(lambda: make()[0])
    graph, plan = nnx.graphdef(model), sb.plan(model, seed=1)
    sb.initialize(model, seed=1)
    sb.initialize(abstract, seed=1)
    found = compared(arrays(own), arrays(model))
    found += [f"{e.spec.path} kept" for e in plan if e.kept and e.spec.kind == "parameter"]
    if nnx.graphdef(model) != graph:
        found.append("graph")
    if not sb.check(model, plan) or not sb.check(abstract, plan):
        found.append("check")
    if not np.isfinite(model(*inputs)).all():
        found.append("outputs")
    return found, plan


@pytest.mark.parametrize("name", LINEN)
def test_a_linen_module_starts_as_flax_starts_it(name):
    found, plan = linen_disagreements(LINEN[name])
    assert not found
    assert plan.entries


@pytest.mark.parametrize("name", NNX)
def test_an_nnx_module_starts_as_flax_starts_it(name):
    found, plan = nnx_disagreements(NNX[name])
    assert not found
    assert plan.entries
