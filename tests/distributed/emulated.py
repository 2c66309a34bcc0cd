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
    """The same model with the elements of every tensor numbered in order: laid out, a shard says which ones it has."""
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for name, t in [(n, t) for n, t in kind.items() if t is not None]:
                numbers = torch.arange(t.numel(), dtype=torch.float64).reshape(t.shape)
                kind[name] = nn.Parameter(numbers) if isinstance(t, nn.Parameter) else numbers
    return model


def named(model):
    """Parameters and buffers by path."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
