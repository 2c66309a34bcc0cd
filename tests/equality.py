"""One start for all frameworks: the networks, the recipes, and what PyTorch's values are, written down.

The file `golden/frameworks.json` is written by `scripts/make_frameworks.py` from PyTorch's networks;
other frameworks, some of which cannot live in one process with it, are compared with the file.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from seedbed.initializers import HeNormal, Keep, LecunNormal, Mixture, Normal, Orthogonal, Uniform, XavierUniform, Zeros
from seedbed.recipe import Recipe, Rule, Where

PATH = Path(__file__).with_name("golden") / "frameworks.json"
GOLDEN = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}

NETS = ("mlp", "lenet", "resnet_block", "lstm", "gru", "encoder_block", "embedding")
B4 = Mixture([(0.25, Uniform(low=5, high=10)), (0.5, Zeros()), (0.25, Uniform(low=-10, high=-5))])
WEIGHTS = {
    "he": HeNormal(),
    "xavier": XavierUniform(),
    "lecun": LecunNormal(),
    "mixture": B4,
    "orthogonal": Orthogonal(),
}
EXACT = ("he", "xavier", "lecun", "mixture")
"""Orthogonal is a product of matrices: equal to float32's rounding where another library multiplies."""


def recipe_of(weight):
    rules = [
        Rule(Where(role="weight"), weight, optional=True),
        Rule(Where(role="recurrent"), weight, optional=True),
        Rule(Where(role="embedding"), Normal(std=0.5), optional=True),
        Rule(Where(role="bias"), Zeros()),
        Rule("*", Keep(), optional=True),
    ]
    return Recipe(tuple(rules), name="equal")


RECIPES = {name: recipe_of(weight) for name, weight in WEIGHTS.items()}


def ramp(*shape):
    """Numbers between -1 and 1 that no library is needed for."""
    count = np.prod(shape)
    return (((np.arange(count) * 37) % 101) / 50 - 1).astype(np.float32).reshape(shape)


INPUTS = {
    "mlp": lambda: ramp(2, 20),
    "lenet": lambda: ramp(2, 1, 28, 28),
    "resnet_block": lambda: ramp(2, 8, 8, 8),
    "lstm": lambda: ramp(2, 5, 8),
    "gru": lambda: ramp(2, 5, 8),
    "encoder_block": lambda: ramp(2, 5, 16),
    "embedding": lambda: (np.arange(14) * 3 % 50).reshape(2, 7),
}
"""As PyTorch takes them: images are (batch, channels, height, width)."""


def canonical(plan, arrays):
    """Values by stream, in the canonical layout; parts of a whole put together.

    Written from what `Layout` says, and not with what fills arrays.
    """
    parts = {}
    for entry in plan:
        if entry.spec.kind != "parameter":
            continue
        values, layout = arrays[entry.spec.path], entry.spec.layout
        if layout is not None and layout.order:
            values = values.transpose([axis for group in layout.order for axis in group])
            values = values.reshape(layout.canonical(entry.spec.sizes))
        blocks = layout.blocks if layout is not None and layout.blocks else (0,)
        of = layout.of if layout is not None and layout.blocks else 1
        held = parts.setdefault(entry.stream, [None] * of)
        for number, block in zip(blocks, np.split(values, len(blocks)), strict=True):
            assert held[number] is None, f"{entry.stream} has block {number} twice"
            held[number] = block
    for stream, held in parts.items():
        shape = next(block.shape for block in held if block is not None)
        parts[stream] = np.concatenate([np.zeros(shape, np.float32) if block is None else block for block in held])
    return parts


def digest(values):
    """Of the bits, zeros of both signs as one."""
    return hashlib.blake2b((values + np.float32(0)).astype("<f4").tobytes(), digest_size=16).hexdigest()


def seen(values):
    """A few of the values."""
    return [round(float(v), 7) for v in values.reshape(-1)[:: max(1, values.size // 20)][:20]]
