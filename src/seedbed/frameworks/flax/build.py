"""Building nnx modules without values: what their constructors would compute is read, not run."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from numpy.typing import NDArray

from seedbed.frameworks.flax import graph, layers
from seedbed.frameworks.flax.describe import Leaf, read_start
from seedbed.frameworks.flax.laws import Program
from seedbed.initializers import Constant, Initializer, Normal, Ones, Orthogonal, TruncatedNormal, Uniform, Zeros

SAMPLE = 1 << 18
"""Elements of an array that are compared with a law."""


class Built(NamedTuple):
    """A module without values.

    Attributes:
        module: Its variables hold shapes; the state of its random numbers is real.
        leaves: What its constructor starts, and how.
    """

    module: Any
    leaves: list[Leaf]


def build(make: Callable[[Any], Any], key: Any = None) -> Built:
    """Trace a constructor.

    Args:
        make: Called with a key, makes the module.
        key: The real key that the state of random numbers inside the module comes from.
    """
    kept: dict[str, Any] = {}

    def traced(key: Any) -> list[Any]:
        module = make(key)
        kept["leaves"] = [
            Leaf(
                held.path,
                held.path.rpartition(".")[0],
                layers.Place(held.layer, held.name, held.variable.get_value().shape, held.owner, held.part),
                str(held.variable.get_value().dtype),
                "parameter" if isinstance(held.variable, nnx.Param) else "buffer",
            )
            for held, _ in graph.firsts(module).values()
        ]
        values = [held.variable.get_value() for held, _ in graph.firsts(module).values()]
        kept["graph"], state = nnx.split(module)
        flat, kept["tree"] = jax.tree_util.tree_flatten(state, is_leaf=lambda x: isinstance(x, nnx.Variable))
        kept["random"] = [isinstance(v, nnx.RngState) for v in flat]
        kept["kinds"] = flat
        return values + [v.get_value() for v in flat]

    like = jax.eval_shape(lambda: jax.random.key(0)) if key is None else jax.ShapeDtypeStruct((), key.dtype)
    closed = jax.make_jaxpr(traced)(like)
    program, leaves = Program(closed, (0,)), kept["leaves"]
    for number, leaf in enumerate(leaves):
        leaf.result = number
        read_start(leaf, program)
    module = None if any(None in leaf.shape for leaf in leaves) else _merged(kept, program, len(leaves), key)
    return Built(module, leaves)


def _merged(kept: Mapping[str, Any], program: Program, first: int, key: Any) -> Any:
    """The module itself, outside of the trace: with shapes for values, and real random states."""
    real = jax.random.key(0) if key is None else key
    made = []
    outs = program.closed.jaxpr.outvars[first:]
    for variable, random, out in zip(kept["kinds"], kept["random"], outs, strict=True):
        if random:
            part, used = program.part(out)
            (value,) = jax.jit(jax.extend.core.jaxpr_as_fun(part))(*[real] * len(used))
        else:
            value = jax.ShapeDtypeStruct(out.aval.shape, out.aval.dtype)
        made.append(variable.replace(value))
    return nnx.merge(kept["graph"], jax.tree_util.tree_unflatten(kept["tree"], made))


def fresh(rngs: Any, key: Any) -> Any:
    """Random numbers of the same streams, from another key."""
    names = [name for name, value in vars(rngs).items() if isinstance(value, nnx.RngStream)]
    return nnx.Rngs(**{name: jax.random.fold_in(key, n) for n, name in enumerate(names)}) if names else nnx.Rngs(key)


class Told(NamedTuple):
    """What a constructor tells of one of its variables."""

    shape: tuple[Any, ...]
    dtype: str
    start: Initializer | None
    origin: str
    stacked: tuple[int, ...] = ()


def again(layer: Any) -> Mapping[str, Told] | None:
    """What the constructor of one of flax's own layers starts, told from the layer's attributes, by path.

    An nnx layer forgets which initializers it was given. So its constructor is traced again, with the defaults.
    `None` where its arguments cannot be told, or where something else comes out.
    """
    cls: Any = type(layer)
    if not cls.__module__.startswith("flax.nnx.") or isinstance(layer, (nnx.List, nnx.Dict, nnx.Sequential)):
        return None
    arguments: list[tuple[str, Any]] = []
    beside: set[str] = set()
    for name, parameter in _parameters(cls).items():
        value = _argument(layer, name, parameter.default)
        if isinstance(value, nnx.Pytree) and parameter.default is not parameter.empty:
            beside.add(name)  # a layer of its own, which starts as its own constructor says
        if value is parameter.empty or isinstance(value, (nnx.Pytree, nnx.Variable, jax.Array)):
            value = parameter.default
        if value is parameter.empty:
            return None
        arguments.append((name, value))
    try:
        told = _told(cls, tuple(arguments))
    except TypeError:  # arguments that cannot be kept in a cache
        told = _told.__wrapped__(cls, tuple(arguments))
    there = {path: held.variable.get_value() for path, (held, _) in graph.firsts(layer).items()}
    there = {path: value for path, value in there.items() if path.partition(".")[0] not in beside}
    if told is None or {p: t.dtype for p, t in told.items()} != {p: str(v.dtype) for p, v in there.items()}:
        return None
    found = {path: _beside(one, there[path]) for path, one in told.items()}
    same = all(len(t.shape) + len(t.stacked) == len(there[p].shape) for p, t in found.items())
    return found if same and all(t.stacked or t.shape == tuple(there[p].shape) for p, t in found.items()) else None


def _parameters(cls: Any) -> dict[str, inspect.Parameter]:
    """What a constructor takes by name; with what the class above takes, where it passes the rest on."""
    found: dict[str, inspect.Parameter] = {}
    for kind in cls.__mro__:
        own = inspect.signature(kind.__init__).parameters.values() if "__init__" in vars(kind) else ()
        named = {p.name: p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        found |= {name: p for name, p in named.items() if name not in ("self", "rngs", *found)}
        if own and not any(p.kind is p.VAR_KEYWORD for p in own):
            break
    return found


def _argument(layer: Any, name: str, default: Any) -> Any:
    """What an argument of a constructor was, as the layer's attributes tell it."""
    if isinstance(layer, nnx.GroupNorm) and name == "num_features":
        return layer.num_groups * layer.group_size
    if isinstance(layer, nnx.GroupNorm) and name == "group_size":
        return None  # only one of both is taken
    if isinstance(layer, nnx.LoRALinear) and name.startswith("lora_"):
        return _argument(layer.lora, name if name == "lora_rank" else name.removeprefix("lora_"), default)
    if isinstance(layer, nnx.LoRA) and name == "lora_rank":
        return layer.lora_a.get_value().shape[-1]
    return vars(layer).get(name, default)


def _beside(one: Told, value: Any) -> Told:
    """What is told of an array of several layers, as `vmap` makes them, from what is told of one."""
    stack = layers.stacked(one.shape, value.shape) if len(value.shape) > len(one.shape) else ()
    if not stack:
        return one
    alike = isinstance(one.start, (Zeros, Ones, Constant))
    drawn = isinstance(one.start, (Normal, TruncatedNormal, Uniform))
    if drawn and isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer) and value.size:
        drawn = not all(
            bool((value == value.take(np.array([0]), axis)).all()) for axis in stack if value.shape[axis] > 1
        )
    return one._replace(start=one.start if alike or drawn else None, stacked=stack)


@functools.lru_cache(maxsize=1024)
def _told(cls: Any, arguments: tuple[tuple[str, Any], ...]) -> Mapping[str, Told] | None:
    takes_rngs = "rngs" in inspect.signature(cls.__init__).parameters
    try:
        built = build(lambda key: cls(**dict(arguments), **({"rngs": nnx.Rngs(key)} if takes_rngs else {})))
    except Exception:  # its attributes are not its arguments: nothing can be said of it
        return None
    return {leaf.path: Told(tuple(leaf.place.shape), leaf.dtype, leaf.start, leaf.origin) for leaf in built.leaves}


def starts(model: Any) -> dict[int, tuple[Initializer | None, str, tuple[int, ...]]]:
    """How the variables of flax's own layers start, by the variable's identity.

    The layer's defaults are taken, unless the values that are there say that it was given others.
    """
    found: dict[int, tuple[Initializer | None, str, tuple[int, ...]]] = {}
    done: list[str] = []
    for path, layer in graph.modules(model):
        if any(path.startswith(f"{above}." if above else "") for above in done):
            continue
        told = again(layer)
        if told is None:
            continue
        if set(told) == set(graph.firsts(layer)):
            done.append(path)
        for name, (held, _) in graph.firsts(layer).items():
            if name not in told:
                continue
            start, origin, stack = told[name].start, told[name].origin, told[name].stacked
            value = held.variable.get_value()
            real = isinstance(value, (jax.Array, np.ndarray)) and not isinstance(value, jax.core.Tracer)
            if real and start is not None and contradicts(start, value):
                found[id(held.variable)] = (None, f"not of {origin}, its default", stack)
            else:
                found[id(held.variable)] = (start, f"{origin}, its default", stack)
    return found


def contradicts(start: Initializer, array: Any) -> bool:
    """Whether an array cannot be what an initializer made: out of bounds, or its mean or spread 8 deviations off."""
    if not array.size or not jax.numpy.issubdtype(array.dtype, np.number):
        return False
    values = _sample(array)
    slack = 2.0**-7 if array.dtype.itemsize < 4 else 1e-5
    if isinstance(start, (Zeros, Ones, Constant)):
        value = 0.0 if isinstance(start, Zeros) else 1.0 if isinstance(start, Ones) else float(start.value)
        return bool((abs(values - value) > slack * abs(value)).any())
    if isinstance(start, Orthogonal) and array.ndim == 2 and array.size <= SAMPLE:
        matrix = values.reshape(array.shape)
        product = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
        return bool(abs(product - start.gain**2 * np.eye(len(product))).max() > 64 * slack)
    if isinstance(start, Uniform):
        mean, std, kurtosis = (start.low + start.high) / 2, (start.high - start.low) / math.sqrt(12), 1.8
        furthest = (start.high - start.low) / 2
    elif isinstance(start, (Normal, TruncatedNormal)):
        mean, std, kurtosis, furthest = _moments(start)
    else:
        return False
    if not std:
        return bool((abs(values - mean) > slack * abs(mean)).any())
    z, count = (values - mean) / std, len(values)
    spread = abs((z**2).mean() - 1) > 8 * math.sqrt((kurtosis - 1) / count) + slack
    return bool(
        abs(values - mean).max() > furthest * (1 + slack) or spread or abs(z.mean()) > 8 / math.sqrt(count) + slack
    )


def _sample(array: Any) -> NDArray[np.float64]:
    """The first values; the same ones in every process, each of which is asked for what others lack."""
    first = array.reshape(-1)[:SAMPLE]
    if not getattr(first, "is_fully_addressable", True):
        first = multihost_utils.process_allgather(first, tiled=True)
    return np.asarray(first).astype(np.float64)


def _moments(start: Normal | TruncatedNormal) -> tuple[float, float, float, float]:
    """Mean, standard deviation, kurtosis and the furthest from the mean."""
    if isinstance(start, Normal):
        return start.mean, start.std, 3.0, math.inf
    c = start.cut
    inside = math.erf(c / math.sqrt(2))
    tail = 2 * c * math.exp(-c * c / 2) / math.sqrt(2 * math.pi) / inside
    variance, fourth = 1 - tail, 3 - (c * c + 3) * tail
    return start.mean, start.std * math.sqrt(variance), fourth / variance**2, c * start.std
