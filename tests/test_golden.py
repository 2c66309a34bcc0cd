"""The numbers of version 1 of the contract, bit for bit, against vectors that are never made anew."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from tests.strategies import each_engine  # noqa: F401 -- pytest runs it around every test here

import seedbed as sb
from seedbed import initializers as si
from seedbed.fill import fill
from seedbed.plan import VERSION, key
from seedbed.region import Region
from seedbed.threefry import runs

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden" / "numbers.json").read_text(encoding="utf-8"))
RECORDS = GOLDEN["initializers"]

_spec = importlib.util.spec_from_file_location("make_golden", HERE.parent / "scripts" / "make_golden.py")
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


def initializer_of(data):
    return si.Custom(script.CUSTOM[data["function"]]) if data["name"] == "Custom" else si.from_dict(data)


def numbers(bits, dtype):
    """Hexadecimal bits as float64."""
    words = [int(word, 16) for word in bits.split()]
    if dtype == "bfloat16":
        return np.array([word << 16 for word in words], np.uint32).view(np.float32).astype(float)
    width = np.dtype(dtype).itemsize
    return np.array(words, f"u{width}").view(dtype).astype(float)


def cases():
    for name, record in RECORDS.items():
        for region, where in zip(record["regions"], ("near", "far"), strict=True):
            yield from (pytest.param(name, region, dtype, id=f"{name}-{where}-{dtype}") for dtype in region["bits"])


@pytest.mark.parametrize(("name", "region", "dtype"), list(cases()))
def test_values_equal_their_golden_vector(name, region, dtype):
    shape = tuple(region["shape"])
    specs = sb.Specs((sb.ParamSpec(path="fc.weight", shape=shape, dtype=dtype, axes=script.AXES[: len(shape)]),))
    (entry,) = sb.plan(specs, recipe=initializer_of(RECORDS[name]["initializer"]), seed=region["seed"])
    got = script.hexadecimal(fill(entry, Region(tuple(region["start"]), tuple(region["stop"]))))
    if name == "Orthogonal":  # equal to float64's rounding only
        step = {"bfloat16": 2.0**-7, "float16": 2.0**-10}.get(dtype, 0)
        expected = numbers(region["bits"][dtype], dtype)
        assert (np.abs(numbers(got, dtype) - expected) <= 1e-6 + step * np.abs(expected)).all()
    else:
        assert got == region["bits"][dtype]


@pytest.mark.parametrize("case", GOLDEN["keys"], ids=lambda case: f"{case['seed']}-{'-'.join(case['parts'])}")
def test_keys_equal_their_golden_vector(case):
    assert " ".join(f"{word:08x}" for word in key(int(case["seed"], 16), case["parts"])) == case["key"]


@pytest.mark.parametrize("case", GOLDEN["words"], ids=lambda case: f"{case['draw']}-{case['first']}")
def test_words_equal_their_golden_vector(case):
    words = runs(key(case["seed"], case["parts"]), case["draw"], np.array([case["first"]]), 9)
    assert script.hexadecimal(words) == case["words"]


def test_golden_vectors_are_of_this_version():
    assert GOLDEN["version"] == VERSION == 1


def test_every_initializer_has_golden_vectors_in_every_floating_point_dtype():
    classes = {record["initializer"]["name"] for record in RECORDS.values()}
    assert classes == {cls.__name__ for cls in (*si.ALL, si.Custom)} - {"Keep", "Recorded", "Chain", "Loaded"}
    for record in RECORDS.values():
        for region in record["regions"]:
            assert {"float64", "float32", "bfloat16", "float16"} <= set(region["bits"])
            assert all(len(bits.split()) == 12 for bits in region["bits"].values())


def test_the_script_makes_the_same_cases():
    assert list(RECORDS) == list(script.CASES)
    for name, (start, dtypes) in script.CASES.items():
        assert all(list(region["bits"]) == list(dtypes) for region in RECORDS[name]["regions"])
        if not isinstance(start, si.Custom):
            assert si.from_dict(RECORDS[name]["initializer"]) == start
