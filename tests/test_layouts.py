"""Arrays in layouts of their own: every region holds the canonical array's numbers, wherever they lie."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import each_engine  # noqa: F401 -- runs every test with both engines

import seedbed as sb
from seedbed.errors import PlanError
from seedbed.fill import fill
from seedbed.initializers import (
    Custom,
    HeNormal,
    Identity,
    Mixture,
    Normal,
    Orthogonal,
    Overlay,
    Sparse,
    Uniform,
    Zeros,
)
from seedbed.plan import streams_of
from seedbed.region import Region
from seedbed.spec import Layout

STARTS = [
    Normal(std=0.5),
    Uniform(low=1.0, high=2.0),
    Orthogonal(),
    Sparse(sparsity=0.3, std=1.0),
    Identity(),
    Mixture([(0.5, Zeros()), (0.5, Normal(std=1.0))]),
    Custom(lambda draw, spec: draw.normal() + draw.uniform()),
]


def spec_of(path, shape, layout=None, **facts):
    return sb.ParamSpec(path=path, shape=shape, layout=layout, **facts)


def planned(*specs, start, streams=None):
    return sb.plan(sb.Specs(specs), recipe=start, streams=streams)


@st.composite
def arrays(draw):
    """A shape, a layout of it with two canonical axes or more, and a region."""
    rank = draw(st.integers(2, 4))
    axes = draw(st.permutations(range(rank)))
    cuts = sorted(draw(st.sets(st.integers(1, rank - 1), min_size=1)))
    order = tuple(tuple(axes[a:b]) for a, b in zip([0, *cuts], [*cuts, rank], strict=True))
    shape = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    first = math.prod(shape[a] for a in order[0])
    held = draw(st.sampled_from([n for n in range(1, first + 1) if first % n == 0]))
    of = held + draw(st.integers(0, 2))
    blocks = tuple(draw(st.permutations(range(of)))[:held])
    ends = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
    region = Region(tuple(a for a, _ in ends), tuple(b for _, b in ends))
    return shape, Layout(order=order, blocks=blocks, of=of), region


def laid_out(values, shape, layout):
    """The framework's array, from the canonical whole: rows taken, then axes split and turned back."""
    if layout.blocks:
        values = np.concatenate([np.split(values, layout.of)[n] for n in layout.blocks])
    flat = [axis for group in layout.order for axis in group]
    return values.reshape([shape[axis] for axis in flat]).transpose(np.argsort(flat))


@pytest.mark.parametrize("start", STARTS, ids=lambda s: type(s).__name__)
@given(arrays())
@settings(max_examples=60, deadline=None)
def test_a_region_of_any_layout_holds_the_canonical_numbers(start, case):
    shape, layout, region = case
    canonical = layout.whole(shape)
    if isinstance(start, (Sparse, Identity)) and not len(shape) == len(canonical) == 2:
        return
    (whole,) = planned(spec_of("whole", canonical), start=start, streams={"whole": "one"})
    (part,) = planned(spec_of("part", shape, layout), start=start, streams={"part": "one"})
    expected = laid_out(fill(whole), shape, layout)
    assert np.array_equal(fill(part), expected)
    assert np.array_equal(fill(part, region), expected[region.slices])


def test_a_part_is_a_whole_by_itself_until_streams_are_shared():
    gate = spec_of("cell.if.kernel", (3, 4), Layout(order=((1,), (0,)), blocks=(1,), of=4))
    alone = spec_of("cell.if.kernel", (4, 3))
    (part,), (whole,) = (planned(s, start=Normal(std=1.0)) for s in (gate, alone))
    assert np.array_equal(fill(part), fill(whole).T)
    assert part.key == whole.key


def test_parts_of_one_whole_may_share_a_stream_and_others_may_not():
    gates = [spec_of(f"{n}", (3, 4), Layout(order=((1,), (0,)), blocks=(n,), of=2)) for n in range(2)]
    (one, two) = planned(*gates, start=Normal(std=1.0), streams={"0": "cell", "1": "cell"})
    (whole,) = planned(spec_of("w", (8, 3)), start=Normal(std=1.0), streams={"w": "cell"})
    assert np.array_equal(np.concatenate([fill(one).T, fill(two).T]), fill(whole))
    twice = [gates[0], spec_of("1", (3, 4), gates[0].layout)]
    with pytest.raises(PlanError, match="have one stream"):
        planned(*twice, start=Normal(std=1.0), streams={"0": "cell", "1": "cell"})
    other = [gates[0], spec_of("1", (2, 4), gates[1].layout)]
    with pytest.raises(PlanError, match="have one stream"):
        planned(*other, start=Normal(std=1.0), streams={"0": "cell", "1": "cell"})


def test_boxes_of_an_overlay_are_counted_as_the_framework_counts():
    bias = spec_of("bias", (2, 3), Layout(order=((1,), (0,))))
    (entry,) = planned(bias, start=Overlay(base=Zeros(), boxes=((((1, 2), (0, 3)), Normal(std=1.0)),)))
    (whole,) = planned(spec_of("bias", (3, 2)), start=Normal(std=1.0))
    assert not fill(entry)[0].any()
    assert np.array_equal(fill(entry)[1], fill(whole)[:, 1])


def test_position_counts_layers_with_parameters_and_names_them_in_pytorchs_words():
    specs = sb.Specs(
        (
            spec_of("conv.kernel", (3, 3, 1, 6), Layout(order=((3,), (2,), (0,), (1,))), leaf="weight"),
            spec_of("conv.bias", (6,)),
            spec_of("stats.mean", (6,), kind="buffer", role="buffer", unit="norm", leaf="running_mean"),
            spec_of("seen", (1,), kind="buffer", role="buffer", unit="elsewhere"),
            spec_of("attention.query.kernel", (4, 2, 2), unit="attention", leaf="in_proj_weight"),
            spec_of("attention.out.kernel", (2, 2, 4), unit="attention.out", leaf="weight"),
            spec_of("norm.scale", (6,), leaf="weight"),
        )
    )
    assert streams_of("position", specs) == {
        "conv.kernel": "0.weight",
        "conv.bias": "0.bias",
        "stats.mean": "3.running_mean",
        "attention.query.kernel": "1.in_proj_weight",
        "attention.out.kernel": "2.weight",
        "norm.scale": "3.weight",
    }


def test_fans_are_those_of_the_same_layer():
    kernel = spec_of("k", (5, 5, 3, 8), Layout(order=((3,), (2,), (0,), (1,))), axes=("window", "window", "in", "out"))
    weight = spec_of("w", (8, 3, 5, 5), axes=("out", "in", "window", "window"))
    one, two = (planned(s, start=HeNormal())[s.path].start for s in (kernel, weight))
    assert one == two


def test_a_plan_with_layouts_goes_to_json_and_back():
    query = spec_of("q", (4, 2, 2), Layout(order=((1, 2), (0,)), blocks=(0,), of=3), unit="attention", leaf="weight")
    made = planned(query, start=Normal(std=1.0), streams="position")
    assert sb.Plan.from_json(made.to_json()) == made
    assert made.fingerprint() != planned(spec_of("q", (4, 2, 2)), start=Normal(std=1.0)).fingerprint()


def test_what_a_framework_makes_of_a_part_by_itself_is_keyed_by_its_path():
    gates = [
        spec_of(f"{n}", (4, 4), Layout(blocks=(n,), of=2), unit="cell", leaf="weight_hh", start=Orthogonal())
        for n in range(2)
    ]
    own = sb.plan(sb.Specs(tuple(gates)), streams="position")
    assert [e.stream for e in own] == ["0", "1"]
    assert all(np.allclose(fill(e) @ fill(e).T, np.eye(4), atol=1e-6) for e in own)
    asked = sb.plan(sb.Specs(tuple(gates)), recipe=Orthogonal(), streams="position")
    assert [e.stream for e in asked] == ["0.weight_hh", "0.weight_hh"]
