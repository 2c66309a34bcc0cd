"""Using one framework imports no other, and seedbed imports none by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORKS = {"torch", "jax", "flax", "keras", "tensorflow", "mxnet"}
USES = {
    "torch": ("", {"torch"}),
    "linen": ("", {"jax", "flax"}),
    "nnx": ("", {"jax", "flax"}),
    "keras on jax": ("jax", {"keras", "jax"}),
    "keras on torch": ("torch", {"keras", "torch"}),
    "keras on tensorflow": ("tensorflow", {"keras", "tensorflow"}),
}
PROGRAM = """
import sys
from tests.frameworks.houses import {house} as house
frameworks = lambda: {frameworks} & {{name.partition(".")[0] for name in sys.modules}}
print(*frameworks())
import seedbed as sb
net, inputs = house.mlp()
sb.trace(net)
plan = sb.plan(net, *inputs, recipe="he")
assert sb.check(sb.materialize(plan, net), plan)
print(*frameworks())
"""


@pytest.mark.parametrize("use", USES)
def test_a_framework_is_used_alone(use):
    backend, expected = USES[use]
    env = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    program = PROGRAM.format(house=use.split()[0], frameworks=FRAMEWORKS)
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    assert after == before
    assert expected <= before <= expected | ({"jax"} if backend else set())  # Keras imports JAX wherever it is
