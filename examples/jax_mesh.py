"""A network laid out over eight devices: each fills its own part, and all of them train it."""

import os

# Before JAX is imported: eight devices of one processor.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import seedbed as sb

MESH = Mesh(np.array(jax.devices()).reshape(4, 2), ("dp", "tp"))


def net():
    return nn.Sequential([nn.Dense(512), nn.relu, nn.Dense(512), nn.relu, nn.Dense(10)])


def layout(path, spec):
    """Kernels are cut along both axes, biases along the second."""
    return NamedSharding(MESH, P("dp", "tp") if spec.role == "weight" else P("tp"))


def train(model, params, steps=8):
    """Losses of a few steps on images of ten kinds; the batch is cut as the mesh's first axis is."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 256)
    images = (rng.normal(size=(10, 784))[labels] + rng.normal(size=(256, 784))).astype(np.float32)
    batch = jax.device_put((images, labels), NamedSharding(MESH, P("dp")))
    optimizer = optax.adam(3e-4)

    def loss(params, images, labels):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, images), labels).mean()

    @jax.jit
    def step(params, state, batch):
        value, gradients = jax.value_and_grad(loss)(params, *batch)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    losses, state = [], optimizer.init(params)
    for _ in range(steps):
        params, state, value = step(params, state, batch)
        losses.append(float(value))
    return losses


if __name__ == "__main__":
    model = net()
    params = sb.initialize(model, (1, 784), recipe="he", seed=0, sharding=layout)
    plan = sb.plan(model, (1, 784), recipe="he", seed=0)
    kernel = params["params"]["layers_0"]["kernel"]
    print(
        f"first kernel: {kernel.shape} as {len(kernel.addressable_shards)} of {kernel.addressable_shards[0].data.shape}"
    )
    print(sb.check(params, plan))

    alone = sb.materialize(plan, model)  # on one device
    same = jax.tree.all(jax.tree.map(np.array_equal, params, alone))
    print(f"the start of one device, bit for bit: {same}")
    values = sb.fingerprint(plan, params)
    print("losses:", *(f"{value:.4f}" for value in train(model, params)))
    print(f"started with {values}")
