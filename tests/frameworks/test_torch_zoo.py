"""Architectures of transformers: deferred construction builds what PyTorch builds."""

import pytest
import torch

import seedbed as sb

pytest.importorskip("transformers")
from tests.frameworks.pairs import agree, deferred
from tests.frameworks.zoo import READERS, ZOO, read

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers', of its own use of things


def test_there_are_many():
    assert len(ZOO) >= 45


@pytest.mark.parametrize("name", ZOO)
def test_an_architecture_is_built_as_pytorch_builds_it(name):
    agree(ZOO[name])


@pytest.mark.parametrize("name", READERS)
def test_a_model_reads(name):
    assert torch.isfinite(read(sb.initialize(deferred(ZOO[name])))).all()
