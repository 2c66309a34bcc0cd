"""Building models without memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from seedbed.errors import InputError, ModelError, quoted
from seedbed.frameworks import NAMES, loaded
from seedbed.spec import Dim


@contextmanager
def deferred() -> Iterator[None]:
    """Build models without memory, and record how their constructors start them.

    Whatever is constructed inside holds no values; `plan` shows where each parameter and buffer comes
    from, and `initialize` carries it out. The model's code needs to know nothing of it. Code that looks
    at a tensor's device is told the one it asked for; code that reads a value gets it, unless it was
    drawn at random.

    Raises:
        ModelError: No framework has been imported.
        CaptureError: From inside: the model's code reads what was drawn at random, or a verb is called on a model.

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


def dim(axis: int, input: int | str = 0) -> Dim:  # noqa: A002 -- the word for what it is
    """A size of a layer's input, in the place of a number: see `lazy`.

    Args:
        axis: Of the input; negative ones count from the end.
        input: Which of the layer's inputs: its place, or its name.

    Returns:
        The size, still open.

    Raises:
        InputError: One of them is not what it should be.

    Example:
        >>> print(dim(-1))
        dim(-1)
    """
    return Dim(axis, input)


def _open(value: Any) -> bool:
    return isinstance(value, Dim) or (isinstance(value, (tuple, list)) and any(map(_open, value)))


def lazy(cls: type, *arguments: Any, **keywords: Any) -> Any:
    """A layer with sizes left open, which its first input or a dry run settles.

    Args:
        cls: A class of layers, the framework's own or anybody's.
        *arguments: What it is made with; `dim(axis, input)` stands for a size of its input.
        **keywords: The same, by name.

    Returns:
        A layer to use as one of `cls`: it becomes one.

    Raises:
        ModelError: No framework that is imported has such layers, or it has no need of this.
        InputError: No size is left open.

    Example:
        >>> import torch, seedbed as sb
        >>> net = torch.nn.Sequential(sb.lazy(torch.nn.LSTM, sb.dim(-1), 64))
        >>> print(sb.trace(net)["0.weight_ih_l0"].shown_shape, sb.trace(net, (5, 2, 20))["0.weight_ih_l0"].shown_shape)
        (256, ?) (256, 20)
    """
    found = next((f for f in loaded() if isinstance(cls, type) and f.owns_class(cls)), None)
    if found is None:
        raise ModelError(
            f"lazy: a class of layers is needed, got {quoted(cls)}.",
            remedy="Write lazy(torch.nn.LSTM, dim(-1), 64).",
        )
    if not _open(arguments) and not _open(tuple(keywords.values())):
        raise InputError(
            f"lazy: no size of {cls.__name__} is left open.",
            remedy=f"Write dim(axis) for the sizes that the input tells, or call {cls.__name__} itself.",
        )
    return found.lazy(cls, arguments, keywords)
