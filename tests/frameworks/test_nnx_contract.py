"""flax.nnx keeps the contract of adapters."""

from tests.contract import Contract
from tests.frameworks.houses import nnx as house


class TestNnx(Contract):
    """Modules of flax.nnx."""

    house = house
