"""What exists: inputs, specs, fans from the roles of axes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import seedbed as sb
from seedbed.errors import FanError, InputError, PlanError, UnknownSizeError
from seedbed.initializers import Normal, Overlay, Uniform, Zeros
from seedbed.spec import ITEMSIZE, ROLES, Settled

SIZES = st.one_of(st.none(), st.integers(0, 9))
STARTS = st.sampled_from(
    [None, Zeros(), Normal(std=0.5), Overlay(base=Uniform(low=0, high=1), boxes=((((0, 1),), Zeros()),))]
)


@st.composite
def param_specs(draw):
    shape = tuple(draw(st.lists(SIZES, max_size=4)))
    axes = tuple(draw(st.sampled_from(["out", "in", "window", "stack"])) for _ in shape) if draw(st.booleans()) else ()
    return sb.ParamSpec(
        path=draw(st.text(min_size=1, max_size=12)),
        shape=shape,
        dtype=draw(st.sampled_from(sorted(ITEMSIZE))),
        role=draw(st.sampled_from(ROLES)),
        axes=axes,
        packed=tuple(draw(st.integers(1, 4)) for _ in shape) if draw(st.booleans()) else (),
        groups=draw(st.integers(1, 3)),
        layer=draw(st.sampled_from(["", "Linear"])),
        bases=draw(st.sampled_from([(), ("Module", "Base")])),
        kind=draw(st.sampled_from(["parameter", "buffer"])),
        persistent=draw(st.booleans()),
        start=draw(STARTS),
        origin=draw(st.sampled_from(["", "Linear.reset_parameters"])),
        aliases=draw(st.sampled_from([(), ("tied.weight",), ("a", "b")])),
        lazy=draw(st.booleans()),
        reached=draw(st.sampled_from([None, True, False])),
        varies=draw(st.sampled_from(["", "input 0 axis 1"])),
    )


@given(params=st.lists(param_specs(), max_size=4), framework=st.sampled_from(["", "torch"]))
def test_specs_go_to_json_and_back(params, framework):
    settled = (Settled("fc", "Linear", (("in_features", 20), ("padding", (1, (2, 3))), ("mode", "zeros"))),)
    specs = sb.Specs(tuple(params), framework, settled)
    assert sb.Specs.from_json(specs.to_json()) == specs


@given(spec=param_specs())
def test_a_spec_is_hashed_and_printed(spec):
    assert hash(spec) == hash(sb.ParamSpec.from_dict(spec.to_dict()))
    assert spec.shown_shape.count("?") == sum(n is None for n in spec.shape)
    assert spec.known == (None not in spec.shape)


@pytest.mark.parametrize("text", ["", "3", "[]", "null", '{"params": 3}', '{"params": [3], "framework": "", "settled": []}',
    '{"params": [{"path": "w"}], "framework": "", "settled": []}', '{"params": [], "framework": "", "settled": [3]}',
    '{"params": [], "framework": "", "settled": [{"path": "", "layer": "", "attributes": [[1]]}]}', "[" * 50_000])  # fmt: skip
def test_text_that_is_not_specs_is_refused(text):
    with pytest.raises(PlanError, match="not specs that seedbed wrote"):
        sb.Specs.from_json(text)


# Inputs.


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("int64", "int64"), (torch.int64, "int64"), (torch.bfloat16, "bfloat16"), (np.float32, "float32"),
     (np.dtype("bool"), "bool"), (torch.float8_e5m2, "float8_e5m2"), (None, None)],
)  # fmt: skip
def test_dtypes_of_the_frameworks_are_understood(dtype, name):
    assert sb.Input((2, 3), dtype).dtype == name
    assert sb.Input((2, 3), dtype) == sb.Input((2, 3), name)


@pytest.mark.parametrize("shape", [(), (0,), (None, 3), [2, 3], torch.Size([2, 3]), (np.int64(2), 3), range(3)])
def test_shapes_are_tuples_of_whole_numbers_whatever_they_were(shape):
    made = sb.Input(shape)
    assert made.shape == tuple(shape)
    assert all(n is None or type(n) is int for n in made.shape)
    assert eval(repr(made), {"Input": sb.Input}) == made


@pytest.mark.parametrize("shape", [3, None, "23", (2.0,), (-1,), (True,), ("2",), (2, (3,)), object()])
def test_what_is_not_a_shape_is_refused(shape):
    with pytest.raises(InputError, match="the shape must be"):
        sb.Input(shape)


@pytest.mark.parametrize("dtype", ["float31", "", 3, torch.qint8, object, float])
def test_what_is_not_a_dtype_is_refused(dtype):
    with pytest.raises(InputError, match="unknown dtype"):
        sb.Input((2,), dtype)


# Fans.


@pytest.mark.parametrize(
    ("shape", "axes", "facts", "into", "out"),
    [
        ((256, 20), ("out", "in"), {}, 20, 256),
        ((20, 256), ("in", "out"), {}, 20, 256),
        ((16, 6, 5, 5), ("out", "in", "window", "window"), {}, 150, 400),
        ((5, 5, 6, 16), ("window", "window", "in", "out"), {}, 150, 400),
        ((16, 2, 3), ("out", "in", "window"), {"groups": 3}, 6, 16),
        ((8, 1, 3, 3), ("out", "in", "window", "window"), {"groups": 8}, 9, 9),
        ((6, 8, 3), ("in", "out", "window"), {"groups": 2}, 9, 24),
        ((768, 256), ("out", "in"), {"packed": (3, 1)}, 256, 256),
        ((4096, 1024), ("out", "in"), {"packed": (4, 1)}, 1024, 1024),
        ((8, 64, 32), ("stack", "out", "in"), {}, 32, 64),
        ((8, 32, 64), ("stack", "in", "out"), {}, 32, 64),
        ((5, 4, 3), ("out", "in", "in"), {}, 12, 5),
    ],
)
def test_fans_follow_the_roles_of_the_axes(shape, axes, facts, into, out):
    spec = sb.ParamSpec(path="w", shape=shape, axes=axes, **facts)
    assert (spec.fan("in"), spec.fan("out"), spec.fan("avg")) == (into, out, (into + out) / 2)


@pytest.mark.parametrize(
    ("layer", "path", "into", "out"),
    [
        (nn.Linear(20, 256), "weight", 20, 256),
        (nn.Conv2d(6, 16, 5), "weight", 150, 400),
        (nn.Conv2d(6, 12, 3, groups=3), "weight", 18, 36),
        (nn.Conv1d(8, 8, 3, groups=8), "weight", 3, 3),
        (nn.ConvTranspose2d(6, 16, 5), "weight", 150, 400),
        (nn.ConvTranspose1d(6, 12, 3, groups=2), "weight", 9, 18),
        (nn.LSTM(20, 32), "weight_ih_l0", 20, 32),
        (nn.GRU(20, 32), "weight_hh_l0", 32, 32),
        (nn.MultiheadAttention(64, 4), "in_proj_weight", 64, 64),
        (nn.Embedding(100, 16), "weight", 100, 16),
        (nn.Bilinear(3, 4, 5), "weight", 12, 5),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_fans_of_torchs_layers(layer, path, into, out):
    spec = sb.trace(layer)[path]
    assert (spec.fan("in"), spec.fan("out")) == (into, out)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv1d])
def test_fan_in_of_a_convolution_is_what_one_output_really_sees(kind, groups):
    """Each output of a layer of ones, far from the border, is the number of inputs it sees."""
    layer = kind(8, 12, 3, groups=groups, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1)
        seen = layer(torch.ones(1, 8, *[7] * (layer.weight.dim() - 2)))
    assert float(seen.max()) == sb.trace(layer)["weight"].fan("in")


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_fan_in_of_a_transposed_convolution_is_what_one_output_really_sees(groups):
    layer = nn.ConvTranspose1d(8, 12, 3, groups=groups, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1)
        seen = layer(torch.ones(1, 8, 9))
    assert float(seen.max()) == sb.trace(layer)["weight"].fan("in")


@pytest.mark.parametrize("axes", [(), ("out", "out"), ("in", "window"), ("stack", "window")])
def test_axes_without_roles_have_no_fan(axes):
    spec = sb.ParamSpec(path="w", shape=(3, 4), axes=axes)
    for which in ("in", "out", "avg"):
        with pytest.raises(FanError):
            spec.fan(which)


def test_only_the_sizes_a_fan_needs_must_be_known():
    spec = sb.ParamSpec(path="w", shape=(3, None), axes=("out", "in"))
    assert (spec.fan("out"), spec.fan("in"), spec.fan("avg")) == (3, None, None)


def test_labels_replace_facts_of_all_that_match_and_of_nothing_else():
    specs = sb.trace(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)))
    labelled = specs.label("*.weight", axes=("in", "out"))
    assert labelled["0.weight"].fan("in") == 3
    assert labelled["1.bias"] == specs["1.bias"]
    assert specs["0.weight"].fan("in") == 2, "specs are not changed in place"
    assert labelled.framework == "torch"


def test_labels_match_aliases():
    specs = sb.Specs((sb.ParamSpec(path="a", shape=(2,), aliases=("b.c",)),))
    assert specs.label("b.*", role="bias")["a"].role == "bias"


# Sizes.


@given(shape=st.lists(st.integers(0, 9), max_size=4), dtype=st.sampled_from(sorted(ITEMSIZE)))
def test_bytes_are_those_of_the_shape_and_dtype(shape, dtype):
    spec = sb.ParamSpec(path="w", shape=tuple(shape), dtype=dtype)
    assert spec.nbytes == math.prod(shape) * torch.empty(0, dtype=getattr(torch, dtype)).element_size()


def test_sizes_that_are_not_settled_are_not_made_up():
    spec = sb.ParamSpec(path="w", shape=(2, None))
    for ask in (lambda: spec.sizes, lambda: spec.count, lambda: spec.nbytes):
        with pytest.raises(UnknownSizeError) as caught:
            ask()
        assert caught.value.paths == ("w",)


@pytest.mark.parametrize("packed", [(3,), (3, 1, 1), (0, 1), (1.0, 1), (-1, 1)])
def test_packed_has_one_count_for_each_axis(packed):
    with pytest.raises(PlanError, match="`packed` must give"):
        sb.ParamSpec(path="w", shape=(6, 2), packed=packed)


@pytest.mark.parametrize("groups", [0, -1, 1.5, True])
def test_groups_are_a_whole_number(groups):
    with pytest.raises(PlanError, match="`groups`"):
        sb.ParamSpec(path="w", shape=(6, 2), groups=groups)


def test_specs_are_found_by_every_path_in_the_models_order():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    specs = sb.trace(net)
    assert [s.path for s in specs] == ["0.weight", "0.bias", "1.bias"]
    assert specs["1.weight"] is specs["0.weight"]
    assert len(specs) == 3
    with pytest.raises(KeyError):
        specs["2.weight"]
