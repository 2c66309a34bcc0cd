"""Gluon's own ways: arrays of two kinds, graphs, contexts, trainers, threads, and layers of all sorts."""

import copy
import random
import subprocess
import sys
import threading
import warnings

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import Block, HybridBlock, Trainer, contrib, model_zoo, nn, rnn
from tests.frameworks.houses import gluon as house

import seedbed as sb
from seedbed import initializers as i
from seedbed.errors import UnknownSizeError
from seedbed.fill import fill
from seedbed.frameworks import gluon
from seedbed.frameworks.gluon import memory
from seedbed.frameworks.gluon.blocks import parameters
from seedbed.frameworks.gluon.wish import WaitingParameter


def chain(*layers, kind=nn.HybridSequential):
    net = kind()
    net.add(*layers)
    return net


def mlp():
    return chain(nn.Dense(256), nn.Activation("relu"), nn.Dense(10))


def value(net, path):
    return next(held.parameter.data().asnumpy() for held in parameters(net) if held.path == path)


@pytest.fixture
def numpy_arrays():
    """MXNet's arrays as NumPy has them: -1 where a size is unknown, 0 where it is 0."""
    mx.npx.set_np()
    yield
    mx.npx.reset_np()


class Chapter(Block):
    """The book's: a forward in Python, with functions of arrays between the layers."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Dense(256, activation="relu"), nn.Dense(10)

    def forward(self, x):
        h = self.hidden(x)
        while abs(h).sum() > 1:
            h = h / 2
        return self.out(mx.np.concatenate([h, h], axis=1))


@pytest.mark.usefixtures("numpy_arrays")
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (mlp, (2, 20)),
        (Chapter, (2, 20)),
        (lambda: house.lenet()[0], (1, 1, 28, 28)),
        (lambda: chain(rnn.LSTM(7, 2), nn.Dense(3, flatten=False)), (5, 2, 6)),
        (lambda: chain(nn.Embedding(9, 4), nn.Dense(3, flatten=False), nn.LayerNorm()), (5, 2)),
    ],
)
@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.filterwarnings("ignore:ndarray.context has been renamed")  # MXNet warns of its own use
def test_arrays_as_numpy_has_them(build, shape, hybrid):
    net, wished = build(), build()
    if hybrid and len(shape) != 3:  # MXNet itself cannot: its first states have no batch
        net.hybridize()
        wished.hybridize()
    plan = sb.plan(net, shape, recipe="he", seed=2)
    x = mx.np.ones(shape)
    answer = plan.materialize(net)(x)
    assert type(answer) is mx.np.ndarray
    assert (sb.initialize(wished, recipe="he", seed=2)(x) == answer).all()
    assert sb.check(wished, plan)
    assert sb.trace(build(), (None, *shape[1:])).unknown == sb.trace(build(), shape).unknown == ()


@pytest.mark.usefixtures("numpy_arrays")
def test_sizes_that_vary_where_minus_one_is_unknown():
    assert sb.trace(mlp(), (None, None))["0.weight"].varies == "input 0 axis 1"
    assert sb.trace(Chapter(), (2, None))["hidden.weight"].varies == "input 0 axis 1"
    assert sb.trace(mlp(), (0, 20)).unknown == ()


class Sums(HybridBlock):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Dense(3), nn.Dense(4)

    def hybrid_forward(self, F, a, b):
        return self.two(self.one(a + b))


def test_what_is_unknown_in_one_input_is_told_by_the_other():
    specs = sb.trace(Sums(), (None, 20), (2, None))
    assert specs["one.weight"].shape == (3, 20)
    assert specs.unknown == ()
    both = sb.trace(Sums(), (None, None), (2, None))["one.weight"]
    assert (both.shape, both.varies) == ((3, None), "input 0 axis 1, input 1 axis 1")


def test_inputs_may_be_nested_and_arrays_of_both_libraries():
    cell = rnn.LSTMCell(7)
    by_shape = sb.trace(cell, (2, 5), [(2, 7), (2, 7)])
    by_array = sb.trace(cell, np.ones((2, 5), np.float32), [mx.nd.ones((2, 7)), np.zeros((2, 7))])
    assert by_shape == by_array
    assert by_shape["i2h_weight"].shape == (28, 5)


class Unrolled(HybridBlock):
    def __init__(self):
        super().__init__()
        self.cell, self.out = rnn.GRUCell(6), nn.Dense(2)

    def hybrid_forward(self, F, x):
        outputs, _ = self.cell.unroll(4, x, layout="NTC", merge_outputs=True)
        return self.out(outputs)


def test_cells_are_unrolled_without_a_batch():
    net = sb.initialize(Unrolled(), (2, 4, 5))
    assert net(mx.nd.ones((2, 4, 5))).shape == (2, 2)
    assert sb.trace(Unrolled(), (None, 4, 5))["out.weight"].shape == (2, 24)


@pytest.mark.parametrize("name", ["resnet18_v1", "mobilenetv2_1.0", "squeezenet1.0", "alexnet"])
def test_gluons_own_models_have_the_shapes_that_gluon_finds(name):
    net, other = (model_zoo.vision.get_model(name) for _ in range(2))
    other.infer_shape(mx.nd.zeros((1, 3, 224, 224)))
    expected = {held.path: tuple(held.parameter.shape) for held in parameters(other)}
    assert {s.path: s.shape for s in sb.trace(net, (1, 3, 224, 224))} == expected
    assert sb.trace(net, (None, 3, 224, 224)).unknown == ()


# What each layer uses its parameters for

LAYERS = {
    "dense": (lambda: nn.Dense(4), (2, 3), {"weight": ("weight", "weight", 3, 4), "bias": ("bias", "bias", None, None)}),
    "convolution": (lambda: nn.Conv2D(6, (2, 3), groups=2), (1, 4, 9, 9), {"weight": ("weight", "weight", 12, 18)}),
    "channels last": (
        lambda: nn.Conv2D(6, (2, 3), layout="NHWC"), (1, 9, 9, 4), {"weight": ("weight", "weight", 24, 36)},
    ),
    "transposed": (
        lambda: nn.Conv2DTranspose(6, 3, groups=2, in_channels=4), (1, 4, 9, 9), {"weight": ("weight", "weight", 18, 27)},
    ),
    "embedding": (lambda: nn.Embedding(9, 4), (2, 3), {"weight": ("embedding", "weight", 9, 4)}),
    "batch norm": (
        nn.BatchNorm, (2, 3, 4),
        {"gamma": ("scale", "weight", None, None), "beta": ("bias", "bias", None, None),
         "running_mean": ("buffer", "running_mean", None, None)},
    ),
    "layer norm": (nn.LayerNorm, (2, 3), {"gamma": ("scale", "weight", None, None)}),
    "group norm": (lambda: nn.GroupNorm(2), (2, 4, 3), {"gamma": ("scale", "weight", None, None)}),
    "instance norm": (nn.InstanceNorm, (2, 4, 3), {"beta": ("bias", "bias", None, None)}),
    "prelu": (nn.PReLU, (2, 3), {"alpha": ("other", "weight", None, None)}),
    "lstm": (
        lambda: rnn.LSTM(5, 2, bidirectional=True), (4, 2, 3),
        {"l0_i2h_weight": ("weight", "weight_ih", 3, 5), "r1_h2h_weight": ("recurrent", "weight_hh", 5, 5),
         "l1_h2h_bias": ("bias", "bias_hh", None, None)},
    ),
    "gru cell": (
        lambda: chain(rnn.GRUCell(5)), None, {"0.h2h_weight": ("recurrent", "weight_hh", 5, 5)},
    ),
    "projected lstm": (
        lambda: rnn.LSTM(5, projection_size=2), (4, 2, 3), {"l0_h2r_weight": ("weight", "weight_hr", 5, 2)},
    ),
    "modified cell": (
        lambda: contrib.rnn.VariationalDropoutCell(rnn.LSTMCell(5)), None,
        {"base_cell.h2h_weight": ("recurrent", "weight_hh", 5, 5)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_roles_names_and_fans_are_those_of_the_layer(name):
    build, shape, expected = LAYERS[name]
    net = build()
    specs = sb.trace(net) if shape is None else sb.trace(net, shape)
    for path, (role, leaf, fan_in, fan_out) in expected.items():
        spec = specs[path]
        assert (spec.role, spec.leaf or path.rpartition(".")[2]) == (role, leaf)
        if fan_in is not None:
            assert (spec.fan("in"), spec.fan("out")) == (fan_in, fan_out)
    assert all(s.role == "other" for s in specs if s.path == "alpha")


def test_stacked_recurrent_layers_are_units_as_pytorch_cuts_them():
    specs = sb.trace(chain(rnn.LSTM(5, 2, bidirectional=True)), (4, 2, 3))
    assert list(dict.fromkeys(s.unit for s in specs)) == ["0_l0", "0_l0_reverse", "0_l1", "0_l1_reverse"]


def test_convolutions_of_both_layouts_start_equal_under_equal_streams():
    first, last = nn.Conv2D(6, (2, 3), in_channels=4), nn.Conv2D(6, (2, 3), in_channels=4, layout="NHWC")
    one, two = (fill(sb.plan(net, recipe="he")["weight"]) for net in (first, last))
    assert two.shape == (6, 2, 3, 4)
    assert np.array_equal(one.transpose(0, 2, 3, 1), two)


class Holds(HybridBlock):
    def __init__(self):
        super().__init__()
        self.scale = self.params.get_constant("scale", [1.0, 2.0, 3.0])
        self.params.get("loose", shape=(2, 2), init="zeros")
        self.fc = nn.Dense(3)

    def hybrid_forward(self, F, x, scale):
        return F.broadcast_mul(self.fc(x), F.reshape(scale, shape=(1, 3)))


def test_constants_are_buffers_with_their_values_and_no_parameter_is_missed():
    net = Holds()
    plan = sb.plan(net, (2, 4), recipe="he")
    assert {e.spec.path: (e.spec.kind, e.spec.reached) for e in plan} == {
        "scale": ("buffer", True),
        "loose": ("parameter", False),
        "fc.weight": ("parameter", True),
        "fc.bias": ("parameter", True),
    }
    plan.materialize(net)
    assert net.scale.data().asnumpy().tolist() == [1, 2, 3]
    assert sb.check(net, plan)


def test_what_the_input_does_not_reach_cannot_be_started():
    net = Sums()
    net.three = nn.Dense(3)
    with pytest.raises(UnknownSizeError, match="never reached by the input"):
        sb.initialize(net, (2, 20), (2, 20))


def test_the_default_of_a_layer_is_what_gluon_gives_it_whatever_its_name():
    net = nn.Dense(300, in_units=200, bias_initializer=None)
    plan = sb.plan(net)
    assert plan["bias"].start == i.Uniform(low=-0.07, high=0.07)
    net.initialize()
    assert value(net, "bias").any()  # Gluon's own: the name of a parameter decides nothing here
    assert plan["weight"].why == f"Block.initialize (mxnet {mx.__version__})"


# Memory


def test_values_are_written_where_gluons_array_is():
    net = sb.initialize(mlp(), (2, 20))
    view = memory.view_of(net[0].weight.data())
    view[3, 4] = 42
    assert net[0].weight.data()[3, 4].asscalar() == 42
    assert np.shares_memory(view, memory.view_of(net[0].weight.data()))


def test_the_view_waits_for_what_mxnet_still_computes():
    array = mx.nd.ones((1500, 1500))
    for _ in range(5):
        array = mx.nd.dot(array, array) / 1500
    assert (memory.view_of(array) == 1).all()


def test_arrays_keep_their_place_and_gradients_when_they_are_started_again():
    net = sb.initialize(mlp(), (2, 20))
    data, grad = net[0].weight.data(), net[0].weight.grad()
    sb.initialize(net, (2, 20), recipe="he")
    assert net[0].weight.data() is data
    assert net[0].weight.grad() is grad
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he"))


def test_gradients_are_attached_as_gluon_does():
    net = chain(nn.Dense(3), nn.BatchNorm(), nn.Dense(2))
    net[2].weight.grad_req = "add"
    net[2].bias.grad_req = "null"
    sb.initialize(net, (4, 5))
    assert net[1].running_mean._grad is None
    assert net[2].bias._grad is None
    for _ in range(2):
        with mx.autograd.record():
            loss = net(mx.nd.random.normal(shape=(4, 5))).sum()
        loss.backward()
    assert net[2].weight.grad().asnumpy().any()


def test_the_values_of_every_context_are_the_same():
    contexts = [mx.cpu(0), mx.cpu(1)]
    net = sb.initialize(mlp(), (2, 20), recipe="he", device=contexts)
    plan = sb.plan(mlp(), (2, 20), recipe="he")
    for array in net[0].weight.list_data():
        assert np.array_equal(array.asnumpy(), fill(plan["0.weight"]))
    assert net[0].weight.list_ctx() == contexts
    wished = mlp()
    wished.initialize(ctx=contexts)  # Gluon's own wish says where
    sb.initialize(wished, recipe="he")
    wished(mx.nd.ones((2, 20), ctx=mx.cpu(1)))
    assert [a.context for a in wished[2].weight.list_data()] == contexts
    assert all(np.array_equal(a.asnumpy(), fill(plan["2.weight"])) for a in wished[2].weight.list_data())


@pytest.mark.parametrize("arrays", ["legacy", "numpy"])
def test_memory_out_of_numpys_reach_is_copied_to_in_blocks(monkeypatch, arrays):
    monkeypatch.setattr(memory, "KINDS_IN_REACH", ())
    monkeypatch.setattr(sys.modules["seedbed.materialize"], "BLOCK", 1000)
    with mx.util.np_shape(arrays == "numpy"), mx.util.np_array(arrays == "numpy"):
        net = sb.initialize(mlp(), (2, 20), recipe="he")
        assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he"))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_models_of_other_dtypes_start_as_the_rounding_of_float32(dtype):
    net = mlp()
    net.cast(dtype)
    plain = sb.initialize(mlp(), (2, 20), recipe="he")
    sb.initialize(net, (2, 20), recipe="he")
    assert value(net, "0.weight").dtype == dtype
    assert np.array_equal(value(net, "0.weight"), value(plain, "0.weight").astype(dtype))
    if dtype == "float64":  # MXNet multiplies no matrices of float16 on a CPU
        assert net(mx.nd.ones((2, 20), dtype=dtype)).dtype == np.float64


# Calls


def test_a_hybrid_net_that_was_called_is_planned_and_started_again():
    net = house.lenet()[0]
    net.hybridize()
    x = mx.nd.ones((1, 1, 28, 28))
    first = sb.initialize(net, (1, 1, 28, 28), recipe="he")(x).asnumpy()
    other = sb.initialize(net, (1, 1, 28, 28), recipe="he", seed=1)(x).asnumpy()
    again = sb.initialize(net, (1, 1, 28, 28), recipe="he")(x).asnumpy()
    assert np.array_equal(first, again)  # weights that MXNet has laid out anew for its convolutions, too
    assert not np.array_equal(first, other)


def test_hybridizing_after_the_wish_says_nothing():
    net = sb.initialize(mlp(), recipe="he")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.hybridize()
    net(mx.nd.ones((2, 20)))
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he"))


def test_threads_that_make_the_first_call_wait_for_the_start():
    for _ in range(10):
        net = sb.initialize(chain(nn.Dense(64), nn.Dense(32), nn.Dense(3)), recipe="he")
        x, answers = mx.nd.ones((2, 50)), []
        threads = [threading.Thread(target=lambda: answers.append(net(x).asnumpy())) for _ in range(4)]  # noqa: B023
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 4
        assert all(np.array_equal(a, answers[0]) for a in answers)


def test_a_copy_of_a_net_with_a_wish_keeps_a_wish_of_its_own():
    net = sb.initialize(mlp(), recipe="he")
    copied = copy.deepcopy(net)
    copied(mx.nd.ones((2, 30)))
    assert net[0].weight.shape == (256, 0)
    net(mx.nd.ones((2, 20)))
    assert sb.check(copied, sb.plan(mlp(), (2, 30), recipe="he"))
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he"))


def test_parameters_are_gluons_own_again_once_they_have_values():
    net = sb.initialize(mlp(), recipe="he")
    assert type(net[0].weight) is WaitingParameter
    sb.initialize(net, (2, 20), recipe="he")
    assert {type(p) for p in net.collect_params().values()} == {mx.gluon.Parameter}
    assert not any("_deferred_infer_shape" in vars(b) for b in net)


def test_what_the_first_call_does_not_reach_keeps_waiting():
    net = sb.initialize(mlp(), recipe="he")
    net[0](mx.nd.ones((2, 20)))
    assert net[2].weight._data is None
    net(mx.nd.ones((2, 20)))
    assert sb.check(net, sb.plan(mlp(), (2, 20), recipe="he"))


def test_a_wish_keeps_streams_and_the_frameworks_own_start():
    net = sb.initialize(mlp(), seed=4, streams="position")
    net(mx.nd.ones((2, 20)))
    assert sb.check(net, sb.plan(mlp(), (2, 20), seed=4, streams="position"))
    own = mx.init.Xavier()
    net = chain(nn.Dense(4, weight_initializer=own), nn.Dense(3))
    sb.initialize(net)(mx.nd.ones((2, 20)))
    assert sb.check(net, sb.plan(chain(nn.Dense(4, weight_initializer=own), nn.Dense(3)), (2, 20)))


@pytest.mark.parametrize("on_store", [False, True])
def test_a_trainer_made_before_the_start_is_still_right(on_store):
    contexts = [mx.cpu(0), mx.cpu(1)]
    net = sb.initialize(chain(nn.Dense(1, use_bias=False)), recipe=i.Ones(), device=contexts)
    trainer = Trainer(net.collect_params(), "sgd", {"learning_rate": 1.0}, kvstore="local", update_on_kvstore=on_store)

    def step():
        with mx.autograd.record():
            losses = [net(mx.nd.ones((1, 2), ctx=c)).sum() for c in contexts]
        for loss in losses:
            loss.backward()
        trainer.step(1)
        return net[0].weight.list_data()[0].asnumpy().tolist()

    assert step() == [[-1, -1]]
    sb.initialize(net, (2, 2), recipe=i.Constant(value=5))
    assert step() == [[3, 3]]


def test_the_users_own_initializer_leaves_every_generator_as_it_was():
    class Draws(mx.init.Initializer):
        def _init_weight(self, name, data):
            data[:] = mx.nd.random.normal(shape=data.shape) + np.random.rand() + random.random()

    def drawn():
        return mx.nd.random.uniform(shape=(3,)).asnumpy().tolist(), np.random.rand(), random.random()

    def seeded():
        mx.random.seed(3)
        np.random.seed(3)
        random.seed(3)

    seeded()
    expected = drawn()
    plans = [sb.plan(nn.Dense(3, in_units=2, weight_initializer=Draws()), seed=seed) for seed in (8, 8, 9)]
    seeded()
    one, again, other = (fill(plan["weight"]) for plan in plans)
    net = plans[0].materialize(nn.Dense(3, in_units=2))
    assert drawn() == expected
    assert np.array_equal(one, again)
    assert np.array_equal(one, value(net, "weight"))
    assert not np.array_equal(one, other)


def test_values_that_were_given_to_an_initializer_are_its_start():
    given = np.arange(6, dtype=np.float32).reshape(3, 2)
    net = nn.Dense(3, in_units=2, weight_initializer=mx.init.Constant(mx.nd.array(given)))
    assert np.array_equal(fill(sb.plan(net)["weight"]), given)
    load = mx.init.Load({"weight": mx.nd.array(given)}, default_init=mx.init.One())
    plan = sb.plan(nn.Dense(3, in_units=2), recipe=load)
    assert np.array_equal(fill(plan["weight"]), given)
    assert (fill(plan["bias"]) == 1).all()


def test_plans_name_native_starts_and_go_to_json():
    net = nn.Dense(3, in_units=2, weight_initializer=mx.init.Orthogonal())
    plan = sb.plan(net)
    assert sb.Plan.from_json(plan.to_json()).fingerprint() == plan.fingerprint()
    other = nn.Dense(3, in_units=2, weight_initializer=mx.init.Orthogonal(scale=2))
    assert sb.plan(other).fingerprint() != plan.fingerprint()


def test_a_checkpoint_holds_the_rest_is_started(tmp_path):
    net = mlp()
    plan = sb.plan(net, (2, 20), recipe="he")
    sb.write(plan, tmp_path / "net.safetensors")
    sb.initialize(net, (2, 20), recipe=i.Ones(), checkpoint=tmp_path / "net.safetensors")
    assert sb.check(net, plan)


def test_construction_takes_no_memory_so_deferred_changes_nothing():
    with sb.deferred():
        net = chain(nn.Dense(4, in_units=3))
    assert net[0].weight._data is None
    assert sb.check(sb.initialize(net), sb.plan(chain(nn.Dense(4, in_units=3))))


def test_using_gluon_imports_no_other_framework():
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "import mxnet, seedbed\n"
        "seedbed.initialize(mxnet.gluon.nn.Dense(3), (2, 4), recipe='he')\n"
        "print(sorted({'torch', 'jax', 'flax', 'keras', 'tensorflow', 'paddle', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_adapter_offers_all_that_a_framework_does():
    from seedbed.frameworks import Framework

    assert not [n for n in vars(Framework) if not n.startswith("_") and not hasattr(gluon, n)]
