"""A transformer built without memory, laid out by FSDP2, started shard by shard, and trained for a few steps.

Run it on 1, 2, 4 or 8 processes: the fingerprint is the same, and so are the losses, to rounding:

    torchrun --nproc-per-node 2 examples/fsdp2.py
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import seedbed as sb

WORDS, WIDTH, LENGTH, BATCH, STEPS = 1009, 128, 32, 8, 5


class Model(nn.Module):
    """A decoder of four layers, its last layer tied to its embedding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(4)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH), persistent=False)

    def forward(self, text):
        x = self.words(text) + self.places.weight
        for layer in self.layers:
            x = layer(x, self.mask, is_causal=True)
        return self.head(self.norm(x))


def main():
    dist.init_process_group("gloo" if not torch.cuda.is_available() else "nccl")
    rank, size = dist.get_rank(), dist.get_world_size()
    device = "cpu" if not torch.cuda.is_available() else f"cuda:{os.environ['LOCAL_RANK']}"

    with sb.deferred():  # nothing is allocated, and what the constructors do is recorded
        model = Model()
    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)  # it holds the parameters before they are started

    recipe = {"*norm*": sb.initializers.Keep(), "*bias": sb.initializers.Zeros(), "*": sb.initializers.Normal(std=0.02)}
    plan = sb.plan(model, recipe=recipe, seed=0)
    sb.materialize(plan, model, device=device)  # each process fills its own shards; no value is sent
    findings = sb.check(model, plan)
    values = sb.fingerprint(plan, model)
    if rank == 0:
        mine = sum(p.to_local().nbytes if isinstance(p, DTensor) else p.nbytes for p in model.parameters())
        print(plan.table(fold=True))
        print(f"{size} processes; this one holds {mine:,} of {sum(e.spec.nbytes for e in plan):,} bytes; {findings}")

    text = torch.randint(WORDS, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    text = text[rank::size].to(device)  # each process its part of one batch
    for step in range(STEPS):
        loss = nn.functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        dist.all_reduce(loss.data, op=dist.ReduceOp.SUM)
        if rank == 0:
            print(f"step {step}  loss {loss.item() / size:.4f}")
    if rank == 0:
        print(f"started with {values}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may still let go of a sum, and abort a Python that is ending
