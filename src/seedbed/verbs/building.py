"""Building models without memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from seedbed.errors import ModelError, quoted
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


def dim(axis: int, input: int = 0) -> Dim:  # noqa: A002 -- the word for it
    """A size that a layer's input is to tell, in the place of a number.

    Args:
        axis: Of the input; counted from 0, or back from -1.
        input: Which of the layer's inputs, counted from 0.

    Example:
        >>> dim(-1)
        Dim(axis=-1, input=0)
    """
    return Dim(axis, input)


def lazy(cls: type, *arguments: Any, **keywords: Any) -> Any:
    """A layer with sizes left open: wherever an argument is a `dim`, its input tells it.

    Args:
        cls: The layer's class.
        *arguments: For its constructor.
        **keywords: The same, by name.

    Returns:
        A layer that becomes one of `cls`, the same object, when its sizes are known.

    Raises:
        ModelError: It is not the class of a layer that has sizes to leave open.
        InputError: No argument is a `dim`.

    Example:
        >>> import seedbed as sb
        >>> from flax import nnx
        >>> net = nnx.Sequential(sb.lazy(nnx.Linear, sb.dim(-1), 256, rngs=nnx.Rngs(0)), nnx.relu)
        >>> sb.trace(net)["layers.0.kernel"].shown_shape
        '(?, 256)'
    """
    for framework in loaded() if isinstance(cls, type) else ():
        if framework.owns_class(cls):
            return framework.lazy(cls, arguments, keywords)
    raise ModelError(
        f"lazy: the class of a layer is needed, got {quoted(cls)}.",
        remedy="Give the class and its arguments: seedbed.lazy(nnx.Linear, seedbed.dim(-1), 256, rngs=rngs).",
    )
