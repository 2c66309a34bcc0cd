"""What Flax's adapter does beside the scenarios: where values go, on one device and on many, and starts as Flax has them."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from tests.frameworks.houses import linen as house
from tests.frameworks.houses import nnx as other

import seedbed as sb
from seedbed import initializers as i
from seedbed.frameworks.flax import build, place
from seedbed.frameworks.flax.laws import Program


def test_memory_is_handed_over_without_a_copy():
    memory = place.Memory((300, 7), "bfloat16")
    memory.bits[...] = 0x3F80
    array = memory.array(None)
    assert array.unsafe_buffer_pointer() == memory.values.ctypes.data
    assert array.dtype == jnp.bfloat16
    assert (array == 1).all()


@pytest.mark.parametrize("name", ["mlp", "encoder_block", "resnet_block", "lstm"])
def test_inside_jit_linens_values_are_those_of_outside(name):
    net, inputs = getattr(house, name)()
    plan = sb.plan(net, *inputs, recipe="he", seed=2)
    inside, outside = house.arrays(jax.jit(lambda: plan.materialize(net))()), house.arrays(plan.materialize(net))
    assert all(np.array_equal(inside[p], a) for p, a in outside.items())


def test_a_device_can_be_named():
    variables = sb.initialize(nn.Dense(3), (1, 2), device="cpu:0")
    assert variables["params"]["kernel"].devices() == {jax.devices("cpu")[0]}


LAYERS = [
    (nn.Dense(8), (2, 12)),
    (nn.DenseGeneral((4, 2), axis=(-2, -1)), (2, 3, 4)),
    (nn.Conv(8, (3, 5), feature_group_count=4), (2, 8, 8, 12)),
    (nn.ConvTranspose(8, (3, 3)), (2, 8, 8, 12)),
    (nn.ConvTranspose(8, (3, 3), transpose_kernel=True), (2, 8, 8, 12)),
    (nn.ConvLocal(8, (3,)), (2, 9, 4)),
    (nn.Embed(50, 16), sb.Input((2, 3), "int32")),
    (nn.PReLU(), (2, 3)),
    (nn.MultiHeadDotProductAttention(4), (2, 5, 16)),
    (nn.RNN(nn.LSTMCell(8)), (2, 5, 4)),
    (nn.RNN(nn.OptimizedLSTMCell(8)), (2, 5, 4)),
    (nn.RNN(nn.GRUCell(8)), (2, 5, 4)),
    (nn.RNN(nn.MGUCell(8)), (2, 5, 4)),
    (nn.RNN(nn.SimpleCell(8)), (2, 5, 4)),
    (nn.LayerNorm(), (2, 5)),
    (nn.GroupNorm(4), (2, 8)),
    (nn.RMSNorm(), (2, 8)),
    (nn.Einsum((12, 3, 4), "bi,ihd->bhd"), (2, 12)),
]


@pytest.mark.parametrize(("layer", "given"), LAYERS, ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "")
def test_every_layer_starts_as_its_own_init_has_it(layer, given):
    """Flax's own values are of the law that was read: their spread, their bounds, their sum."""
    from seedbed.frameworks.flax.build import contradicts

    plan = sb.plan(layer, given)
    x = jnp.ones(given.shape, given.dtype) if isinstance(given, sb.Input) else jnp.ones(given)
    theirs = house.arrays(layer.init(jax.random.key(0), x))
    assert set(theirs) == {e.spec.path for e in plan}
    for entry in plan:
        assert not isinstance(entry.start, (i.Keep, i.Recorded)), entry.spec.path
        assert theirs[entry.spec.path].shape == entry.spec.sizes
        assert not contradicts(entry.start, jnp.asarray(theirs[entry.spec.path]))
    mine = house.arrays(plan.materialize(layer))
    assert all(
        not contradicts(e.start, jnp.asarray(mine[e.spec.path])) for e in plan if not isinstance(e.start, i.Orthogonal)
    )
    assert all(e.spec.axes for e in plan if e.spec.role in ("weight", "recurrent"))


def test_a_law_that_is_not_the_values_is_noticed():
    from seedbed.frameworks.flax.build import contradicts

    lecun = jax.nn.initializers.lecun_normal()(jax.random.key(0), (64, 64))
    assert not contradicts(i.TruncatedNormal(std=0.125 / 0.87962566103423978), lecun)
    assert contradicts(i.TruncatedNormal(std=0.16), lecun)
    assert contradicts(i.Zeros(), lecun)
    assert contradicts(i.Uniform(low=-0.2, high=0.2), lecun)
    assert contradicts(i.Orthogonal(), lecun)


def test_a_function_that_only_has_the_name_of_jaxs_is_not_taken_for_it():
    def _normal(key, shape):
        return jax.random.normal(key, shape) ** 3

    named = jax.jit(_normal, static_argnums=1)
    closed = jax.make_jaxpr(lambda key: named(key, (3, 4)) * 0.5)(jax.random.key(0))
    assert Program(closed, (0,)).law(closed.jaxpr.outvars[0]) is None


def test_nnx_transposed_and_packed_layers_are_laid_out_as_pytorchs():
    rngs = nnx.Rngs(0)
    plan = sb.plan(nnx.Sequential(nnx.ConvTranspose(4, 6, (3, 3), rngs=rngs), nnx.OptimizedLSTMCell(3, 5, rngs=rngs)))
    assert plan["layers.0.kernel"].spec.layout.order == ((2,), (3,), (0,), (1,))
    assert plan["layers.1.dense_i.kernel"].spec.packed == (1, 4)
    assert (plan["layers.1.dense_i.kernel"].spec.leaf, plan["layers.1.dense_i.kernel"].spec.unit) == (
        "weight_ih",
        "layers.1",
    )


def test_threads_that_make_the_first_call_start_a_layer_once():
    from concurrent.futures import ThreadPoolExecutor

    x, planned = jnp.ones((2, 20)), sb.plan(other.mlp()[0], (2, 20), recipe="he", seed=3)
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet a layer at every stage of its start
    try:
        for _ in range(8):
            net = sb.initialize(other.mlp()[0], recipe="he", seed=3)
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _, net=net: np.asarray(net(x)), range(8)))
            assert all(np.array_equal(answers[0], a) for a in answers)
            assert sb.check(net, planned)
    finally:
        sys.setswitchinterval(often)


def test_flax_brings_no_other_framework():
    code = (
        "import sys, flax.linen as nn, seedbed as sb; sb.initialize(nn.Dense(3), (1, 2));"
        "print(sorted({'torch', 'keras', 'tensorflow', 'mxnet'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.Dense(8, bias_init=nn.initializers.normal(0.02))(nn.LayerNorm()(x)), None


class Deep(nn.Module):
    """Blocks in a loop, whose other result is the model's own input gone through them."""

    checkpointed: bool = False

    @nn.compact
    def __call__(self, x):
        block = nn.remat(Block) if self.checkpointed else Block
        x, _ = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()(x, None)
        return nn.remat(nn.Dense)(3)(x)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_parameters_made_in_a_loop_do_not_need_what_the_loop_computes(checkpointed):
    net = Deep(checkpointed)
    plan = sb.plan(net, (2, 8), seed=1)
    assert not any(e.kept for e in plan)
    loop = next(e.spec.path for e in plan if e.spec.path.endswith("LayerNorm_0.scale")).removesuffix(
        "LayerNorm_0.scale"
    )
    assert plan[f"{loop}LayerNorm_0.scale"].start == i.Ones()
    assert isinstance(plan["CheckpointDense_0.kernel"].start, i.TruncatedNormal)
    made = house.arrays(plan.materialize(net))
    assert not np.array_equal(made[f"{loop}Dense_0.kernel"][0], made[f"{loop}Dense_0.kernel"][1])
    assert 0.01 < made[f"{loop}Dense_0.bias"].std() < 0.03
    inside = house.arrays(jax.jit(lambda: plan.materialize(net))())
    assert all(np.array_equal(inside[p], a) for p, a in made.items())


class Ensemble(nn.Module):
    axis: int

    @nn.compact
    def __call__(self, x):
        members = nn.vmap(
            nn.Dense,
            in_axes=None,
            out_axes=0,
            axis_size=4,
            variable_axes={"params": self.axis},
            split_rngs={"params": True},
        )
        return members(300)(x)


@pytest.mark.parametrize("axis", [0, -1])
def test_linen_layers_side_by_side_have_the_roles_of_one(axis):
    plan = sb.plan(Ensemble(axis), (2, 6), recipe="he")
    axes = ("stack", "in", "out") if axis == 0 else ("in", "out", "stack")
    (kernel,) = (e for e in plan if e.spec.leaf != "bias" and e.spec.role == "weight")
    assert kernel.spec.axes == axes
    assert kernel.spec.fan("in") == 6
    assert sb.trace(Ensemble(axis))[kernel.spec.path].axes == axes
    made = next(a for p, a in house.arrays(plan.materialize(Ensemble(axis))).items() if p == kernel.spec.path)
    assert made.std() == pytest.approx((2 / 6) ** 0.5, rel=0.05)


def members(keys):
    split = nnx.split_rngs(splits=4) if keys == "split" else lambda f: f
    axes = 0 if keys == "split" else None
    return split(nnx.vmap(lambda rngs: nnx.Linear(5, 300, rngs=rngs), in_axes=axes, out_axes=0, axis_size=4))(
        nnx.Rngs(0)
    )


def test_nnx_layers_side_by_side_start_as_one_does():
    net = members("split")
    plan = sb.plan(net, seed=2)
    assert plan["kernel"].start == sb.plan(nnx.Linear(5, 300, rngs=nnx.Rngs(0)))["kernel"].start
    assert sb.trace(net)["kernel"].axes == ("stack", "in", "out")
    assert sb.plan(net, recipe="he")["kernel"].start.std == pytest.approx((2 / 5) ** 0.5)
    abstract = nnx.eval_shape(lambda: members("split"))
    one, other = (np.asarray(sb.initialize(m, seed=2).kernel[...]) for m in (net, abstract))
    assert np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_nnx_layers_of_one_key_keep_their_equal_values():
    plan = sb.plan(members("same"))
    assert plan["kernel"].kept


@pytest.mark.parametrize(
    "make",
    [
        lambda rngs: nnx.GroupNorm(64, rngs=rngs),
        lambda rngs: nnx.GroupNorm(6, num_groups=None, group_size=2, rngs=rngs),
        lambda rngs: nnx.LoRA(5, 2, 3, rngs=rngs),
        lambda rngs: nnx.LoRA(5, 2, 3, base_module=nnx.Linear(5, 3, use_bias=False, rngs=rngs), rngs=rngs),
        lambda rngs: nnx.LoRALinear(5, 3, lora_rank=2, use_bias=False, rngs=rngs),
    ],
)
def test_nnx_layers_whose_attributes_are_not_their_arguments_start_as_flax_starts_them(make):
    net = make(nnx.Rngs(0))
    plan = sb.plan(net, seed=3)
    assert plan.entries
    assert not any(e.kept for e in plan)
    assert not any(build.contradicts(plan[path].start, value) for path, value in other.arrays(net).items())
    abstract = sb.initialize(nnx.eval_shape(lambda: make(nnx.Rngs(0))), seed=3)
    assert sb.check(abstract, plan)
