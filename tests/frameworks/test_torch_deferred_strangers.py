"""What constructors of other people's libraries do, that few models here do."""

import numpy as np
import pytest
import torch
from tests.frameworks.pairs import agree, net
from torch import nn

CASES = {}


def case(build):
    CASES[build.__name__] = net(build)
    return build


def table():
    return torch.arange(24.0).view(4, 6)


@case
def a_forward_in_training(self):
    self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        self.head = nn.Linear(self.body(torch.zeros(1, 1, 8, 8)).shape[1], 2)
        self.body(torch.randn(4, 1, 8, 8))
    self.counted = nn.BatchNorm1d(5)
    self.counted(torch.arange(20.0).view(4, 5))
    self.still = nn.BatchNorm1d(5).eval()
    self.register_buffer("seen", self.still(torch.arange(20.0).view(4, 5)).detach())


@case
def lists_as_indices(self):
    exchanged = table()
    exchanged[[0, 3]] = exchanged[[3, 0]]
    exchanged[:, [1, 2]] *= 2
    exchanged[range(2), 5] = 7
    self.register_buffer("exchanged", exchanged)
    self.register_buffer("none", table()[[]])
    self.register_buffer("chosen", table()[[True, False, True, False]])
    self.register_buffer("rows", table()[np.array([0, 3])])
    self.register_buffer("mixed", table()[[0, 1], torch.tensor([2, 3])])
    self.weight = nn.Parameter(torch.randn(40, 6))
    self.weight.data[[3, 5]] = 0


@case
def conjugates(self):
    spectrum = torch.fft.fft(torch.arange(8.0))
    self.register_buffer("spectrum", spectrum)
    self.register_buffer("mirrored", spectrum.conj())
    self.register_buffer("imaginary", spectrum.conj().imag)
    self.register_buffer("twice", spectrum.conj() * 2)
    self.register_buffer("alone", (torch.arange(8.0) * 1j).conj())
    self.register_buffer("negative", (torch.arange(8.0) * 1j).conj().imag)
    self.register_buffer("back", torch.fft.irfft(torch.fft.rfft(torch.arange(8.0)).conj()))
    written = torch.zeros(8, dtype=torch.cfloat)
    written.conj().copy_(spectrum)
    written.conj().imag.mul_(3)
    self.register_buffer("written", written)
    self.register_buffer("read", torch.tensor(written.conj()[1].item()))
    self.weight = nn.Parameter(torch.randn(40, dtype=torch.cfloat).conj())


@case
def one_memory_for_several(self):
    flat = torch.randn(40)
    self.first, self.second = nn.Parameter(flat[:20].detach()), nn.Parameter(flat[20:].detach())
    self.both = torch.randn(40)
    self.end = nn.Parameter(self.both[20:].detach())
    based = torch.arange(40.0)
    self.register_buffer("low", based[:10])
    self.register_buffer("high", based[30:])
    self.based = based
    sines, cosines = torch.arange(40.0).view(5, 8).sin().chunk(2, -1)
    self.register_buffer("sines", sines)
    self.register_buffer("cosines", cosines)
    turns = torch.arange(10.0)
    self.register_buffer("even", turns[::2])
    self.register_buffer("odd", turns[1::2])


@pytest.mark.parametrize("name", CASES)
def test_it_is_built_as_pytorch_builds_it(name):
    agree(CASES[name])


def test_what_is_flat_beside_its_parts_sees_them():
    model = agree(CASES["one_memory_for_several"])
    assert torch.equal(model.both[20:], model.end)
    assert torch.isfinite(model.both).all()
    assert model.both.std() > 0.5
    assert torch.equal(model.based, torch.arange(40.0))
    model.based.zero_()
    assert (model.high == 0).all()
