"""Gluon's own initializers as seedbed's, and seedbed's as Gluon's.

Gluon's Xavier takes its fans from positions: out is axis 0, in is axis 1, all others are the window. That is its
formula for every layer, transposed convolutions and embeddings included, and it is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import initializer as mxinit
from mxnet.gluon import Constant as GluonConstant
from numpy.typing import NDArray

from seedbed.errors import RecipeError
from seedbed.fill import storage_dtype
from seedbed.frameworks.gluon.blocks import plain
from seedbed.frameworks.gluon.memory import Memory, start, view_of
from seedbed.initializers import (
    Constant,
    Initializer,
    Native,
    Normal,
    Ones,
    Overlay,
    Recorded,
    Uniform,
    Zeros,
    from_dict,
)
from seedbed.plan import decide
from seedbed.recipe import Recipe
from seedbed.spec import ParamSpec, Shape, Specs

Draws = Callable[[str, int, tuple[int, ...]], Any]
Start = Callable[[Any, str, Shape], "Initializer | None"]

SEEDING = threading.Lock()
"""Held while NumPy's and Python's generators give the numbers of one parameter."""
VERSION = f"mxnet {mx.__version__}"
DEFAULT = mxinit.Uniform()
"""What `Block.initialize` takes when it is given nothing."""


def is_native(function: Any) -> bool:
    """Whether a callable is an initializer of Gluon's own, or its class."""
    if isinstance(function, type):
        return issubclass(function, (mxinit.Initializer, mxinit.Mixed))
    return isinstance(function, (mxinit.Initializer, mxinit.Mixed, mxinit.Load))


def translate(native: Native, spec: ParamSpec) -> Initializer:
    """One of Gluon's initializers as ours, for one parameter.

    It is asked for what it gives a parameter that was built with it, whatever the parameter's name is.
    """
    function = native.function
    if isinstance(function, type) and issubclass(function, mxinit.Initializer):
        function = function()
    if not is_native(function):
        raise RecipeError(
            f"{spec.path}: {native.name} is not one of Gluon's initializers.",
            remedy=f"For a function of (draw, spec) write Custom({native.name}); for one of Gluon's derive it from "
            "mx.init.Initializer.",
            path=spec.path,
        )
    found = started(function, spec.path, spec.sizes)
    assert found is not None
    return found


def started(initializer: Any, path: str, shape: Shape) -> Initializer | None:
    """What an initializer of Gluon's makes of a parameter; None while it depends on sizes that are unknown.

    Raises:
        RecipeError: It does not take a parameter of this shape.
    """
    initializer = mxinit.create(initializer) if isinstance(initializer, str) else initializer
    if isinstance(initializer, mxinit.Mixed):
        return _mixed(initializer, path, shape)
    if isinstance(initializer, mxinit.Load):
        return _loaded(initializer, path, shape)
    if isinstance(initializer, Slot):
        return initializer.initializer
    start = ROWS.get(type(initializer))
    if start is not None:
        return start(initializer, path, shape)
    return None if None in shape else _carried_out(initializer, path, shape)


class Slot(mxinit.Initializer):
    """One of seedbed's initializers, for Gluon to call: it draws its key from MXNet's own generator.

    Axes are taken as Gluon's own initializers take them: out, in, and a window.
    """

    def __init__(self, initializer: Any) -> None:
        self.initializer = initializer if isinstance(initializer, Initializer) else from_dict(initializer)
        super().__init__()

    def dumps(self) -> str:
        """As Gluon writes it into graphs."""
        return json.dumps([type(self).__name__.lower(), {"initializer": self.initializer.to_dict()}])

    def _init_weight(self, desc: Any, array: Any) -> None:
        shape = tuple(array.shape)
        axes = ("out", "in", *("window",) * (len(shape) - 2)) if len(shape) > 1 else ("out",) * len(shape)
        spec = ParamSpec(path=str(desc), shape=shape, dtype=plain(array.dtype), axes=axes, start=self.initializer)
        seed = mx.nd.random.randint(0, 2**31 - 1, shape=(2,)).asnumpy().tolist()
        streams = {spec.path: "slot"}  # names count the layers of a process; the seed alone is to tell values apart
        (entry,) = decide(Specs((spec,)), Recipe.of(self.initializer), seed=seed[0] << 31 | seed[1], streams=streams)
        start(entry, Memory([array], spec.dtype))


mxinit.register(Slot)


def slot(initializer: Initializer) -> Slot:
    """One of ours as one of Gluon's."""
    return Slot(initializer)


def own_constant(parameter: GluonConstant) -> Recorded:
    """The values a constant was built with."""
    return _values(parameter.value, "Constant(...)")


def _xavier(own: Any, path: str, shape: Shape) -> Initializer | None:
    if len(shape) < 2:
        raise _does_not_take(
            own, path, shape, "Xavier initializer cannot be applied to a vector. It requires at least 2D."
        )
    if None in shape:
        return None
    sizes = [n or 0 for n in shape]
    window = math.prod(sizes[2:])
    fan_in, fan_out = sizes[1] * window, sizes[0] * window
    fans = {"in": fan_in, "out": fan_out, "avg": (fan_in + fan_out) / 2}
    if own.factor_type not in fans or own.rnd_type not in ("uniform", "gaussian"):
        wrong = "factor type" if own.factor_type not in fans else "random type"
        raise _does_not_take(own, path, shape, f"unknown {wrong}")
    scale = math.sqrt(own.magnitude / fans[own.factor_type])
    return _uniform(scale) if own.rnd_type == "uniform" else _normal(scale)


def _uniform(scale: float) -> Initializer:
    return Uniform(low=-abs(scale), high=abs(scale)) if scale else Zeros()


def _normal(std: float) -> Initializer:
    return Normal(std=std) if std else Zeros()


def _constant(own: Any, path: str, shape: Shape) -> Initializer:
    if np.ndim(own.value):
        return _values(own.value, "Constant(...)")
    value = float(own.value)
    return Zeros() if value == 0 else Ones() if value == 1 else Constant(value=value)


def _lstm_bias(own: Any, path: str, shape: Shape) -> Initializer | None:
    size = shape[0]
    if size is None:
        return None
    rest = tuple((0, n or 0) for n in shape[1:])
    gate = ((size // 4, size // 4 * 2), *rest)
    return Overlay(base=Zeros(), boxes=((gate, _constant(mxinit.Constant(own.forget_bias), path, shape)),))


def _orthogonal(own: Any, path: str, shape: Shape) -> Initializer | None:
    """Gluon's: singular vectors with the signs that LAPACK gives them, so that not every matrix is as likely."""
    if None in shape:
        return None
    sizes = tuple(n or 0 for n in shape)
    matrix = (sizes[0], math.prod(sizes[1:]))

    def function(dtype: str, draws: Draws) -> NDArray[Any]:
        draw = draws("", 0, matrix)
        drawn = draw.uniform(-1.0, 1.0) if own.rand_type == "uniform" else draw.normal()
        u, _, v = np.linalg.svd(drawn, full_matrices=False)
        made = own.scale * (u if u.shape == matrix else v).reshape(sizes)
        return _rounded(made, dtype)

    return Recorded(text=f"Orthogonal of {VERSION}", digest=_digest(own, sizes), function=function)


def _bilinear(own: Any, path: str, shape: Shape) -> Initializer | None:
    if len(shape) != 4:
        raise _does_not_take(own, path, shape, "Bilinear needs four axes")
    if None in shape:
        return None
    sizes = tuple(n or 0 for n in shape)
    half = math.ceil(sizes[3] / 2)
    center = (2 * half - 1 - half % 2) / (2 * half)

    def function(dtype: str, draws: Draws) -> NDArray[Any]:
        down, along = (1 - abs(np.arange(n) / half - center) for n in sizes[2:])
        return np.ascontiguousarray(np.broadcast_to(_rounded(np.outer(down, along), dtype), sizes))

    return Recorded(text=f"Bilinear of {VERSION}", digest=_digest(own, sizes), function=function)


def _mixed(own: Any, path: str, shape: Shape) -> Initializer | None:
    """Gluon compares its patterns with the beginning of a name; here names are paths."""
    for pattern, part in own.map:
        if pattern.match(path):
            return started(part, path, shape)
    raise RecipeError(
        f"{path}: no pattern of Mixed matches the beginning of this path.",
        facts=[f"patterns  {', '.join(p.pattern for p, _ in own.map)}"],
        remedy="End it with the pattern '.*' and an initializer for all others.",
        path=path,
    )


def _loaded(own: Any, path: str, shape: Shape) -> Initializer | None:
    if path in own.param:
        return _values(own.param[path], f"Load({path})")
    if own.default_init is None:
        raise RecipeError(
            f"{path}: Load holds no such name, and no initializer for names that it does not hold.",
            remedy="Give it one: mx.init.Load(values, default_init=...).",
            path=path,
        )
    return started(own.default_init, path, shape)


def _values(value: Any, text: str) -> Recorded:
    values = value.asnumpy() if hasattr(value, "asnumpy") else np.asarray(value)
    digest = hashlib.blake2b(repr((values.dtype.str, values.shape)).encode() + values.tobytes(), digest_size=8)

    def function(dtype: str, draws: Draws) -> NDArray[Any]:
        return _rounded(values, dtype)

    return Recorded(text=text, digest=digest.hexdigest(), function=function)


def _carried_out(own: Any, path: str, shape: Shape) -> Recorded:
    """An initializer of the user's: its own code, on numbers that follow from the parameter's key."""
    sizes, arrays = tuple(n or 0 for n in shape), mx.util.is_np_array()

    def made(dtype: str, words: list[int]) -> NDArray[Any]:
        with _seeded(words), mx.util.np_shape(arrays), mx.util.np_array(arrays):
            array = (mx.np if arrays else mx.nd).zeros(sizes, dtype=dtype)
            try:
                own._init_weight(mxinit.InitDesc(path), array)
            except (ValueError, TypeError, AssertionError, IndexError, NotImplementedError, mx.MXNetError) as error:
                raise _does_not_take(own, path, shape, str(error)) from error
            view = view_of(array)
            assert view is not None
            return view.copy()

    def function(dtype: str, draws: Draws) -> NDArray[Any]:
        words = [int(word) for word in draws("", 0, (4,)).bits()]
        with ThreadPoolExecutor(1) as apart:  # each thread has a generator of MXNet's own: the user's stays as it is
            return apart.submit(made, dtype, words).result()

    return Recorded(text=type(own).__name__, digest=_digest(own, sizes), function=function)


@contextmanager
def _seeded(words: list[int]) -> Iterator[None]:
    """Random states of MXNet in this thread, of NumPy and of Python that follow from the words; the latter as they were."""
    with SEEDING:
        theirs, mine = np.random.get_state(), random.getstate()
        try:
            mx.random.seed(words[0] & 0x7FFFFFFF)
            np.random.seed(words[1])
            random.seed(words[2])
            yield
        finally:
            np.random.set_state(theirs)
            random.setstate(mine)


def _rounded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    from seedbed import threefry

    held = values.astype(np.float32)
    return threefry.rounded(held, dtype) if "float" in dtype else values.astype(storage_dtype(dtype))


def _digest(own: Any, sizes: tuple[int, ...]) -> str:
    said = repr((type(own).__module__, type(own).__qualname__, sorted(own._kwargs.items()), sizes))
    said = re.sub(r" at 0x[0-9a-f]+", "", said)
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _does_not_take(own: Any, path: str, shape: Shape, said: str) -> RecipeError:
    shown = ParamSpec(path=path, shape=shape).shown_shape
    return RecipeError(
        f"{path}: {type(own).__name__} does not take a parameter of shape {shown}.",
        facts=[f"said  {said.splitlines()[0] if said else 'nothing'}"],
        remedy="Let the rule take only what it suits, such as\n    Rule(Where(role='weight'), ...)\nand give the others one.",
        path=path,
    )


def _zero(own: Any, path: str, shape: Shape) -> Initializer:
    return Zeros()


def _one(own: Any, path: str, shape: Shape) -> Initializer:
    return Ones()


def _plain_uniform(own: Any, path: str, shape: Shape) -> Initializer:
    return _uniform(own.scale)


def _plain_normal(own: Any, path: str, shape: Shape) -> Initializer:
    return _normal(own.sigma)


ROWS: dict[type, Start] = {
    mxinit.Zero: _zero,
    mxinit.One: _one,
    mxinit.Constant: _constant,
    mxinit.Uniform: _plain_uniform,
    mxinit.Normal: _plain_normal,
    mxinit.Xavier: _xavier,
    mxinit.MSRAPrelu: _xavier,
    mxinit.LSTMBias: _lstm_bias,
    mxinit.Orthogonal: _orthogonal,
    mxinit.Bilinear: _bilinear,
}
"""By class, and not by what a class extends: one of the user's that overrides what its base does is run as it is."""
