"""Starts that need a matrix whole, beside torch's: with one thread, and with all."""

import os

import torch
from timing import compare, ours
from torch.nn import init

from seedbed import initializers as i

try:
    from threadpoolctl import threadpool_limits
except ImportError:
    threadpool_limits = None


def orthogonal(sizes):
    rows = []
    for threads in dict.fromkeys((1, os.cpu_count() or 1)):
        where = f"{threads} thread{'s'[: threads > 1]}"
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            for size in sizes:
                w = torch.empty(size, size)
                peers = {"torch orthogonal_": lambda w=w: init.orthogonal_(w)}
                job = ours(i.Orthogonal(), (size, size))
                rows += compare(where, f"Orthogonal, {size} x {size}", job, peers, size**2, 3, 5)
    return rows


def sparse(size=1024):
    torch.set_num_threads(1)
    w = torch.empty(size, size)
    peers = {"torch sparse_": lambda: init.sparse_(w, 0.9)}
    return compare(
        "1 thread", f"Sparse, {size} x {size}", ours(i.Sparse(sparsity=0.9), (size, size)), peers, size**2, 2
    )
