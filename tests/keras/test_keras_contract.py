"""Keras keeps the contract of adapters, on the backend that the process has."""

from tests.contract import Contract
from tests.frameworks.houses import keras as house


class TestKeras(Contract):
    """Keras's models."""

    house = house
