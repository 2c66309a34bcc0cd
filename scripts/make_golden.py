"""Write the golden vectors of the contract of the numbers.

    python scripts/make_golden.py tests/golden/numbers.json

They change only with the contract's version (docs/determinism.md). Every value is written as its bits
in hexadecimal: of keys, of words, and for each initializer of one region of a small parameter and of
one at the far end of a huge parameter, in every dtype.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import seedbed as sb
from seedbed import initializers as si
from seedbed.fill import fill
from seedbed.plan import VERSION, key
from seedbed.region import Region
from seedbed.threefry import runs

FLOATS = ("float64", "float32", "bfloat16", "float16")
EXACT = (*FLOATS, "float8_e4m3fn", "float8_e5m2", "int64", "int32", "uint8", "bool")
AXES = ("out", "in", "window")
LARGE = 2**18


def folded(draw: Any, spec: sb.ParamSpec) -> NDArray[Any]:
    """A `Custom` function that uses words, values and places."""
    sign = 1 - 2 * (draw.bits() & 1).astype(np.float32)
    return sign * draw.normal(std=0.5) * draw.uniform(1, 3) + draw.index(0) % 2


CUSTOM = {"folded": folded}
CASES = {
    "Zeros": (si.Zeros(), EXACT),
    "Ones": (si.Ones(), EXACT),
    "Constant": (si.Constant(value=0.1), FLOATS),
    "Constant, whole": (si.Constant(value=42), EXACT[:-1]),
    "Uniform": (si.Uniform(low=-0.3, high=0.3), FLOATS),
    "Uniform, shifted": (si.Uniform(low=5, high=10), FLOATS),
    "Normal": (si.Normal(std=0.02), FLOATS),
    "Normal, shifted": (si.Normal(mean=1.0, std=0.02), FLOATS),
    "TruncatedNormal": (si.TruncatedNormal(std=0.02), FLOATS),
    "TruncatedNormal, shifted": (si.TruncatedNormal(mean=-1.0, std=0.5, cut=3.0), FLOATS),
    "VarianceScaling": (si.VarianceScaling(scale=2.0, fan="avg"), FLOATS),
    "VarianceScaling, truncated": (si.VarianceScaling(scale=1.0, distribution="truncated_normal"), FLOATS),
    "VarianceScaling, uniform": (si.VarianceScaling(scale=1 / 3, fan="out", distribution="uniform"), FLOATS),
    "XavierUniform": (si.XavierUniform(), FLOATS),
    "XavierNormal": (si.XavierNormal(gain=5 / 3), FLOATS),
    "HeUniform": (si.HeUniform(), FLOATS),
    "HeNormal": (si.HeNormal(fan="out"), FLOATS),
    "LecunUniform": (si.LecunUniform(), FLOATS),
    "LecunNormal": (si.LecunNormal(), FLOATS),
    "Orthogonal": (si.Orthogonal(gain=1.5), FLOATS),
    "Identity": (si.Identity(gain=0.3), FLOATS),
    "Identity, 1": (si.Identity(), EXACT),
    "Dirac": (si.Dirac(groups=2), EXACT),
    "Sparse": (si.Sparse(sparsity=0.4, std=0.1), FLOATS),
    "Mixture": (
        si.Mixture([(0.25, si.Uniform(low=5, high=10)), (0.5, si.Zeros()), (0.25, si.Uniform(low=-10, high=-5))]),
        FLOATS,
    ),
    "Overlay": (
        si.Overlay(
            base=si.Normal(std=1.0),
            boxes=((((1, 2), (0, 7)), si.Zeros()), (((2, 4), (3, 5)), si.Uniform(low=2, high=3))),
        ),
        FLOATS,
    ),
    "Custom": (si.Custom(folded), FLOATS),
}


def hexadecimal(values: NDArray[Any]) -> str:
    """The bits of each value, as many digits as its dtype has."""
    width = values.dtype.itemsize
    words = np.ascontiguousarray(values).reshape(-1).view(f"u{width}").tolist()
    return " ".join(f"{word:0{2 * width}x}" for word in words)


def region_of(
    start: si.Initializer, shape: tuple[int, ...], box: Region, seed: int, dtypes: Sequence[str]
) -> dict[str, Any]:
    """One region's bits in every dtype, with all that decides them."""
    bits = {}
    for dtype in dtypes:
        specs = sb.Specs((sb.ParamSpec(path="fc.weight", shape=shape, dtype=dtype, axes=AXES[: len(shape)]),))
        (entry,) = sb.plan(specs, recipe=start, seed=seed)
        bits[dtype] = hexadecimal(fill(entry, box))
    return {"seed": seed, "shape": list(shape), "start": list(box.start), "stop": list(box.stop), "bits": bits}


def record(start: si.Initializer, dtypes: Sequence[str]) -> dict[str, Any]:
    """A region of 12 values near the beginning, and one at the end of a huge parameter."""
    near, far = ((5, 7), Region((1, 2), (4, 6))), ((LARGE, LARGE), Region((LARGE - 2, LARGE - 6), (LARGE, LARGE)))
    if isinstance(start, si.Dirac):
        near = ((6, 3, 3), Region((2, 1, 0), (4, 3, 3)))
        far = ((LARGE, LARGE, 3), Region((LARGE // 2 - 2, LARGE // 2 - 2, 0), (LARGE // 2, LARGE // 2, 3)))
    if isinstance(start, si.Orthogonal):
        far = ((60, 40), Region((58, 34), (60, 40)))
    regions = [region_of(start, *near, 0, dtypes), region_of(start, *far, 2**53 - 1, dtypes)]
    plain = {"name": "Custom", "function": start.name} if isinstance(start, si.Custom) else start.to_dict()
    return {"initializer": plain, "regions": regions}


def vectors() -> dict[str, Any]:
    """All of them, as plain data."""
    streams = [(0, []), (0, ["fc", "weight"]), (2**64 - 1, ["ab", "c"]), (2**64 - 1, ["a", "bc"]), (7, ["", "é"])]
    places = [(0, 0), (1, 3), (2, 2**34 - 5), (0, 2**60 + 1)]
    of = key(0, ["fc", "weight"])
    return {
        "version": VERSION,
        "keys": [
            {"seed": f"{seed:016x}", "parts": parts, "key": " ".join(f"{word:08x}" for word in key(seed, parts))}
            for seed, parts in streams
        ],
        "words": [
            {"seed": 0, "parts": ["fc", "weight"], "draw": draw, "first": first}
            | {"words": hexadecimal(runs(of, draw, np.array([first]), 9))}
            for draw, first in places
        ],
        "initializers": {name: record(*case) for name, case in CASES.items()},
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
