"""examples/fsdp2.py, as it stands, on one process and on two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch.distributed.fsdp", reason="this PyTorch has no FSDP")
import seedbed as sb

ROOT = Path(__file__).parents[2]


def lines(world):
    told = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path(sb.__file__).parents[1])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    done = subprocess.run(
        [*command, str(ROOT / "examples" / "fsdp2.py")],
        env=os.environ | told,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_example_trains_alike_from_one_start_on_one_process_and_on_two():
    one, two = lines(1), lines(2)
    assert one[-1] == two[-1]
    assert one[-1].startswith("started with ")
    assert len(one[-1]) == len("started with ") + 32
    assert "this one holds 1,853,440 of 3,710,464 bytes; 53 of 53 arrays equal the plan bit for bit." in two[-7]
    losses = [[float(line.split()[-1]) for line in said if line.startswith("step ")] for said in (one, two)]
    assert len(losses[0]) == 5
    assert losses[0][-1] < losses[0][0] - 1
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
