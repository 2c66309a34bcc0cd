"""Building models without memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from seedbed.errors import ModelError
from seedbed.frameworks import NAMES, loaded


@contextmanager
def deferred() -> Iterator[None]:
    """Build models without memory, and record how their constructors start them.

    Whatever is constructed inside holds no values; `plan` shows where each parameter and buffer comes
    from, and `initialize` carries it out. The model's code needs to know nothing of it. Code that looks
    at a tensor's device is told the one it asked for; code that reads a value gets it, unless it was
    drawn at random.

    Raises:
        ModelError: No framework has been imported.
        CaptureError: From inside: the model's code reads what was drawn at random.

    Example:
        >>> import torch
        >>> with deferred():
        ...     net = torch.nn.Sequential(torch.nn.Linear(20, 256), torch.nn.LayerNorm(256))
        >>> net[0].weight.is_meta
        True
        >>> import seedbed as sb
        >>> [str(entry.start) for entry in sb.plan(net)]
        ['Uniform(low=-0.2236, high=0.2236)', 'Uniform(low=-0.2236, high=0.2236)', 'Ones()', 'Zeros()']
    """
    frameworks = loaded()
    if not frameworks:
        raise ModelError(
            "deferred: no framework has been imported, so there is nothing to build with.",
            remedy=f"Import one first: {', '.join(NAMES)}.",
        )
    with ExitStack() as stack:
        for framework in frameworks:
            stack.enter_context(framework.deferred())
        yield
