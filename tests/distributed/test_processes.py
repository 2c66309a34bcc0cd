"""Real processes: one start, however a model is laid out over them, bit for bit."""

import fcntl
import json
import os

import pytest

pytest.importorskip("torch.distributed.distributed_c10d", reason="this PyTorch was built without processes")
pytest.importorskip("torch.distributed.fsdp", reason="this PyTorch has no FSDP")
from tests.distributed import layouts

import seedbed as sb

WORLDS = (1, 2, 4)
COARSE = {"fsdp, bfloat16": 0.01}
"""How far a step may be from the unsharded one, where the layout computes in few bits."""


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Each number of processes is started once, whichever of pytest's own processes asks first."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def of(world):
        with (folder / f"layouts-{world}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = folder / f"layouts-{world}.json"
            if not kept.exists():
                kept.write_text(json.dumps(layouts.run(world)))
            return json.loads(kept.read_text())

    return of


def lines_of(results, world, layout, form):
    found = results(world)
    lines = [d for d in found["lines"] if (d["layout"], d["form"]) == (layout, form)]
    assert sorted(d["rank"] for d in lines) == list(range(world)), found["errors"]
    for line in lines:
        assert "error" not in line, line["error"]
    return lines


CELLS = [(world, layout, form) for world in WORLDS for layout in layouts.LAYOUTS for form in layouts.forms(layout)]


@pytest.fixture(scope="module")
def alone():
    """The fingerprints of the models, each started by this process alone."""
    found = {}
    for net in layouts.NETS:
        model = layouts.built(net)
        plan = sb.plan(model, seed=layouts.SEED)
        found[net] = layouts.fingerprint(sb.materialize(plan, model)), sb.fingerprint(plan)
    return found


@pytest.mark.parametrize(("world", "layout", "form"), CELLS)
def test_a_layout_starts_as_one_process_does(results, alone, world, layout, form):
    for line in lines_of(results, world, layout, form):
        assert line["different"] == []
        expected, values = alone[layouts.LAYOUTS[layout][1]]
        assert line["fingerprint"] == expected
        assert line["values"] == values, "seedbed's own fingerprint of the values"
        assert line["same"], line["check"]
        assert line["identity"], "an optimizer made before the start holds other parameters"
        assert line["ties"], "what was tied has come apart"
        assert line["paths"], "the plan has other paths than the model's author wrote"


@pytest.mark.parametrize(("world", "layout", "form"), CELLS)
def test_nothing_is_sent(results, world, layout, form):
    """Each process started while the others had not yet, or had already: one that asked another would have hung."""
    for line in lines_of(results, world, layout, form):
        assert line["sent"] == 0
        alone = world == 1 or layout in ("plain", "replicated", "ddp")
        assert alone or line["gathered"] > 0, "the counter hears nothing"


@pytest.mark.parametrize(("world", "layout", "form"), [c for c in CELLS if c[1] not in layouts.ONLY_STARTED])
def test_then_it_trains_and_starts_again(results, world, layout, form):
    for line in lines_of(results, world, layout, form):
        assert line["moved"], "an optimizer made before the start changes nothing"
        assert line["step"] <= COARSE.get(layout, 1e-5)  # NaN is not
        assert line["again"] == line["fingerprint"]


@pytest.mark.parametrize("world", WORLDS)
def test_every_process_ended_well(results, world):
    found = results(world)
    assert found["code"] == 0, found["errors"]
    assert len(found["lines"]) == world * sum(len(layouts.forms(layout)) for layout in layouts.LAYOUTS)
