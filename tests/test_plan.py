"""What will happen: plans as data."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import seedbed as sb
from seedbed import table
from seedbed.errors import InitializerError, PlanError, SeedbedError, UnknownSizeError
from seedbed.initializers import (
    Constant,
    HeNormal,
    Identity,
    Mixture,
    Normal,
    Ones,
    Orthogonal,
    Overlay,
    Sparse,
    Uniform,
    XavierUniform,
    Zeros,
)
from seedbed.plan import key


def specs(*paths, **facts):
    return sb.Specs(tuple(sb.ParamSpec(path=p, **{"shape": (4, 3), **facts}) for p in paths), "torch")


def mlp():
    return nn.Sequential(nn.LazyLinear(8), nn.BatchNorm1d(8), nn.LazyLinear(2))


def tied():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    return net


def plans():
    start = Overlay(base=HeNormal(), boxes=((((0, 1), (0, 4)), Mixture([(0.5, Normal(std=1)), (0.5, Zeros())])),))
    return {
        "settled": sb.plan(mlp(), (2, 4), recipe="he", seed=5),
        "not settled": sb.plan(mlp(), recipe="he"),
        "own start": sb.plan(mlp(), (2, 4)),
        "kept": sb.plan(specs("a", "b")),
        "tied, renamed streams": sb.plan(tied(), recipe=Ones(), streams={"1.weight": "x.y", "0.bias": "z"}),
        "varying": sb.plan(mlp(), (2, None), recipe="he"),
        "overlay": sb.plan(nn.Linear(4, 3, bias=False), recipe=start),
        "empty": sb.plan(sb.Specs(())),
    }


PLANS = plans()


@pytest.mark.parametrize("name", PLANS)
def test_plans_go_to_json_and_back(name):
    plan = PLANS[name]
    again = sb.Plan.from_json(plan.to_json())
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.fingerprint() == plan.fingerprint()
    assert str(again) == str(plan)


# Texts that were changed.

CHANGES = {
    "seed": lambda d: d.update(seed=6),
    "start": lambda d: d["entries"][0]["start"].update(std=0.5),
    "another start": lambda d: d["entries"][0].update(start={"name": "Zeros"}),
    "no start": lambda d: d["entries"][0].update(start=None),
    "stream": lambda d: d["entries"][0].update(stream="other"),
    "shape": lambda d: d["entries"][0]["spec"].update(shape=[8, 5]),
    "dtype": lambda d: d["entries"][0]["spec"].update(dtype="float64"),
    "path": lambda d: d["entries"][0]["spec"].update(path="other"),
    "alias": lambda d: d["entries"][0]["spec"].update(aliases=["other"]),
    "axes": lambda d: d["entries"][0]["spec"].update(axes=["in", "out"]),
    "one less": lambda d: d["entries"].pop(),
    "another order": lambda d: d["entries"].reverse(),
    "fingerprint": lambda d: d.update(fingerprint="0" * 32),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_that_was_changed_is_refused(change):
    data = json.loads(PLANS["settled"].to_json())
    CHANGES[change](data)
    with pytest.raises(PlanError, match="changed since it was written"):
        sb.Plan.from_json(json.dumps(data))


@pytest.mark.parametrize("seed", [True, 3.0, -1, 2**64, "3", None, [3]])
def test_a_seed_that_no_plan_has_is_refused_whatever_its_fingerprint(seed):
    text = dataclasses.replace(PLANS["settled"], seed=seed).to_json()
    with pytest.raises(PlanError, match=r"^seed: must be a whole number from 0 to 2\*\*64 - 1, got "):
        sb.Plan.from_json(text)


@pytest.mark.parametrize(
    "text",
    ["", "{", "3", "[]", "null", "{}", '{"seedbed": 1}', '{"seedbed": 1, "entries": 3}', '{"seedbed": 1, "entries": [3]}',
     '{"seedbed": 1, "entries": [{}]}', '{"seedbed": 1, "entries": [{"spec": {"what": 1}}]}', "[" * 50_000, "\x00"],
)  # fmt: skip
def test_text_that_is_no_plan_is_refused(text):
    with pytest.raises(PlanError, match="not a plan that seedbed wrote"):
        sb.Plan.from_json(text)


@given(st.data())
def test_any_value_in_any_place_is_read_or_refused(data):
    plain = json.loads(PLANS["settled"].to_json())
    place = plain
    while isinstance(place, (dict, list)) and place:
        where = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[where], (dict, list)) or data.draw(st.booleans()):
            place[where] = data.draw(st.sampled_from([None, 3, -1, 0.5, "x", [], {}, [3], {"name": "Zeros"}, True]))
            break
        place = place[where]
    with contextlib.suppress(SeedbedError):
        sb.Plan.from_json(json.dumps(plain))


# The fingerprint.


def one(start=None, *, seed=0, streams=None, recipe_name="recipe", **facts):
    made = sb.Recipe((sb.Rule("*", start or Normal(std=0.5)),), recipe_name)
    return sb.plan(specs("a", **{"axes": ("out", "in"), **facts}), recipe=made, seed=seed, streams=streams)


@pytest.mark.parametrize(
    "same",
    [
        one(recipe_name="another name"), one(layer="Linear"), one(origin="elsewhere"), one(Normal(mean=0, std=0.5)),
        one(role="weight"), one(bases=("Base",)), one(persistent=False), one(reached=True),
    ],
)  # fmt: skip
def test_names_of_rules_and_layers_are_not_in_the_fingerprint(same):
    assert same.fingerprint() == one().fingerprint()


@pytest.mark.parametrize(
    "other",
    [
        one(seed=1), one(Normal(std=0.25)), one(Normal(mean=1, std=0.5)), one(Uniform(low=0, high=1)), one(dtype="float64"),
        one(shape=(4, 4)), one(shape=(12,), axes=()), one(streams={"a": "b"}), one(aliases=("b",)), one(axes=("in", "out")),
        one(shape=(4, None)), one(dtype="bfloat16"), one(HeNormal()),
    ],
)  # fmt: skip
def test_all_that_changes_numbers_is_in_the_fingerprint(other):
    assert other.fingerprint() != one().fingerprint()


def test_equal_plans_have_equal_fingerprints():
    assert one(Constant(value=1)) == one(Constant(value=1.0))
    assert one(Constant(value=1)).fingerprint() == one(Constant(value=1.0)).fingerprint()
    assert one(Normal(std=1, mean=2)).fingerprint() == one(Normal(std=1.0, mean=2.0)).fingerprint()


def test_large_whole_numbers_stay_apart_in_the_fingerprint():
    plans = [one(Constant(value=2**60 + n), dtype="int64") for n in (0, 1)]
    assert plans[0].fingerprint() != plans[1].fingerprint()


def test_what_was_asked_is_in_the_fingerprint_while_sizes_are_unknown():
    asked = [one(start, shape=(4, None)).fingerprint() for start in (HeNormal(), XavierUniform(), HeNormal(gain=1))]
    assert len(set(asked)) == 3


def test_the_fingerprint_is_the_one_on_record():
    assert one().fingerprint() == "18f019bcec87bad8a766d4f0699c37f1"


# Streams and keys.


@given(
    st.lists(st.lists(st.text(max_size=3), max_size=4).map(tuple), min_size=2, max_size=6, unique=True),
    st.integers(0, 2**64 - 1),
)
def test_different_parts_have_different_keys(parts, seed):
    assert len({key(seed, p) for p in parts}) == len(parts)
    assert key(seed, parts[0]) != key((seed + 1) % 2**64, parts[0])


def test_equal_streams_are_refused_and_nothing_else():
    with pytest.raises(PlanError, match="one stream"):
        sb.plan(specs("a", "b"), recipe=Zeros(), streams={"a": "b"})
    sb.plan(specs("a", "b"), recipe=Zeros(), streams={"a": "b", "b": "a"})


def test_a_stream_may_be_named_by_any_path_of_a_tied_parameter():
    plan = sb.plan(tied(), recipe=Ones(), streams={"1.weight": "shared"})
    assert plan["0.weight"].stream == "shared"


@pytest.mark.parametrize("seed", [0, 2**64 - 1, np.int64(5)])
def test_every_seed_of_64_bits_is_taken(seed):
    plan = sb.plan(specs("a"), recipe=Normal(std=1.0), seed=seed)
    assert sb.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", None, True, 10**70])
def test_no_other_seed_is(seed):
    with pytest.raises(PlanError, match="seed: must be"):
        sb.plan(specs("a"), recipe=Zeros(), seed=seed)


# What suits.


@pytest.mark.parametrize(
    ("start", "facts"),
    [
        (Orthogonal(), {"shape": (4,)}), (Orthogonal(), {"shape": (4, 3), "axes": ("stack", "out")}),
        (Identity(), {"shape": (4,)}), (Sparse(sparsity=0.5), {"shape": (2, 2, 2)}), (Normal(std=1), {"dtype": "int64"}),
        (Normal(std=1), {"dtype": "complex64"}), (Constant(value=0.5), {"dtype": "int8"}),
        (Constant(value=128), {"dtype": "int8"}), (Constant(value=-1), {"dtype": "uint8"}),
        (Constant(value=2), {"dtype": "bool"}), (Constant(value=7e4), {"dtype": "float16"}),
        (Constant(value=500), {"dtype": "float8_e4m3fn"}), (Identity(gain=0.5), {"dtype": "int64"}),
        (Mixture([(0.5, Constant(value=7e4)), (0.5, Zeros())]), {"dtype": "float16"}),
        (Overlay(base=Zeros(), boxes=((((0, 1), (0, 1)), Normal(std=1)),)), {"dtype": "int64"}),
        (Overlay(base=Zeros(), boxes=((((0, 1),), Ones()),)), {}),
        (Overlay(base=Zeros(), boxes=((((0, 5), (0, 3)), Ones()),)), {}),
    ],
)  # fmt: skip
def test_what_does_not_suit_is_refused(start, facts):
    with pytest.raises(InitializerError) as caught:
        sb.plan(specs("a.weight", **facts), recipe=start)
    assert caught.value.path == "a.weight"


@pytest.mark.parametrize(
    ("start", "facts"),
    [
        (Constant(value=127), {"dtype": "int8"}), (Constant(value=-128), {"dtype": "int8"}), (Ones(), {"dtype": "bool"}),
        (Constant(value=2**63 - 1), {"dtype": "int64"}), (Constant(value=65504), {"dtype": "float16"}),
        (Zeros(), {"dtype": "complex128"}), (Normal(std=1), {"dtype": "float8_e5m2"}), (Identity(), {"dtype": "int64"}),
        (Orthogonal(), {"shape": (2, 3, 4), "axes": ("stack", "out", "in")}),
        (Overlay(base=Zeros(), boxes=((((0, 4), (3, 3)), Ones()),)), {}),
    ],
)  # fmt: skip
def test_what_suits_is_planned(start, facts):
    assert sb.plan(specs("a", **facts), recipe=start)["a"].start == start


# Sizes that are not known.


def test_what_is_not_settled_is_planned_and_cannot_be_carried_out():
    plan = sb.plan(mlp(), recipe="he")
    assert plan.unknown == ("0.weight", "2.weight")
    assert plan["1.weight"].settled
    with pytest.raises(UnknownSizeError) as caught:
        plan.require_known()
    assert caught.value.paths == plan.unknown


def test_a_native_start_of_an_unknown_size_is_shown_as_it_was_asked():
    plan = sb.plan(nn.LazyLinear(3), recipe={"weight": nn.init.xavier_uniform_, "bias": Zeros()})
    assert plan["weight"].shown_start == "Native(xavier_uniform_)"
    assert plan["weight"].why == "rule 1: 'weight'"
    other = sb.plan(nn.LazyLinear(3), recipe={"weight": nn.init.xavier_normal_, "bias": Zeros()})
    assert plan.fingerprint() != other.fingerprint()


# Differences.


def test_equal_plans_do_not_differ():
    difference = PLANS["settled"].diff(PLANS["settled"])
    assert not difference
    assert str(difference) == "The plans are equal."


@pytest.mark.parametrize(
    ("other", "rows"),
    [
        (one(seed=1), [("a", "seed", "0", "1")]),
        (one(Zeros()), [("a", "starts as", "Normal(std=0.5)", "Zeros()")]),
        (one(Normal(std=0.50001)), [("a", "starts as", "Normal(std=0.5)", "Normal(std=0.50001)")]),
        (one(dtype="float16", shape=(2, 3)), [("a", "shape", "(4, 3)", "(2, 3)"), ("a", "dtype", "float32", "float16")]),
        (one(streams={"a": "b"}), [("a", "stream", "a", "b")]),
        (one(aliases=("b",)), [("a", "ties", "", "b")]),
        (sb.plan(specs("b"), recipe=Zeros()), [("a", "present", "yes", ""), ("b", "present", "", "yes")]),
    ],
)  # fmt: skip
def test_differences_are_told(other, rows):
    difference = one().diff(other)
    assert difference
    assert list(difference.rows) == rows
    assert all(cell in str(difference) for row in rows for cell in row)


def test_what_was_asked_differs_while_sizes_are_unknown():
    a, b = (one(start, shape=(4, None)) for start in (HeNormal(), XavierUniform()))
    assert [r[2:] for r in a.diff(b).rows] == [("HeNormal()", "XavierUniform()")]


@pytest.mark.parametrize("name", PLANS)
def test_plans_differ_exactly_when_their_fingerprints_do(name):
    plan = PLANS[name]
    for other in (plan, dataclasses.replace(plan, recipe="renamed"), *PLANS.values()):
        if [e.spec.path for e in other] == [e.spec.path for e in plan] and other.seed == plan.seed:
            assert bool(plan.diff(other)) == (plan.fingerprint() != other.fingerprint())


# The table.


def test_the_table_says_what_why_and_what_is_special():
    net = tied()
    net.register_buffer("mask", torch.ones(2), persistent=False)
    text = sb.plan(net, recipe={"*.weight": HeNormal(), "*": Zeros()}).table()
    assert text.split("\n")[0].split() == ["parameter", "shape", "dtype", "starts", "as", "because", "remarks"]
    assert "also 1.weight" in text
    assert "the values it has" in text
    assert "buffer, not persistent" in text


@pytest.mark.parametrize("width", [20, 40, 79, 80, 120])
@pytest.mark.parametrize("name", PLANS)
def test_no_line_of_a_table_is_wider_than_the_terminal(name, width):
    assert max(map(len, PLANS[name].table(width=width).split("\n"))) <= width


def test_the_table_fits_the_terminal_it_is_printed_on(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, str(PLANS["settled"].table()).split("\n"))) <= 60
    monkeypatch.delenv("COLUMNS")
    assert "…" not in PLANS["settled"].table(), "a file has no width"


def test_a_cut_path_shows_both_its_ends():
    text = table.table(["path"], [["transformer.h.10.attention.output.weight"]], width=20)
    line = text.split("\n")[2]
    assert len(line) == 20
    assert line.startswith("transf")
    assert line.endswith("output.weight"[-10:])


def test_rows_that_differ_in_a_number_are_one():
    rows = [[f"h.{n}.{w}", "(2,)"] for n in (0, 1, 2, 4, 10) for w in ("w", "b")] + [
        ["h.3.w", "(3,)"],
        ["end.w", "(2,)"],
    ]
    assert table.fold(rows) == [
        ["h.{0-2,4,10}.w", "(2,)"], ["h.{0-2,4,10}.b", "(2,)"], ["h.3.w", "(3,)"], ["end.w", "(2,)"],
    ]  # fmt: skip


def test_two_numbers_are_folded_one_after_the_other():
    rows = [[f"{a}.x.{b}", ""] for a in range(2) for b in range(3)]
    assert table.fold(rows) == [["{0-1}.x.{0-2}", ""]]


@given(st.lists(st.tuples(st.text("01a.²٣", max_size=5), st.sampled_from(["x", "y"])), unique=True, max_size=8))
def test_any_names_are_folded_and_printed(pairs):
    rows = [list(p) for p in pairs]
    folded = table.fold(rows)
    assert len(folded) <= len(rows)
    assert table.table(["a", "b"], folded, width=30).count("\n") == len(folded) + 1


def test_names_with_line_breaks_keep_to_their_line():
    assert table.table(["a"], [["x\ny\x1b[31m"]], width=80).split("\n")[2] == "x\\ny\\x1b[31m"


def test_many_rows_are_folded_unless_asked_otherwise():
    plan = sb.plan(nn.Sequential(*(nn.Linear(2, 2) for _ in range(21))), recipe=Zeros())
    assert plan.table().count("\n") == 3
    assert plan.table(fold=False).count("\n") == 43
    assert sb.plan(nn.Linear(2, 2)).table(fold=True).count("\n") == 3


def test_the_summary_counts_what_is_known():
    summary = sb.plan(mlp(), recipe="he", seed=3).summary
    assert summary.startswith("9 parameters and buffers: 26 values, ")
    assert "2 parameters not settled yet; seed 3, fingerprint " in summary
