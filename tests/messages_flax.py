"""What goes wrong with Flax's models, each a case of test_messages."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import seedbed as sb
from seedbed.errors import SeedbedError
from seedbed.frameworks.flax import slot
from seedbed.initializers import HeNormal, Keep, Normal, Ones, Sparse


def dense(**options):
    return nn.Dense(10, **options)


def lazy(size=3):
    return sb.lazy(nnx.Linear, sb.dim(-1), size, rngs=nnx.Rngs(0))


class Reads(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x if x.sum() > 0 else -x)


class FromInput(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x - self.param("center", lambda key: x.mean(0))


class Keyed(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("keys", "own", lambda: jax.random.key(0))
        return x


class Fails(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x).reshape(7, -1)


class Two(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        return nn.Dense(3)(x) * mask["row"]


class Holds(nnx.Module):
    def __init__(self):
        self.pair = nnx.Param({"a": jnp.ones(2)})


class Own(nnx.Module):
    def __init__(self):
        self.table = nnx.Param(jnp.ones((3, 4)))


class Loose(nnx.Module):
    def __init__(self):
        self.scales = nnx.data({"kernel": jnp.ones((3,))})


def early():
    net = sb.initialize(nnx.Sequential(lazy()), recipe="he")
    return net.layers[0].kernel


def abstract():
    return nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)))


def in_jit(net):
    """The error that is raised inside, and not what jit makes of it."""
    found = []

    def inside(x):
        try:
            net(x)
        except SeedbedError as error:
            found.append(error)
        return x

    jax.jit(inside)(jnp.ones((2, 20)))
    raise found[0]


def unlike():
    plan = sb.plan(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), recipe="he")
    sb.materialize(plan, nnx.Linear(2, 4, rngs=nnx.Rngs(0)))


def no_start(key, shape):
    return jnp.ones(shape)


def on_many(*names):
    """A sharding over more devices than there are here: their mesh is abstract."""
    return NamedSharding(AbstractMesh((4, 2), ("data", "model")), PartitionSpec(*names))


def held_in_no_grid():
    """What a process has of an array, as JAX would tell it: two corners of a mesh."""
    from types import SimpleNamespace

    import numpy as np

    from seedbed.frameworks.flax.held import held

    corners = [
        SimpleNamespace(index=(slice(n, n + 2), slice(n, n + 2)), data=np.zeros((2, 2), np.float32)) for n in (0, 2)
    ]
    sharding = SimpleNamespace(spec="PartitionSpec('x', 'y')")
    array = SimpleNamespace(dtype="float32", shape=(4, 4), sharding=sharding, addressable_shards=corners)
    array.is_fully_addressable = False
    held("dense.kernel", array)


CASES = {
    "flax_held_in_no_grid": held_in_no_grid,
    "flax_shape_does_not_fit": lambda: sb.plan(
        nn.Sequential([nn.Dense(256), nn.relu, nn.Einsum((128, 10), "bi,io->bo")]), (2, 20)
    ),
    "flax_cannot_be_run": lambda: sb.plan(Fails(), (2, 20)),
    "flax_reads_values": lambda: sb.plan(Reads(), (2, 20)),
    "flax_input_of_another_dtype": lambda: sb.plan(nn.Sequential([nn.Embed(9, 4), nn.Dense(2)]), (2, 20)),
    "flax_input_a_list": lambda: sb.plan(dense(), [2, 20]),
    "flax_input_missing": lambda: sb.plan(Two(), (2, 20)),
    "flax_input_stray": lambda: sb.plan(Two(), (2, 20), masks=(2, 3)),
    "flax_without_inputs": lambda: sb.plan(Two()),
    "flax_bound": lambda: sb.plan(dense().bind({}), (2, 20)),
    "flax_start_from_input": lambda: sb.initialize(FromInput(), (2, 20)),
    "flax_dtype_unknown": lambda: sb.plan(Keyed(), (2, 20)),
    "flax_values_of_a_module": lambda: sb.check(dense(), sb.plan(dense(), (2, 20))),
    "flax_keeps_values": lambda: sb.initialize(dense(), (2, 20), recipe=Keep(values=True)),
    "flax_function_of_a_layer": lambda: sb.apply_init(dense(), (2, 20), lambda module: None),
    "flax_native_fails": lambda: sb.plan(dense(), (2, 20), recipe=no_start),
    "flax_slot_without_fan": lambda: slot(HeNormal())(jax.random.key(0), (3,)),
    "flax_slot_not_in_a_program": lambda: slot(Sparse(sparsity=0.5))(jax.random.key(0), (3, 4)),
    "flax_sharding_uneven": lambda: sb.initialize(dense(), (1, 3), sharding={"kernel": on_many("data")}),
    "flax_sharding_of_more_axes": lambda: sb.initialize(dense(), (1, 4), sharding={"bias": on_many("data", "model")}),
    "flax_sharding_abstract": lambda: sb.initialize(dense(), (1, 4), sharding={"kernel": on_many("data")}),
    "flax_sharding_not_one": lambda: sb.initialize(dense(), (1, 3), sharding={"kernel": "data"}),
    "flax_sharding_of_no_parameter": lambda: sb.initialize(dense(), (1, 4), sharding={"params": {"kernal": on_many()}}),
    "flax_sharding_of_no_parameters": lambda: sb.initialize(
        dense(), (1, 4), sharding={"kernal": on_many(), "*.bias": on_many(), "bias": on_many()}
    ),
    "flax_sharding_of_a_layer": lambda: sb.initialize(
        nn.Sequential([dense(), dense()]), (1, 4), sharding={"layers_1": on_many()}
    ),
    "flax_sharding_of_a_wish": lambda: sb.initialize(dense(), sharding={"kernel": on_many()}),
    "flax_sharding_of_a_lazy_layer": lambda: sb.initialize(nnx.Sequential(lazy()), sharding=on_many()),
    "flax_device_unknown": lambda: sb.initialize(dense(), (1, 3), device="abacus"),
    "flax_lazy_of_linen": lambda: sb.lazy(nn.Dense, sb.dim(-1), 3),
    "flax_dim_not_there": lambda: sb.plan(
        nnx.Sequential(sb.lazy(nnx.Linear, sb.dim(-1, 1), 3, rngs=nnx.Rngs(0))), (2, 20)
    ),
    "flax_lazy_first_called_in_jit": lambda: in_jit(nnx.Sequential(lazy())),
    "flax_read_too_early": early,
    "flax_abstract_read": lambda: sb.check(abstract(), sb.plan(abstract(), recipe=Ones())),
    "flax_not_arrays": lambda: sb.plan(Holds()),
    "flax_array_in_no_variable": lambda: sb.initialize(nnx.eval_shape(Loose)),
    "flax_plan_of_another_model": unlike,
    "flax_no_values_to_keep": lambda: sb.initialize(nnx.eval_shape(Own)),
    "flax_started_in_jit": lambda: in_jit(lambda x: sb.initialize(nnx.Sequential(lazy()), x, recipe=Normal(std=1.0))),
}
