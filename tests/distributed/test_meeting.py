"""Two real processes: what they compare before a start, and what they tell each other of what they hold."""

from pathlib import Path

import pytest

pytest.importorskip("torch.distributed.fsdp", reason="this PyTorch has no FSDP")
from tests.distributed import layouts

PROGRAM = Path(__file__).with_name("meeting.py")


def told(world):
    found = layouts.run(world, program=str(PROGRAM))
    assert found["code"] == 0, found["errors"]

    def of(case):
        lines = sorted((line for line in found["lines"] if line["case"] == case), key=lambda line: line["rank"])
        assert [line["rank"] for line in lines] == list(range(world))
        return lines

    return of


@pytest.fixture(scope="module")
def said():
    return told(2)


@pytest.mark.parametrize("case", ["agreed", "seeds, not asked", "values there, replaced", "stages"])
def test_what_may_start_starts(said, case):
    assert [line["gave"] for line in said(case)] == [True, True]


RAISED = {
    "seeds": "PlanError: seed: the ranks have different ones.\n\n    rank 0  0\n    rank 1  1\n",
    "recipes": "PlanError: The ranks are about to start 2 parameters differently, the first of them 0.weight.\n",
    "values there": "PlanError: 2 parameters have values already, where others have none; they would be replaced.\n",
    "mesh": "PlanError: The ranks disagree on the mesh.\n\n    ranks 0-1  dp=2, at (0,)\n",
    "replicas differ": "PlanError: 2.weight: its replicas differ.\n",
}


@pytest.mark.parametrize("case", RAISED)
def test_all_ranks_say_what_is_wrong(said, case):
    for line in said(case):
        assert line["raised"].startswith(RAISED[case])


def test_what_is_wrong_on_one_rank_is_said_on_all(said):
    zero, one = said("values there on one")
    assert zero["raised"].startswith("PlanError: Rank 1 cannot do its part, so no rank does.\n")
    assert one["raised"].startswith("PlanError: 2 parameters have values already")


@pytest.mark.parametrize("case", ["one cannot start", "one cannot check", "one cannot sum up"])
def test_nobody_waits_for_one_that_cannot(said, case):
    zero, one = said(case)
    assert zero["raised"].startswith("PlanError: Rank 1 cannot do its part, so no rank does.\n\n    rank 1  2.weight: ")
    assert one["raised"].startswith(("ModelError: 2.weight: its shard", "UninitializedError: 2.weight: has no value"))


def test_ranks_that_share_different_layers_hear_of_each_other():
    said = told(4)
    assert [line["gave"] for line in said("one start over two meshes")] == [True] * 4
    for line in said("two seeds over two meshes"):
        assert line["raised"].startswith(
            "PlanError: seed: the ranks have different ones.\n\n    ranks 0, 2  0\n    ranks 1, 3  1\n"
        )


def test_what_differs_on_one_rank_is_a_finding_on_all(said):
    zero, one = said("one rank differs")
    table, ok, own = zero["gave"]
    assert table.endswith("\nrank 1: 0.weight moved: 1 of 18 values, first at [3, 0], by up to 1")
    assert (ok, own) == (False, True)
    table, ok, own = one["gave"]
    assert "rank" not in table
    assert (ok, own) == (False, False)


def test_checkpoints_of_torch_and_of_seedbed_hold_what_was_started(said):
    for line in said("loaded again"):
        assert line["gave"] == [False, True, True, True]
    for line in said("written"):
        assert line["gave"] == [True, True]
