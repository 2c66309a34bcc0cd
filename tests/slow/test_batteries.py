"""SmallCrush over words that lie side by side, and proof that it finds bad ones.

Streams are fixed, so a verdict is the same at each run: a p-value nearer than 1e-9 to 0 or 1 is a defect.
"""

import re

import numpy as np
import pytest
from scripts.evidence import batteries

pytestmark = pytest.mark.slow
FAILED = 1e-9


def built(name, folder, rounds=20):
    try:
        return batteries.build(name, folder, rounds)
    except batteries.MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("batteries")


def failures(battery, layout, piece="word"):
    results = batteries.run(battery, "smallcrush", layout, piece)
    assert len(results) == 15
    return [(name, p) for _, p, name in results if batteries.distance(p) < FAILED]


@pytest.mark.parametrize(("layout", "piece"), batteries.CHECKED)
@pytest.mark.parametrize("first", [0, 2**32 - 3])  # where the counter's second word begins
def test_the_words_of_the_batteries_are_those_of_the_reference(folder, layout, piece, first):
    batteries.compare(built("words", folder), layout, piece, first)


def test_that_words_of_other_rounds_are_found_out(folder):
    with pytest.raises(ValueError, match="not those of the reference"):
        batteries.compare(built("words", folder, 19), "one", "word")


@pytest.mark.parametrize("layout", ["one", "column", *batteries.INTERLEAVED])
def test_words_pass_smallcrush(folder, layout):
    assert failures(built("battery", folder), layout) == []


@pytest.mark.parametrize("piece", ["reverse", "top24", "low31"])
def test_the_bits_in_use_pass_smallcrush(folder, piece):
    assert failures(built("battery", folder), "seeds", piece) == []


def test_smallcrush_finds_a_bad_generator(folder):
    assert len(failures(built("battery", folder), "lcg")) >= 5


@pytest.mark.parametrize("layout", ["one", "seeds"])
def test_smallcrush_finds_a_counter_without_rounds(folder, layout):
    assert len(failures(built("battery", folder, 0), layout)) >= 5


def test_reference_words_are_cut_into_pieces_as_said():
    words = batteries.whole_words("one", 0, 4096)
    text = "".join(f"{w:032b}"[:24] for w in words[:8])
    assert batteries.reference("one", "top24", 0, 6).tolist() == [int(t, 2) for t in re.findall("." * 32, text)]
    text = "".join(f"{w:032b}"[1:] for w in words[:32])
    assert batteries.reference("one", "low31", 0, 31).tolist() == [int(t, 2) for t in re.findall("." * 32, text)]
    reverse = [int(f"{w:032b}"[::-1], 2) for w in words[:9]]
    assert np.array_equal(batteries.reference("one", "reverse", 0, 9), np.array(reverse, np.uint32))
