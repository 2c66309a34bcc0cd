"""PyTorch keeps the contract of adapters."""

from tests.contract import Contract
from tests.frameworks.houses import torch as house


class TestTorch(Contract):
    """PyTorch's modules."""

    house = house
