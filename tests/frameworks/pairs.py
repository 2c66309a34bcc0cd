"""One constructor run twice: by PyTorch alone, and in `deferred()` and started by seedbed. What must agree."""

import torch
from scipy import stats
from torch import nn

import seedbed as sb

ALPHA = 1e-9
"""How often a test of a distribution may fail by chance."""


def named(model):
    """Every path of every parameter and buffer."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def bits(tensor):
    """A tensor's values as bytes, whatever its dtype and layout."""
    return tensor.detach().reshape(-1).clone().view(torch.uint8) if tensor.numel() else torch.empty(0)


def same(a, b):
    """Whether two tensors agree bit for bit."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def facts(tensor):
    """All but the values."""
    return type(tensor), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.requires_grad


def aliases(model):
    """Which paths are one tensor, and which tensors share memory, and where."""
    ties, shared = {}, {}
    for path, tensor in named(model).items():
        ties.setdefault(id(tensor), []).append(path)
        if tensor.numel():
            where = (path, tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
            shared.setdefault(tensor.untyped_storage()._cdata, []).append(where)
    return sorted(ties.values()), sorted(places for places in shared.values() if len(places) > 1)


def deferred(make):
    """Built without memory; the global state of PyTorch's generator stays."""
    state = torch.get_rng_state()
    with sb.deferred():
        model = make()
    assert torch.equal(torch.get_rng_state(), state), "drew from the global generator"
    return model


def agree(make, *, discrete=False):
    """Compare; returns the model that seedbed started.

    Where three runs of PyTorch agree nothing is random, and the bits must be PyTorch's; elsewhere the
    values must be spread as PyTorch's are. `discrete` is for draws that agree by chance.
    """
    eager = [make() for _ in range(3)]
    model = deferred(make)
    before = {path: (id(t), facts(t), t.is_meta) for path, t in named(model).items()}
    plan = sb.plan(model)
    sb.initialize(model)
    ours, theirs = named(model), [named(m) for m in eager]
    assert list(ours) == list(theirs[0])
    assert aliases(model) == aliases(eager[0])
    assert sorted(p for e in plan for p in e.spec.paths) == sorted(ours), "one origin for each"
    for path, mine in ours.items():
        assert before[path][:2] == (id(mine), facts(mine)), f"{path} is not the tensor it was"
        one, two, three = (t[path] for t in theirs)
        assert facts(mine) == facts(one), path
        if same(one, two) and same(one, three):
            assert same(mine, one), f"{path}: {mine} is not {one}"
        elif not discrete:
            _spread_alike(path, mine.detach(), one.detach(), two.detach(), three.detach())
    assert equals(ours) == equals(theirs[0]) & equals(theirs[1]) or discrete
    _seeds(make, ours)
    return model


def equals(tensors):
    """Pairs of paths whose values are equal, those of one element left out."""
    held = {path: bits(t) for path, t in tensors.items() if t.numel() > 1}
    return {(a, b) for a in held for b in held if a < b and torch.equal(held[a], held[b])}


def _spread_alike(path, mine, one, two, three):
    if one.is_complex():
        mine, one, two, three = (torch.view_as_real(t.resolve_conj()) for t in (mine, one, two, three))
    fixed = (one == two) & (one == three)
    if one.dtype in (torch.float32, torch.float64):
        assert torch.equal(mine[fixed], one[fixed]), f"{path}: where nothing is random"
    mine, one, two, three = (t[~fixed].double().reshape(-1) for t in (mine, one, two, three))
    if mine.numel() >= 8:
        found = stats.ks_2samp(mine.numpy(), torch.cat([one, two, three]).numpy())
        assert found.pvalue > ALPHA, f"{path}: {found}"
    assert torch.isfinite(mine).all(), path


def _seeds(make, ours):
    again, other = deferred(make), deferred(make)
    sb.initialize(again, seed=0)
    sb.initialize(other, seed=1)
    for path, tensor in ours.items():
        assert same(tensor, named(again)[path]), f"{path}: not the same bits again"
    fresh = {p for p, t in named(other).items() if t.numel() > 3 and same(t, ours[p])}
    eager = [named(make()), named(make())]
    assert fresh <= {p for p in ours if same(eager[0][p], eager[1][p])}, "another seed, the same numbers"


def net(build):
    """A class of models whose constructor is `build`, a function of the model."""

    def __init__(self):
        nn.Module.__init__(self)
        build(self)

    return type(build.__name__, (nn.Module,), {"__init__": __init__})
