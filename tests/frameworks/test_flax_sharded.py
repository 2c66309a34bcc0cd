"""What needs several devices or processes, which a process that has begun cannot be given."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from flax import linen as nn

import seedbed as sb

ROOT = Path(__file__).parents[2]


def environment(devices):
    return {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }


def test_eight_devices():
    tests = ROOT / "tests" / "frameworks" / "eight_devices.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tests)]
    done = subprocess.run(command, env=environment(8), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_processes_hold_a_half_each():
    """Real processes: what each holds is of the whole, and a program over both runs on it."""
    script = ROOT / "tests" / "frameworks" / "two_processes.py"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(number), str(port)],
            env=environment(4),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        done = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    lines = [out.splitlines()[-1:] for out, _ in done]
    assert [process.returncode for process in started] == [0, 0], done
    assert lines[0] == lines[1] != [], done


def test_the_example_trains_from_the_start_of_one_device():
    command = [sys.executable, str(ROOT / "examples" / "jax_mesh.py")]
    done = subprocess.run(command, env=environment(1), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, checked, same, losses, fingerprint = done.stdout.splitlines()
    assert first == "first kernel: (784, 512) as 8 of (196, 256)"
    assert checked == "6 of 6 arrays equal the plan bit for bit."
    assert same == "the start of one device, bit for bit: True"
    values = [float(value) for value in losses.removeprefix("losses:").split()]
    assert len(values) == 8
    assert values[-1] < values[0] / 4
    net = nn.Sequential([nn.Dense(512), nn.relu, nn.Dense(512), nn.relu, nn.Dense(10)])
    assert fingerprint == f"started with {sb.fingerprint(sb.plan(net, (1, 784), recipe='he', seed=0))}"
