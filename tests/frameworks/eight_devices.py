"""Shards on eight devices, in a process that has them: run by `test_flax_sharded.py`, not collected by itself."""

import functools
import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tests.cases import using
from tests.frameworks.houses import linen as linen_house
from tests.frameworks.houses import nnx as nnx_house

import seedbed as sb
from seedbed import initializers as i
from seedbed.fill import fill
from seedbed.frameworks.flax import numbers, place
from seedbed.materialize import run
from seedbed.region import Region

MESHES = {
    "two axes": Mesh(np.array(jax.devices()).reshape(4, 2), ("dp", "tp")),
    "three axes": Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("dp", "pp", "tp")),
}
SPECS = [P(), P("dp"), P(None, "tp"), P("dp", "tp"), P(("dp", "tp")), P("tp", "dp")]
STARTS = {
    "he": i.HeNormal(),
    "truncated": i.TruncatedNormal(std=0.02),
    "uniform": i.Uniform(low=-0.3, high=0.3),
    "mixture": i.Mixture([(0.25, i.Uniform(low=-2, high=2)), (0.5, i.Zeros()), (0.25, i.Normal(std=3))]),
    "zeros": i.Zeros(),
    "orthogonal": i.Orthogonal(),
}
ELEMENTWISE = [name for name in STARTS if name != "orthogonal"]
TALKS = ("all-gather", "all-reduce", "collective-permute", "all-to-all", "reduce-scatter", "send", "recv")
COMPILED = []
STATUS = Path("/proc/self/status")


def _heard(event, *_, **__):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(event)


jax.monitoring.register_event_duration_secs_listener(_heard)


@pytest.fixture
def compiled():
    """What has been compiled since the test began."""
    jax.clear_caches()
    numbers._program.cache_clear()
    numbers._everywhere.cache_clear()
    jnp.zeros(())  # how it is asked whether a program is being traced
    COMPILED.clear()
    return COMPILED


def linen(dtype, inputs=24, outputs=16):
    return nn.Dense(outputs, param_dtype=jnp.dtype(dtype)), [(2, inputs)]


def of_nnx(dtype, inputs=24, outputs=16):
    return nnx.Linear(inputs, outputs, param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)), []


def weight(start, shape=(24, 16), dtype="float32", seed=0):
    spec = sb.ParamSpec(path="w", shape=shape, dtype=dtype, axes=("in", "out"))
    (entry,) = sb.plan(sb.Specs((spec,)), recipe=start, seed=seed)
    return entry


def bits(array):
    there = np.asarray(array)
    return there.view(f"u{there.dtype.itemsize}")


def reference(entry, region=None):
    with using("numpy"):
        return bits(fill(entry, region))


def cut(mesh, names, path, spec):
    """A kernel as the names say; a bias along the last of them."""
    return NamedSharding(mesh, names if len(spec.sizes) == 2 else P(*names[1:2]))


def differing(array, entry):
    """Devices whose shard is not that slice of the reference."""
    whole = reference(entry)
    assert array.shape == whole.shape
    assert array.dtype.name == entry.spec.dtype
    assert len(array.addressable_shards) == 8
    return [s.device for s in array.addressable_shards if not np.array_equal(bits(s.data), whole[s.index])]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [linen, of_nnx])
def test_shards_are_the_references(make, dtype, start):
    """And so is the whole, for every way of cutting it."""
    recipe = sb.Recipe(
        [sb.Rule(sb.Where(role="weight"), STARTS[start]), sb.Rule(sb.Where(role="bias"), i.Normal(std=1))]
    )
    for mesh in MESHES.values():
        for names in SPECS:
            net, inputs = make(dtype)
            plan = sb.plan(net, *inputs, recipe=recipe, seed=3)
            made = sb.materialize(plan, net, sharding=functools.partial(cut, mesh, names))
            arrays = made["params"] if make is linen else {"kernel": made.kernel[...], "bias": made.bias[...]}
            for entry in plan:
                array = arrays[entry.spec.path]
                assert array.sharding == cut(mesh, names, "", entry.spec)
                assert not differing(array, entry), (names, entry)
                assert np.array_equal(bits(array), reference(entry))
            assert sb.check(made, plan)


def made_by_devices(entry, sharding):
    """The way of accelerators, taken by processors."""
    regions = place.regions_of(sharding, entry.spec.sizes)
    assert place.makes(entry, regions)
    return place.joined(entry, sharding, place.by_devices(entry, regions))


def made_here(entry, sharding):
    filling = place.Filling(None, sharding)
    filling.add([entry])
    run(filling.jobs)
    return filling.arrays[entry.spec.path]()


@pytest.mark.parametrize("start", ELEMENTWISE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_devices_make_themselves_is_the_references(dtype, start):
    entry = weight(STARTS[start], dtype=dtype, seed=5)
    for mesh in MESHES.values() if start == "he" else [MESHES["two axes"]]:
        for names in SPECS:
            made = made_by_devices(entry, NamedSharding(mesh, names))
            assert not differing(made, entry), names
            assert len({s.data.unsafe_buffer_pointer() for s in made.addressable_shards}) == 8, "each by its device"


@pytest.mark.parametrize("house", [linen_house, nnx_house], ids=["linen", "nnx"])
@pytest.mark.parametrize(("name", "streams"), [("mlp", None), ("encoder_block", "position")])
def test_shards_of_arrays_that_lie_in_a_layout_are_those_of_the_whole(house, name, streams):
    net, inputs = getattr(house, name)()
    plan = sb.plan(net, *inputs, recipe="he", seed=1, streams=streams)
    whole = house.arrays(sb.materialize(plan, getattr(house, name)()[0]))
    shards = sb.materialize(plan, getattr(house, name)()[0], sharding=even)
    assert sb.check(shards, plan)
    assert all(np.array_equal(a, whole[p]) for p, a in house.arrays(shards).items())
    for entry in plan:
        regions = place.regions_of(even("", entry.spec), entry.spec.sizes)
        for device, array in (place.by_devices(entry, regions) if place.makes(entry, regions) else {}).items():
            assert np.array_equal(np.asarray(array), whole[entry.spec.path][regions[device].slices]), entry.spec.path


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say how much memory is in use")
def test_a_look_at_shards_leaves_no_copy_behind():
    """JAX keeps what it puts together for NumPy as long as the array."""
    spec = sb.ParamSpec(path="w", shape=(8192, 2048))
    plan = sb.plan(sb.Specs((spec,)), recipe=i.Ones())
    held = {"w": jax.device_put(jnp.ones(spec.sizes), NamedSharding(MESHES["two axes"], P("tp", "dp")))}
    expected, before = sb.fingerprint(plan), in_use()
    assert sb.check(held, plan)
    assert sb.fingerprint(plan, held) == expected
    assert in_use() - before < spec.nbytes / 2


def in_use():
    """Bytes of memory that is no file's."""
    gc.collect()
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("RssAnon")) * 1024


def even(path, spec):
    """Every axis that can be cut, is."""
    cut = zip(spec.sizes, (("dp", 4), ("tp", 2)), strict=False)
    return NamedSharding(MESHES["two axes"], P(*(name if n % k == 0 else None for n, (name, k) in cut)))


@pytest.mark.parametrize("shape", [(), (16,), (0, 4), (8, 2, 2, 3)])
def test_any_number_of_axes_is_made_by_devices(shape):
    spec = sb.ParamSpec(path="w", shape=shape)
    (entry,) = sb.plan(sb.Specs((spec,)), recipe=i.Normal(std=2))
    for names in (P(), P(*["dp"][: len(shape)])):
        assert not differing(made_by_devices(entry, NamedSharding(MESHES["two axes"], names)), entry)


def test_equal_shards_are_filled_once_where_memory_is_shared():
    for names, regions in ((P(), 1), (P("dp"), 4), (P(None, "tp"), 2), (P("dp", "tp"), 8)):
        made = made_here(weight(i.HeNormal()), NamedSharding(MESHES["two axes"], names))
        assert len({s.data.unsafe_buffer_pointer() for s in made.addressable_shards}) == regions


def test_progress_is_told_of_what_is_filled():
    """The driver fills shards as it fills what is whole: its threads and its progress are theirs."""
    net, told = nn.Dense(16), []
    for names in (P(), P("dp"), P("dp", "tp")):
        told.clear()
        where = functools.partial(cut, MESHES["two axes"], names)
        sb.initialize(net, (1, 24), recipe="he", sharding=where, threads=1, progress=lambda *it: told.append(it))
        assert sum(count for path, count in told if path == "kernel") == 24 * 16 * 4


def test_what_needs_the_whole_is_computed_once(monkeypatch):
    asked = []
    monkeypatch.setattr("seedbed.fill.fill", lambda *args: asked.append(args) or fill(*args))
    entry = weight(i.Orthogonal())
    assert not differing(made_here(entry, NamedSharding(MESHES["two axes"], P("dp", "tp"))), entry)
    assert len(asked) == 1


def test_values_given_away_are_not_written_over():
    """Devices that share memory and give it to a program: each goes on from the same values."""
    entry = weight(i.HeNormal())
    made = made_here(entry, NamedSharding(MESHES["two axes"], P()))
    step = jax.jit(lambda w: w * 2, donate_argnums=0)
    assert not {s.data.shape for s in step(made).addressable_shards} - {(24, 16)}
    made = step(step(made_here(entry, NamedSharding(MESHES["two axes"], P("dp")))))
    assert np.array_equal(np.asarray(made), reference(entry).view(np.float32) * 4)


@pytest.mark.parametrize(("start", "names"), [*(("he", names) for names in SPECS), ("mixture", P("dp", "tp"))], ids=str)
def test_no_program_communicates(start, names):
    entry, sharding = weight(STARTS[start], dtype="bfloat16"), NamedSharding(MESHES["two axes"], names)
    sizes = sharding.shard_shape((24, 16))
    form, its = numbers.formed(entry.start)
    _, program = numbers._everywhere(form, "bfloat16", sizes, (16, 1), tuple(jax.devices()))
    arguments = [np.zeros(n, np.uint32) for n in (4, (8, 2), len(its))]
    alone = program.lower(*arguments).compile().as_text()
    inside = jax.jit(lambda: place.inside(entry), out_shardings=sharding).lower().compile()
    for text in (alone, inside.as_text()):
        assert "num_partitions=8" in text
        assert not [word for word in TALKS if word in text]
    assert not differing(inside(), entry)


def test_inside_jit_a_whole_model_is_made_shard_by_shard():
    net, plan = nn.Sequential([nn.Dense(32), nn.Dense(8)]), None
    plan = sb.plan(net, (2, 16), seed=4)
    where = functools.partial(cut, MESHES["two axes"], P("dp", "tp"))
    outside = sb.materialize(plan, net, sharding=where)
    program = jax.jit(lambda: sb.materialize(plan, net, sharding=where)).lower().compile()
    assert not [word for word in TALKS if word in program.as_text()]
    for a, b in zip(*map(jax.tree.leaves, (program(), outside)), strict=True):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
        assert np.array_equal(a, b)


def test_layers_alike_share_one_program(compiled):
    """And shards of one size in another place, with another key or other numbers."""
    sharding = NamedSharding(MESHES["two axes"], P("dp", "tp"))
    for seed in range(12):
        made_by_devices(weight(i.HeNormal(), seed=seed), sharding)
    assert len(compiled) == 1
    made_by_devices(weight(i.Normal(std=3.0)), sharding)
    assert len(compiled) == 1
    made_by_devices(weight(i.Uniform(low=-1.0, high=1.0)), sharding)
    assert len(compiled) == 2


def test_on_processors_nothing_is_compiled(compiled):
    net = nn.Sequential([nn.Dense(16) for _ in range(12)])
    plan = sb.plan(net, (2, 16), recipe="he")
    COMPILED.clear()
    sb.materialize(plan, net, sharding=functools.partial(cut, MESHES["two axes"], P("dp", "tp")))
    assert not compiled


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("start", ["he", "truncated", "mixture"])
@pytest.mark.parametrize(
    ("shape", "corners"),
    [
        ((70_000, 65_536), [(65_534, 65_500), (65_535, 0), (69_997, 65_500), (0, 0)]),  # over 2**32 elements
        ((50_000, 50_000), [(42_948, 49_000), (42_949, 0), (49_997, 49_964), (21_474, 36_470)]),  # over 2**31
        ((3, 2**32), [(0, 2**32 - 36), (0, 2**31 - 18), (0, 2**31), (0, 7)]),  # one axis as long as 32 bits count
    ],
)
def test_shards_of_huge_parameters_are_the_references(shape, corners, start, dtype):
    """Devices hold their own part of what no machine here could; some parts straddle 2**31 or 2**32."""
    entry = weight(STARTS[start], shape, dtype)
    regions = {d: Region((r, c), (r + 3, c + 36)) for d, (r, c) in zip(jax.devices(), corners, strict=False)}
    for device, array in place.by_devices(entry, regions).items():
        assert array.devices() == {device}
        assert np.array_equal(bits(array), reference(entry, regions[device])), (device, regions[device])


@pytest.mark.parametrize("start", ["he", "mixture"])
def test_columns_of_huge_parameters_are_the_references(start):
    """From a shard's first row to its last, more than 2**32 elements of the whole lie between."""
    entry = weight(STARTS[start], (70_000, 65_536), "bfloat16")
    regions = {d: Region((0, c), (70_000, c + 2)) for d, c in zip(jax.devices(), (0, 4_098, 65_534), strict=False)}
    for device, array in place.by_devices(entry, regions).items():
        assert np.array_equal(bits(array), reference(entry, regions[device])), regions[device]


def test_an_axis_longer_than_32_bits_count_is_filled_by_another_engine():
    entry = weight(i.Normal(std=1.0), (2**32 + 8, 1))
    assert not place.makes(entry, {jax.devices()[0]: Region.whole((2**32 + 8, 1))})
    assert place.makes(entry, {jax.devices()[0]: Region.whole((2**32, 1))})


def uneven(path, spec):
    """The first parameter is left as it is, the last cannot be cut."""
    return None if path == "layers_0.kernel" else NamedSharding(MESHES["two axes"], P("dp"))


def test_an_uneven_cut_is_said_before_anything_is_made(compiled, monkeypatch):
    net = nn.Sequential([nn.Dense(16), nn.Dense(10)])
    plan = sb.plan(net, (2, 24), recipe="he")
    made = []
    monkeypatch.setattr(place, "Memory", lambda *args: made.append(args))
    COMPILED.clear()
    before = len(jax.live_arrays())
    with pytest.raises(sb.errors.InputError, match=r"layers_1.bias: \(10,\) cannot be cut so"):
        sb.materialize(plan, net, sharding=uneven)
    assert not compiled
    assert not made
    assert len(jax.live_arrays()) == before


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_that_is_set_is_let_be(kind):
    mesh = jax.make_mesh((4, 2), ("dp", "tp"), axis_types=(kind, kind))
    entry, sharding = weight(i.HeNormal()), NamedSharding(mesh, P("dp", "tp"))
    with jax.set_mesh(mesh):
        assert not differing(made_by_devices(entry, sharding), entry)
        assert not differing(made_here(entry, sharding), entry)


def test_memory_of_another_kind_is_used_where_it_is_asked_for():
    sharding = NamedSharding(MESHES["two axes"], P("dp"), memory_kind="pinned_host")
    entry = weight(i.HeNormal())
    made = made_here(entry, sharding)
    assert made.sharding == sharding
    assert {s.data.sharding.memory_kind for s in made.addressable_shards} == {"pinned_host"}
    assert np.array_equal(bits(made), reference(entry))


def test_shardings_come_from_flax_as_well():
    """The trees that linen and nnx make of names that layers carry."""
    mesh, kernel = MESHES["two axes"], nn.initializers.lecun_normal()
    net = nn.Dense(16, kernel_init=nn.with_partitioning(kernel, ("dp", "tp")))
    tree = nn.get_sharding(jax.eval_shape(net.init, jax.random.key(0), jnp.ones((2, 24))), mesh)
    made = sb.initialize(net, (2, 24), sharding=tree)
    assert made["params"]["kernel"].sharding.spec == P("dp", "tp")
    assert made["params"]["bias"].sharding.is_fully_replicated


class Noisy(nnx.Module):
    """Its own tree has random states also, which are no parameters."""

    def __init__(self):
        kernel = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("dp", "tp"))
        self.layers = nnx.List([nnx.Linear(24, 16, kernel_init=kernel, rngs=nnx.Rngs(0))])
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("pure", [False, True])
def test_shardings_come_from_nnx_as_well(pure):
    mesh = MESHES["two axes"]
    with jax.set_mesh(mesh):
        net = nnx.eval_shape(Noisy)
    tree = nnx.get_named_sharding(nnx.state(net), mesh)
    made = sb.initialize(net, sharding=nnx.to_pure_dict(tree) if pure else tree)
    assert made.layers[0].kernel[...].sharding.spec == P("dp", "tp")
    assert made.layers[0].bias[...].sharding.is_fully_replicated


class Sowing(nn.Module):
    """Its tree has a tuple, of what is sown."""

    @nn.compact
    def __call__(self, x):
        self.sow("losses", "loss", x.sum())
        return nn.Dense(16)(x)


def test_a_tree_may_have_tuples():
    whole, x = NamedSharding(MESHES["two axes"], P()), jnp.ones((2, 24))
    tree = jax.tree.map(lambda _: whole, jax.eval_shape(Sowing().init, jax.random.key(0), x))
    recipe = sb.Recipe((sb.Rule(sb.Where(path="losses.*", role="buffer"), i.Zeros()), sb.Rule("*", i.Ones())))
    made = sb.initialize(Sowing(), x, recipe=recipe, sharding=tree)
    assert {array.sharding for array in jax.tree.leaves(made)} == {whole}
    with pytest.raises(sb.errors.InputError, match="It is a layer"):
        sb.initialize(Sowing(), x, recipe=recipe, sharding={"params": {"Dense_0": whole}})


def test_every_path_of_a_tree_is_one_of_the_model():
    net, whole = (
        nn.Sequential([nn.Dense(16), nn.BatchNorm(use_running_average=True)]),
        NamedSharding(MESHES["two axes"], P()),
    )
    tree = jax.tree.map(lambda _: whole, jax.eval_shape(net.init, jax.random.key(0), jnp.ones((2, 24))))
    sb.initialize(net, (2, 24), sharding=tree)
    for lost in ({"params": {"layers_0": {"kernal": whole}}}, {"batch_stats": {"layers_1": {"men": whole}}}):
        with pytest.raises(sb.errors.InputError, match="is not a parameter of the model"):
            sb.initialize(net, (2, 24), sharding=lost)


@pytest.mark.parametrize("abstract", [False, True])
def test_a_model_that_is_laid_out_stays_so(abstract):
    """nnx holds arrays, or shapes, that may lie on several devices; a device that is asked for comes first."""
    where = NamedSharding(MESHES["two axes"], P("dp", "tp"))

    def laid_out():
        net = nnx.Linear(24, 16, rngs=nnx.Rngs(0))
        there = jax.device_put(net.kernel[...], where)
        net.kernel.set_value(jax.ShapeDtypeStruct(there.shape, there.dtype, sharding=where) if abstract else there)
        return net

    net = laid_out()
    plan = sb.plan(net, recipe="he")
    made = sb.materialize(plan, net).kernel[...]
    assert made.sharding == where
    assert not differing(made, plan["kernel"])
    assert len(sb.materialize(plan, laid_out(), device="cpu:3").kernel[...].devices()) == 1
    other = NamedSharding(MESHES["two axes"], P("tp"))
    assert sb.materialize(plan, laid_out(), sharding={"kernel": other}).kernel[...].sharding == other
    assert sb.materialize(plan, laid_out(), sharding={"bias": other}).kernel[...].sharding == where
