"""One of two processes that start models together, each with four of eight devices: run by `test_flax_sharded.py`.

Takes its number and a port.
"""

import sys

import jax
import numpy as np
from flax import linen as nn
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import seedbed as sb
from seedbed.fill import fill
from seedbed.frameworks.flax import place

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[1]))
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("dp", "tp"))


def where(path, spec):
    return NamedSharding(mesh, PartitionSpec("dp", "tp") if len(spec.sizes) == 2 else PartitionSpec("tp"))


def held(array, entry):
    """This process's four shards, and nothing else, are slices of the whole."""
    whole, shards = fill(entry), array.addressable_shards
    assert not array.is_fully_addressable
    assert len(shards) == 4
    assert all(np.array_equal(np.asarray(shard.data), whole[shard.index]) for shard in shards), entry.spec.path


def by_devices(entry):
    sharding = where("", entry.spec)
    return place.joined(entry, sharding, place.by_devices(entry, place.regions_of(sharding, entry.spec.sizes)))


net = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(8, kernel_init=nn.initializers.orthogonal())])
plan = sb.plan(net, (2, 16), seed=4)
assert "Orthogonal" in str(plan)
if int(sys.argv[1]):  # one alone starts it first: nothing waits for the other
    sb.materialize(plan, net, sharding=where)
params = sb.materialize(plan, net, sharding=where)["params"]
for entry in plan:
    layer, leaf = entry.spec.path.split(".")
    held(params[layer][leaf], entry)

layer = nnx.Linear(16, 8, rngs=nnx.Rngs(0))
plan = sb.plan(layer, seed=2)
sb.materialize(plan, layer, sharding=where)
for entry in plan:
    held(getattr(layer, entry.spec.path)[...], entry)
    held(by_devices(entry), entry)
assert sb.plan(layer, seed=2) == plan, "what others hold is asked of them"
assert sb.check(layer, plan)
assert sb.fingerprint(plan, layer) == sb.fingerprint(plan)
linen = sb.plan(net, (2, 16), seed=4)
assert sb.check(params, linen)
assert sb.fingerprint(linen, params) == sb.fingerprint(linen)
if int(sys.argv[1]):  # what one of them changed, both hear of
    layer.bias.set_value(jax.make_array_from_callback((8,), layer.bias.sharding, lambda index: np.ones(8)[index]))
found = sb.check(layer, plan)
assert not found
assert bool(found.different) == bool(int(sys.argv[1]))
assert [rank for rank, _ in found.elsewhere] == ([] if int(sys.argv[1]) else [1])
assert sb.check(layer, plan, collective=False).ok != bool(int(sys.argv[1]))

total = jax.jit(lambda tree: sum(leaf.sum() for leaf in jax.tree.leaves(tree)))(params)
sys.stdout.write(f"{plan.fingerprint()} {float(total)}\n")
