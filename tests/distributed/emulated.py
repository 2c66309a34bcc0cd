"""One process in the place of many: every rank in turn, with a process group that sends nothing."""

from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextmanager
def process(rank, world):
    """As the process of this rank."""
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def held(tensor):
    """What the process has in its memory of a tensor, before any operator of DTensor looks at it."""
    return tensor._local_tensor.detach() if isinstance(tensor, DTensor) else tensor.detach()


def counted(model):
    """The same model with every parameter's elements numbered in order: laid out, a shard says which ones it has."""
    with torch.no_grad():
        for module in model.modules():
            for name, p in list(module._parameters.items()):
                if p is not None:
                    numbers = torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape)
                    module._parameters[name] = nn.Parameter(numbers)
    return model
