"""One shard of 70B parameters, in the address space of the shard and 512 MB."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("torch.testing._internal.distributed.fake_pg", reason="this PyTorch has no fake process group")
if not sys.platform.startswith("linux") or not hasattr(resource, "RLIMIT_AS"):
    pytest.skip("address space is limited on Linux alone", allow_module_level=True)

SCRIPT = Path(__file__).parents[2] / "scripts" / "evidence" / "seventy.py"


def test_one_shard_of_70b_parameters_in_512_mb_more_than_it_takes():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("\n")[-2])
    assert found["parameters"] == 70_553_706_496
    assert found["whole, MB"] > 500 * found["shard, MB"] > 137_000
    assert found["most resident, more than before the start, MB"] < found["shard, MB"] + 512
    assert (found["equal to the plan"], found["not equal"]) == (725, 0)
