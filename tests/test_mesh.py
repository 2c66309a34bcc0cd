"""What each device of a mesh will hold, told without one of them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import seedbed as sb
from seedbed import cli
from seedbed.initializers import Ones
from seedbed.mesh import mesh_of, placements_of
from seedbed.shard import Shard

SPECS = sb.Specs(
    (
        sb.ParamSpec(path="up.weight", shape=(50257, 9), dtype="bfloat16"),
        sb.ParamSpec(path="up.bias", shape=(50257,)),
        sb.ParamSpec(path="norm.weight", shape=(9,)),
        sb.ParamSpec(path="scale", shape=()),
        sb.ParamSpec(path="table", shape=(16, 2), kind="buffer", role="buffer", start=Ones()),
    )
)
PLAN = sb.plan(SPECS, recipe=Ones())
CUTS = {"up.*": {"tp": 0, "dp": 0}, "norm.*": {}, "*": {"dp": 0}}


def test_what_the_devices_hold_is_the_whole_and_no_more():
    division = sb.divide(PLAN, {"dp": 3, "tp": 2}, CUTS)
    assert division.devices == 6
    held = {p: [division.shard(p, d) for d in range(6)] for p in ("up.weight", "up.bias")}
    for path, shards in held.items():
        places = sorted(n for shard in shards for a, b in shard.runs[0] for n in range(a, b))
        assert places == list(range(PLAN[path].spec.sizes[0]))
    # tensor parallelism cuts first: the device at dp=1, tp=1 has the second third of the second half
    half = -(-50257 // 2)
    third = -(-(50257 - half) // 3)
    assert held["up.weight"][3].runs == (((half + third, half + 2 * third),), ((0, 9),))
    for path in ("norm.weight", "scale", "table"):
        assert all(division.shard(path, d) == Shard.whole(PLAN[path].spec.sizes) for d in range(6))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_bytes_are_those_of_the_shards(data):
    mesh = {name: data.draw(st.integers(1, 5)) for name in data.draw(st.sampled_from(["a", "ab", "abc"]))}
    cuts = dict.fromkeys(data.draw(st.permutations(list(mesh))), 0)
    division = sb.divide(PLAN, mesh, {"up.*": cuts})
    for device in range(division.devices):
        sizes = {"up.weight": 2}
        held = sum(division.shard(e.spec.path, device).count * sizes.get(e.spec.path, 4) for e in PLAN)
        assert division.nbytes[device] == held
    assert division.devices == math.prod(mesh.values())


def test_the_first_axis_of_the_mesh_cuts_everything_where_nothing_is_said():
    division = sb.divide(PLAN, {"dp": 4, "tp": 2})
    assert division.shard("up.bias", 7) == Shard.whole((50257,)).cut(0, 4, 3)
    assert division.shard("norm.weight", 7).shape == (0,)


def test_the_table_says_how_each_is_cut_and_the_largest_and_smallest_shard():
    division = sb.divide(PLAN, {"dp": 4, "tp": 2}, CUTS)
    assert str(division).split("\n") == [
        "parameter    shape       dtype     cut by        a device holds          at most",
        "───────────  ──────────  ────────  ────────────  ──────────────────────  ────────",
        "up.weight    (50257, 9)  bfloat16  tp: 0, dp: 0  (6283, 9) to (6280, 9)  113.1 kB",
        "up.bias      (50257,)    float32   tp: 0, dp: 0  (6283,) to (6280,)      25.1 kB",
        "norm.weight  (9,)        float32   whole         (9,)                    36 B",
        "scale        ()          float32   whole         ()                      4 B",
        "table        (16, 2)     float32   whole         (16, 2)                 128 B",
        "devices     each holds  bytes",
        "──────────  ──────────  ───────",
        "0, 2, 4     138.4 kB    138,394",
        "1, 3, 5, 7  138.4 kB    138,372",
        "6           138.3 kB    138,328",
        "1.1 MB over 8 devices (dp=4, tp=2), 138.3 kB to 138.4 kB each; 1.00 times the whole in all",
    ]


@pytest.mark.parametrize("text", ["", "dp", "dp=", "=8", "dp=8,,tp=2", "dp=8,dp=8", "dp=-1", "dp=8;tp=2", "dp=٣"])
def test_texts_that_are_no_mesh_are_refused(text):
    with pytest.raises(sb.SeedbedError):
        mesh_of(text)


@pytest.mark.parametrize("text", ["", "*", "*=", "=dp:0", "*=dp", "*=dp:", "*=:0", "*=dp:0,dp:1", "*=dp:-1", "*=dp:0,"])
def test_texts_that_are_no_placement_are_refused(text):
    with pytest.raises(sb.SeedbedError):
        placements_of([text])


MODEL = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 3))
"""


def test_the_command_line_says_the_same(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    asked = [
        "plan",
        "net.py:net",
        "--mesh",
        "dp=2,tp=2",
        "--placements",
        "*.weight=tp:0,dp:1",
        "--placements",
        "*=whole",
    ]
    said = CliRunner().invoke(cli.app, asked)
    assert said.exit_code == 0, said.output
    assert "0.weight   (10, 6)  float32  tp: 0, dp: 1  (5, 3)" in said.output
    assert "412 B over 4 devices (dp=2, tp=2), 132 B to 152 B each; 1.38 times the whole in all" in said.output
    wrong = CliRunner().invoke(cli.app, ["plan", "net.py:net", "--mesh", "dp=2", "--placements", "*.wieght=dp:0"])
    assert wrong.exit_code == 2
    assert "matches no parameter" in wrong.output
