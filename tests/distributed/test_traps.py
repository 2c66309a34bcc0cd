"""What PyTorch gets wrong in silence when it starts sharded parameters: that it still does, and that ours is right.

Where a later PyTorch has mended one, its test is skipped with that reason, after ours was found right.
"""

import pytest
import torch

pytest.importorskip("torch.testing._internal.distributed.fake_pg", reason="this PyTorch has no fake process group")
from tests.distributed.emulated import held, process
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard as Cut
from torch.distributed.tensor import distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

import seedbed as sb

pytestmark = pytest.mark.filterwarnings("ignore:DTensor random operators may not:UserWarning")
WORLD = 4
MENDED = "this PyTorch has mended it: "


def theirs(build, rank):
    """As PyTorch starts a sharded model, with one seed on every rank."""
    with process(rank, WORLD):
        with torch.device("meta"):
            model = build()
        fully_shard(model)
        model.to_empty(device="cpu")
        torch.manual_seed(0)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        return held(model.weight).clone()


def ours(build, rank, **options):
    """As seedbed starts it."""
    with process(rank, WORLD):
        with sb.deferred():
            model = build()
        sb.initialize(fully_shard(model), **options)
        return held(model.weight).clone()


def test_copies_of_shard_0():
    alone = sb.initialize(nn.Linear(6, 8)).weight
    mine = [ours(lambda: nn.Linear(6, 8), rank) for rank in range(WORLD)]
    assert torch.equal(torch.cat(mine), alone)
    assert alone.unique().numel() == alone.numel()
    copies = [theirs(lambda: nn.Linear(6, 8), rank) for rank in range(WORLD)]
    if not all(torch.equal(c, copies[0]) for c in copies):
        pytest.skip(f"{MENDED}shards differ under one seed")


WRITES = {
    "a row": lambda t: [t[n].fill_(5) for n in (2, 3)],
    "rows": lambda t: t[2:4].fill_(5),
    "a chunk": lambda t: t.chunk(WORLD)[1].fill_(5),
    "a view": lambda t: t.view(-1)[12:24].fill_(5),
}


@pytest.mark.parametrize("write", WRITES)
def test_slices_that_lose_writes(write):
    """The writer of a constructor, recorded before the model is laid out, loses nothing."""

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(8, 6))
            with torch.no_grad():
                WRITES[write](self.weight)

        def forward(self, x):
            return x @ self.weight

    assert torch.equal(ours(Written, 1), torch.full((2, 6), 5.0))
    assert all(torch.equal(ours(Written, rank), torch.zeros(2, 6)) for rank in (0, 2, 3))
    with process(1, WORLD):
        laid = distribute_tensor(torch.zeros(8, 6), init_device_mesh("cpu", (WORLD,)), [Cut(0)], src_data_rank=None)
        WRITES[write](laid)
        if held(laid).any():
            pytest.skip(f"{MENDED}a write through {write} arrives")


def test_rank_local_bool_of_any():
    """`trunc_normal_` draws again while any is outside: each rank sees its own part alone, and loops as often as that needs."""

    class Drawn(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(8, 6), a=-0.5, b=0.5))

        def forward(self, x):
            return x @ self.weight

    with sb.deferred():
        alone = Drawn()
    alone = sb.initialize(alone).weight
    assert alone.abs().max() <= 0.5
    assert torch.equal(torch.cat([ours(Drawn, rank) for rank in range(WORLD)]), alone)
    seen = []
    for rank in range(WORLD):
        with process(rank, WORLD):
            mesh = init_device_mesh("cpu", (WORLD,))
            flags = distribute_tensor(torch.tensor([False, False, True, False]), mesh, [Cut(0)], src_data_rank=None)
            seen.append(bool(flags.any()))
    if seen != [False, False, True, False]:
        pytest.skip(f"{MENDED}bool(any()) is {seen} on the ranks")


def test_padding_rows():
    def build():
        return nn.Embedding(8, 3, padding_idx=3)

    mine = torch.cat([ours(build, rank) for rank in range(WORLD)])
    assert torch.equal(mine, sb.initialize(build()).weight)
    assert not mine[3].any()
    assert (mine[[0, 1, 2, 4, 5, 6, 7]] != 0).all()
    if not theirs(build, 1)[1].any():
        pytest.skip(f"{MENDED}the padding row is zero")


@pytest.mark.parametrize("rank", range(WORLD))
def test_the_padding_of_a_buffer_stays_what_it_was(rank):
    """`fully_shard` pads its memory to the same size everywhere; values end where the shard ends."""
    with process(rank, WORLD):
        with sb.deferred():
            model = nn.Linear(2, 5)  # two rows each, then one, then none
        fully_shard(model)
        sb.initialize(model, recipe=sb.initializers.Constant(value=7))
        for group in model._get_fsdp_state()._fsdp_param_group.fsdp_params:
            padded = group._sharded_param_data
            own = held(model.weight if group._orig_size == model.weight.shape else model.bias)
            assert (own == 7).all()
            assert padded.untyped_storage().data_ptr() == own.untyped_storage().data_ptr() or not own.numel()
            assert not padded[own.numel() :].any(), "what is gathered beside the shard is not zero"


def test_stale_mesh_coordinates():
    """A mesh equals one made for another process, and operators of DTensor answer with the first that was seen.

    Where one process stands in for many, even `fully_shard` makes its parameters so.
    """
    alone, found = sb.initialize(nn.Linear(6, 9), seed=2).weight, []
    for rank in range(WORLD):
        with process(rank, WORLD):
            with sb.deferred():
                model = nn.Linear(6, 9)
            fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
            found.append(model.weight.device_mesh.get_coordinate()[0])
            sb.initialize(model, seed=2)
            assert torch.equal(held(model.weight), alone[3 * rank : 3 * rank + 3])
    if found == list(range(WORLD)):
        pytest.skip(f"{MENDED}operators keep the mesh")


def test_the_offset_of_a_strided_shard():
    """PyTorch's own function says where the first element lies; it is wrong where the halves are not cut evenly."""
    wrong = []
    for rank in range(16):
        with process(rank, 16):
            mesh = init_device_mesh("cpu", (8, 2), mesh_dim_names=("dp", "tp"))
            with sb.deferred():
                model = nn.Linear(1, 50257)
            way = distribute_tensor(model.weight.detach(), mesh["tp"], [Cut(0)], src_data_rank=None)
            model.weight, model.bias = nn.Parameter(way), None
            fully_shard(model, mesh=mesh["dp"])
            sb.initialize(model, recipe=sb.initializers.Custom(places))
            first = int(held(model.weight)[0])
            dp, tp = divmod(rank, 2)
            assert first == tp * 25129 + dp * (3142 - tp)  # of 25,129 rows and of 25,128, an eighth each, rounded up
            _, offset = compute_local_shape_and_global_offset(
                model.weight.shape, model.weight.device_mesh, model.weight.placements
            )
            wrong += [rank] if offset[0] != first else []
    if not wrong:
        pytest.skip(f"{MENDED}its offsets are right")


def places(draw, spec):
    """Each row's number in the whole."""
    return draw.index(0) + 0 * draw.index(1)
