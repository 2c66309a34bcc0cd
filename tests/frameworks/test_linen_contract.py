"""flax.linen keeps the contract of adapters."""

from tests.contract import Contract
from tests.frameworks.houses import linen as house


class TestLinen(Contract):
    """Modules of flax.linen."""

    house = house
