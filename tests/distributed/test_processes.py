"""Real processes: one start, however a model is laid out over them, bit for bit."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

distributed = pytest.importorskip("torch.distributed")
if not distributed.is_available() or not distributed.is_gloo_available():
    pytest.skip("this PyTorch was built without gloo", allow_module_level=True)
pytest.importorskip("torch.distributed.fsdp", reason="this PyTorch has no FSDP").fully_shard  # noqa: B018
from tests.distributed import layouts

import seedbed as sb

ROOT = Path(__file__).parents[2]
SEEDBED = Path(sb.__file__).parents[1]
WORLDS = (1, 2, 4)
COARSE = {"fsdp, bfloat16": 0.01}
"""How far a step may be from the unsharded one, where the layout computes in few bits."""


def said(world):
    """What every process says of every layout; a line each."""
    paths = [str(SEEDBED), str(ROOT), os.environ.get("PYTHONPATH", "")]
    told = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    done = subprocess.run(
        [*command, layouts.__file__], env=os.environ | told, cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.split("\n") if line.startswith('{"layout"')]
    return {"lines": lines, "code": done.returncode, "errors": done.stderr[-4000:]}


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
                kept.write_text(json.dumps(said(world)))
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
    return {net: layouts.fingerprint(sb.initialize(layouts.built(net), seed=layouts.SEED)) for net in layouts.NETS}


@pytest.mark.parametrize(("world", "layout", "form"), CELLS)
def test_a_layout_starts_as_one_process_does(results, alone, world, layout, form):
    for line in lines_of(results, world, layout, form):
        assert line["different"] == []
        assert line["fingerprint"] == alone[layouts.LAYOUTS[layout][1]]
        assert line["same"], line["check"]
        assert line["identity"], "an optimizer made before the start holds other parameters"
        assert line["ties"], "what was tied has come apart"
        assert line["paths"], "the plan has other paths than the model's author wrote"


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
