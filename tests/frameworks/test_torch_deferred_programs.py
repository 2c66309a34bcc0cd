"""Random constructors that draw nothing: deferred and started, they hold PyTorch's bits."""

import random

import pytest
import torch
from tests.frameworks.pairs import same
from torch import nn

import seedbed as sb

BEGINNINGS = [
    *("torch.zeros(4, 6)", "torch.ones(4, 6)", "torch.full((4, 6), 0.1)", "torch.arange(24.0).view(4, 6)"),
    *(
        "torch.empty(4, 6).fill_(2)",
        "torch.eye(4, 6)",
        "torch.ones(6, 4).t()",
        "torch.zeros(4, 6, dtype=torch.float64)",
    ),
    "torch.full((1, 1), 3.0).expand(4, 6).clone()",
]
STEPS = [
    *("x[{a}:{b}] = {c}", "x[:, {a}:{b}] = {c}", "x[{a}:{b}, {a}:{b}].fill_({c})", "x[::2] = {c}", "x.data[{a}] = {c}"),
    *("x.mul_({c})", "x[{a}:{b}].mul_({c})", "x.add_({c})", "x.neg_()", "x.clamp_(min={c})", "x.fill_({c})"),
    *("x = x * {c}", "x = x + x", "x = x / 3", "x = -x", "x = x.clone()", "x = torch.where(x > 0, x, x * {c})"),
    *("x[{a}:{b}].copy_(x[0:{d}])", "x.t()[{a}:{b}].zero_()", "x.t()[{a}] = x[0, 0]", "x[x > {c}] = 1"),
    *("x.view(-1)[{a}:{b}] = {c}", "x.view(-1)[{a}::3].add_({c})", "y = x[{a}:{b}]; y += {c}"),
    *("x = x.double()", "x = x.float()", "x = x.bfloat16().float()", "x = torch.cat([x[:2], x[2:]])"),
    "x = x.t().contiguous().t()",
]


def program(seed):
    """Lines that make an `x`."""
    rng = random.Random(seed)
    lines = [f"x = {rng.choice(BEGINNINGS)}"]
    steps, numbers = (STEPS[:4], [0, 1]) if rng.random() < 0.5 else (STEPS, [0, 1, -1, 0.1, 2.5, -0.3])
    for _ in range(rng.randint(1, 9)):
        a, n = rng.randint(0, 2), rng.randint(1, 2)
        lines.append(rng.choice(steps).format(a=a, b=a + n, c=rng.choice(numbers), d=n))
    return "\n".join(lines)


def build(source):
    scope = {"torch": torch}
    exec(source, scope)
    net = nn.Module()
    net.register_buffer("whole", scope["x"])
    net.register_buffer("part", scope["x"][1:3])
    net.copy = nn.Parameter(scope["x"].clone())
    return net


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_what_is_not_random_is_equal_to_the_bit(first):
    built = 0
    for seed in range(first, first + 100):
        source = program(seed)
        try:
            eager = build(source)
        except RuntimeError:  # .view() of what is laid out otherwise: PyTorch refuses it too
            continue
        with sb.deferred():
            net = build(source)
        sb.initialize(net)
        for name in ("whole", "part", "copy"):
            assert same(getattr(net, name), getattr(eager, name)), f"{name} of\n{source}"
        built += 1
    assert built > 60
