"""What must agree between a model that PyTorch built and one that seedbed built and started."""

import math
from collections.abc import Callable
from typing import Any

import torch
from scipy import stats
from tests.frameworks.pairs import ALPHA, aliases, bits, deferred, facts, named, same
from torch import nn

import seedbed as sb
from seedbed.initializers import Normal, TruncatedNormal, Uniform

CHANCE = 1e-4
"""Elements of two random tensors that may be equal by chance."""
CLAMPED = 5
"""Deviations beyond which PyTorch's `erfinv` of a draw of exactly -1, one of 2^24, ends where the author clamps."""


def loose(model: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors in attributes that are neither parameters nor buffers."""
    found: dict[str, torch.Tensor] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[path] = value
        elif isinstance(value, (list, tuple)):
            for n, v in enumerate(value):
                walk(f"{path}[{n}]", v)
        elif isinstance(value, dict):
            for k, v in value.items():
                walk(f"{path}[{k}]", v)

    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules", "_seedbed_note"):
                walk(f"{prefix}.{name}", value)
    return found


def some(values: torch.Tensor) -> torch.Tensor:
    """At most 8192 of them, from everywhere, in order."""
    places = torch.linspace(0, len(values) - 1, min(len(values), 8192), dtype=torch.float64).long()
    return values[places].sort().values


def apart(one: torch.Tensor, other: torch.Tensor | Callable[[Any], Any]) -> float:
    """How far two distributions are apart, in the distance that ALPHA allows; the other may be a law."""
    values = one.double().reshape(-1)
    values = some(values)
    count = len(values)
    if isinstance(other, torch.Tensor):
        others = some(other.double().reshape(-1))
        both = torch.cat([values, others])
        first, second = (torch.searchsorted(v, both, right=True) / len(v) for v in (values, others))
        distance, count = float((first - second).abs().max()), count * len(others) / (count + len(others))
    else:
        below = torch.from_numpy(other(values.numpy()))
        steps = torch.arange(count + 1) / count
        distance = float(torch.maximum(steps[1:] - below, below - steps[:-1]).max())
    return distance / math.sqrt(math.log(2 / ALPHA) / 2 / count)


def law_of(start: Any) -> Any:
    """What a start is distributed as, where that has a name."""
    if isinstance(start, Uniform) and start.high > start.low:
        return stats.uniform(start.low, start.high - start.low)
    if isinstance(start, TruncatedNormal):
        return stats.truncnorm(-start.cut, start.cut, start.mean, start.std)
    return stats.norm(start.mean, start.std) if isinstance(start, Normal) and start.std else None


def spread(path: str, ours: list[torch.Tensor], theirs: list[torch.Tensor], start: Any) -> None:
    """Random values: those that are not random equal, the others distributed alike, and by the law that is named."""
    if theirs[0].is_complex():
        ours, theirs = ([torch.view_as_real(t.resolve_conj()) for t in ts] for ts in (ours, theirs))
    fixed = torch.stack([theirs[0] == t for t in theirs[1:]]).all(0)
    if len(theirs) == 2 and int(fixed.sum()) <= max(2, fixed.numel() * CHANCE):
        fixed = torch.zeros_like(fixed)
    if theirs[0].dtype in (torch.float32, torch.float64):
        assert torch.equal(ours[0][fixed], theirs[0][fixed]), f"{path}: where nothing is random"
    mine, eager = (torch.cat([t[~fixed].reshape(-1) for t in ts]) for ts in (ours, theirs))
    assert torch.isfinite(mine.double()).all(), f"{path}: not finite"
    assert apart(mine, eager) < 1, f"{path}: other distributions: {mine[:4]}, {eager[:4]}"
    law = law_of(start) if mine.dtype in (torch.float32, torch.float64) and not fixed.any() else None
    for who, values in (("PyTorch", eager), ("seedbed", mine)) if law is not None else ():
        low, high = law.support()
        slack = 1e-5 * (abs(low) + abs(high)) if math.isfinite(low) else 0
        outside = int(((values < low - slack) | (values > high + slack)).sum())
        wide = isinstance(start, TruncatedNormal) and start.cut > CLAMPED
        assert outside <= 2 * (wide and who == "PyTorch"), f"{path}: {who}'s support is not {start}"
        assert apart(values, law.cdf) < 1, f"{path}: {who}'s is not {start}"


def groups(tensors: dict[str, torch.Tensor]) -> set[tuple[str, ...]]:
    """Paths whose values are equal, those of one element left out."""
    found: dict[Any, list[str]] = {}
    for path, tensor in tensors.items():
        if tensor.numel() > 1:
            found.setdefault((tuple(tensor.shape), bits(tensor).numpy().tobytes()), []).append(path)
    return {tuple(paths) for paths in found.values() if len(paths) > 1}


def parts(make: Callable[[], nn.Module], whole: nn.Module) -> None:
    """Submodules started one by one hold the same bits as the whole."""
    model = deferred(make)
    for child in model.children():
        if any(True for _ in child.parameters()) or any(True for _ in child.buffers()):
            sb.initialize(child)
    sb.initialize(model)
    ours, theirs = named(model), named(whole)
    for path, tensor in ours.items():
        assert same(tensor, theirs[path]), f"{path}: started as a part, it differs"


def compare(make: Callable[[], nn.Module], *, again: bool) -> None:
    """All that must agree; `again` is for a model like another that did, which need not be started so often."""
    torch.manual_seed(1)
    eager = [make() for _ in range(2 if again else 3)]
    started = deferred(make)
    other = started if again else deferred(make)
    before = {path: (id(t), facts(t), t.is_meta) for path, t in named(started).items()}
    plan = sb.plan(started)
    sb.initialize(started)
    if not again:
        sb.initialize(other, seed=7)
    ours, others, theirs = named(started), named(other), [named(m) for m in eager]
    assert list(ours) == list(theirs[0]), f"paths {sorted(set(ours) ^ set(theirs[0]))[:3]}"
    assert aliases(started) == aliases(eager[0]), "ties and memory"
    entries = {p: e for e in plan for p in e.spec.paths}
    assert sorted(entries) == sorted(ours), "one origin for each"
    for path, mine in ours.items():
        assert before[path][:2] == (id(mine), facts(mine)), f"{path} is not the tensor it was"
        assert facts(mine) == facts(theirs[0][path]), f"{path}: {facts(mine)}, not {facts(theirs[0][path])}"
        assert not mine.is_meta, f"{path}: has no memory"
        tensors = [t[path].detach() for t in theirs]
        if all(same(tensors[0], t) for t in tensors[1:]):
            assert same(mine, tensors[0]), f"{path}: {mine.flatten()[:6]} is not {tensors[0].flatten()[:6]}"
            assert same(others[path], tensors[0]), f"{path}: differs by the seed"
        else:
            spread(path, [mine.detach(), others[path].detach()], tensors, entries[path].start)
            assert again or mine.numel() < 4 or not same(mine, others[path]), f"{path}: another seed, the same numbers"
    equal = set.intersection(*map(groups, theirs))
    assert groups(ours) & groups(others) == equal, f"equal values: {(groups(ours) ^ equal)}"[:300]
    findings = sb.check(started, plan)
    assert findings.ok, f"check: {findings.different[:2]}"
    held = [loose(m) for m in (started, *eager)]
    assert set(held[0]) == set(held[1]), f"attributes {sorted(set(held[0]) ^ set(held[1]))[:3]}"
    for path, tensor in held[1].items():
        assert facts(held[0][path]) == facts(tensor), f"attribute {path}: {facts(held[0][path])}, not {facts(tensor)}"
        if all(same(tensor, h[path]) for h in held[2:]):
            assert same(held[0][path], tensor), f"attribute {path}: other values"
    if not again:
        parts(make, started)
