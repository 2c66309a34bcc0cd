"""How a parameter starts, read in the program that would compute it.

JAX traces an initializer, a layer's constructor or a whole `init` into a program without running it. Here the
part that leads to one parameter is read backwards: constants, normal, uniform and truncated normal values and
random orthogonal matrices, times and plus constants. What is none of these is run as it is, on seedbed's words.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple, Union

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from seedbed.fill import storage_dtype
from seedbed.initializers import Constant, Initializer, Normal, Ones, Recorded, TruncatedNormal, Uniform, Zeros
from seedbed.initializers.scaled import TRUNCATED_STD


class Matrix(NamedTuple):
    """A random orthogonal matrix: its scale, and how many columns it has."""

    gain: float
    columns: int


Found = Union[float, Initializer, Matrix, None]
"""What a variable of a program holds: one constant, random values, or what is not known."""

CALLS = ("jit", "pjit", "checkpoint", "remat", "remat2")
"""What calls another program as it is."""
NOTHING_DONE = frozenset({"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy", "convert_element_type"})
ARITHMETIC: dict[str, Callable[..., float]] = {
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "max": max,
    "min": min,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "sqrt": math.sqrt,
    "rsqrt": lambda a: 1 / math.sqrt(a),
    "exp": math.exp,
    "log": math.log,
}


@dataclass(eq=False)
class Program:
    """A traced program.

    Attributes:
        closed: As JAX traced it.
        keys: The places of its arguments that are random keys; no others may decide a start.
    """

    closed: Any
    keys: tuple[int, ...]
    makers: dict[Any, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.makers = {out: eqn for eqn in self.closed.jaxpr.eqns for out in eqn.outvars}

    def law(self, out: Any) -> Initializer | Matrix | None:
        """How a result starts; `None` where that is not one of ours."""
        try:
            found = _Reader(self.closed.jaxpr, self.closed.consts, self.makers, {}).read(out)
        except (ArithmeticError, ValueError):  # sqrt(-1), 1 / 0: not a start that anyone means
            return None
        if isinstance(found, float):
            return _constant(found)
        return found

    def part(self, out: Any) -> tuple[Any, tuple[int, ...]]:
        """The program that computes one result and nothing else, and which arguments it needs."""
        needed, eqns = {out}, []
        for eqn in reversed(self.closed.jaxpr.eqns):
            if any(o in needed for o in eqn.outvars):
                eqns.append(eqn)
                needed.update(v for v in eqn.invars if isinstance(v, core.Var))
        jaxpr = self.closed.jaxpr
        used = tuple(n for n, v in enumerate(jaxpr.invars) if v in needed)
        part = jaxpr.replace(
            invars=[jaxpr.invars[n] for n in used],
            outvars=[out],
            eqns=eqns[::-1],
            debug_info=jaxpr.debug_info._replace(arg_names=None, result_paths=None),
        )
        # Of a loop or a checkpoint whose other results need the model's input, only this one's part stays.
        part, needs = partial_eval.dce_jaxpr(part, [True], instantiate=False)
        used = tuple(n for n, need in zip(used, needs, strict=True) if need)
        return core.ClosedJaxpr(part, self.closed.consts), used

    def recorded(self, out: Any) -> Initializer | None:
        """A result that is computed as it is; `None` where it depends on more than random keys."""
        part, used = self.part(out)
        if any(n not in self.keys for n in used):
            return None
        names = [eqn.params.get("name", eqn.primitive.name) for eqn in part.jaxpr.eqns]
        shown = [n for n in dict.fromkeys(names) if n not in NOTHING_DONE and not n.startswith("random_")]
        digest = hashlib.blake2b(str(part).encode(), digest_size=8).hexdigest()

        def run(dtype: str, draws: Callable[[str, int, tuple[int, ...]], Any]) -> Any:
            words = [draws("", n, (4,)).bits() for n in range(len(used))]
            return computed(part, words, dtype)

        return Recorded(text=", ".join(shown[:6]) or "a constant", digest=digest, function=run)

    def is_open(self, out: Any) -> bool:
        """Whether a result follows from sizes that are not known."""
        part, _ = self.part(out)
        return any(eqn.primitive.name == "dim_as_value" for eqn in _all_equations(part.jaxpr))


def computed(part: Any, words: Sequence[Any], dtype: str) -> Any:
    """The one result of a program whose arguments are keys, made of seedbed's words, as NumPy memory."""
    with jax.ensure_compile_time_eval(), jax.default_device(jax.devices("cpu")[0]):
        keys = [key_of(w, v.aval) for w, v in zip(words, part.jaxpr.invars, strict=True)]
        (made,) = jax.jit(core.jaxpr_as_fun(part))(*keys)
    values = np.asarray(made)
    return values.view(storage_dtype(dtype)) if values.dtype != storage_dtype(dtype) else values


def _is_key(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, jax.dtypes.prng_key))


def key_of(words: Any, aval: Any) -> Any:
    """A JAX key of seedbed's words, of the kind that a program takes (of the new style or the old)."""
    words = np.asarray(words, np.uint32)
    if not _is_key(aval):
        return words[: aval.shape[-1]]
    for name in ("threefry2x32", "rbg", "unsafe_rbg"):
        like = jax.eval_shape(lambda name=name: jax.random.key(0, impl=name))
        if like.dtype == aval.dtype:
            return jax.random.wrap_key_data(words[: 2 if name == "threefry2x32" else 4], impl=name)
    return jax.random.wrap_key_data(words[:2])


def _all_equations(jaxpr: Any) -> Any:
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in core.jaxprs_in_params(eqn.params):
            yield from _all_equations(getattr(inner, "jaxpr", inner))


@dataclass(eq=False)
class _Reader:
    """Reads one program, or one that it calls."""

    jaxpr: Any
    consts: Sequence[Any]
    makers: dict[Any, Any]
    given: dict[Any, Callable[[], Found]]

    def read(self, var: Any) -> Found:
        if isinstance(var, core.Literal):
            return _number(var.val, var.aval)
        if var in self.given:
            return self.given[var]()
        if var in self.jaxpr.constvars:
            return _number(self.consts[self.jaxpr.constvars.index(var)], var.aval)
        eqn = self.makers.get(var)
        if eqn is None:
            return None
        if eqn.primitive.name in CALLS:
            return self._called(eqn, eqn.outvars.index(var))
        if eqn.primitive.name == "scan":
            return self._looped(eqn, eqn.outvars.index(var))
        return None if len(eqn.outvars) != 1 else self._made(eqn)

    def _made(self, eqn: Any) -> Found:
        name = eqn.primitive.name
        if name in NOTHING_DONE or name in ("transpose", "rev"):
            return self._moved(eqn)
        if name == "integer_pow":
            base = self.read(eqn.invars[0])
            return base ** eqn.params["y"] if isinstance(base, float) else None
        if name not in ARITHMETIC:
            return None
        values = [self.read(v) for v in eqn.invars]
        if all(isinstance(v, float) for v in values):
            return float(ARITHMETIC[name](*values))
        return _combined(name, values)

    def _moved(self, eqn: Any) -> Found:
        """Elements brought to other places: the same law, unless some are there twice or the dtype rounds."""
        source, out = eqn.invars[0].aval, eqn.outvars[0].aval
        found = self.read(eqn.invars[0])
        if isinstance(found, float) or found is None:
            return found
        if math.prod(source.shape) != math.prod(out.shape) or not _floating(out) or not _floating(source):
            return None
        if isinstance(found, Matrix) and (eqn.primitive.name not in ("reshape", "copy", "convert_element_type")):
            return None
        return found

    def _called(self, eqn: Any, which: int) -> Found:
        """A result of a program that this one calls."""
        inner, name = eqn.params["jaxpr"], eqn.params.get("name", "")
        drawn = DRAWS.get(name)
        if drawn and len(eqn.outvars) == 1 and _is_reference(name, eqn, inner):
            out = eqn.outvars[0].aval
            return drawn([self.read(v) for v in eqn.invars[1:]], out.shape) if _floating(out) else None
        jaxpr = getattr(inner, "jaxpr", inner)
        outside = dict(zip(jaxpr.invars, eqn.invars, strict=True))
        return self._reader(inner, outside).read(jaxpr.outvars[which])

    def _looped(self, eqn: Any, which: int) -> Found:
        """What a loop puts side by side: a constant is the same each time, and random values are run as they are."""
        inner, number = eqn.params["jaxpr"], eqn.params["num_consts"]
        if which < eqn.params["num_carry"]:
            return None
        outside = dict(zip(inner.jaxpr.invars[:number], eqn.invars, strict=False))
        found = self._reader(inner, outside).read(inner.jaxpr.outvars[which])
        return found if isinstance(found, float) else None

    def _reader(self, inner: Any, outside: dict[Any, Any]) -> _Reader:
        jaxpr = getattr(inner, "jaxpr", inner)
        given: dict[Any, Callable[[], Found]] = {v: functools.partial(self.read, outer) for v, outer in outside.items()}
        return _Reader(jaxpr, getattr(inner, "consts", ()), {out: e for e in jaxpr.eqns for out in e.outvars}, given)


def _floating(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, np.floating))


def _number(value: Any, aval: Any) -> Found:
    """The one number that an array holds, as whoever wrote the program meant it."""
    if not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)) or _is_key(aval):
        return None
    array = np.asarray(value)
    if not array.size or not (_floating(aval) or array.dtype.kind in "biu") or not (array == array.flat[0]).all():
        return None
    number = float(array.flat[0])
    return meant(number, aval.dtype) if str(aval.dtype) in DIGITS else number


DIGITS = {"float32": 6, "float16": 3, "bfloat16": 2}
"""Decimal digits that a dtype keeps of any number."""


def meant(x: float, dtype: Any) -> float:
    """The number that was rounded to a dtype: one of few digits, or a fraction of small numbers.

    Example:
        >>> import numpy as np
        >>> meant(float(np.float32(0.02)), np.dtype("float32"))
        0.02
        >>> meant(float(np.float32(1 / 6)), np.dtype("float32")) == 1 / 6
        True
    """

    def rounded(value: float) -> float:
        return float(np.asarray(value).astype(dtype))

    if not math.isfinite(x) or x == 0:
        return x
    short = float(f"{x:.{DIGITS[str(dtype)]}g}")
    for known in (TRUNCATED_STD, short):
        if rounded(known) == x:
            return known
    if str(dtype) == "float32":
        half = Fraction(float(np.spacing(np.float32(abs(x))))) / 2
        found = _simplest(Fraction(abs(x)) - half, Fraction(abs(x)) + half)
        near = math.copysign(float(found), x)
        if found.numerator * found.denominator < 2**22 and rounded(near) == x:
            return near
    return x


def _simplest(low: Fraction, high: Fraction) -> Fraction:
    whole = math.floor(low)
    if whole == low:
        return low
    if whole < math.floor(high):
        return Fraction(whole + 1)
    return whole + 1 / _simplest(1 / (high - whole), 1 / (low - whole))


def _constant(value: float) -> Initializer:
    return Zeros() if value == 0 else Ones() if value == 1 else Constant(value=value)


def _normal(arguments: list[Found], shape: tuple[int, ...]) -> Found:
    return Normal(std=1.0)


def _uniform(arguments: list[Found], shape: tuple[int, ...]) -> Found:
    low, high = arguments
    return Uniform(low=low, high=high) if isinstance(low, float) and isinstance(high, float) and low <= high else None


def _truncated(arguments: list[Found], shape: tuple[int, ...]) -> Found:
    low, high = arguments
    if not isinstance(low, float) or not isinstance(high, float) or high != -low or high < 0.001:
        return None
    return TruncatedNormal(std=1.0, cut=high)


def _orthogonal(arguments: list[Found], shape: tuple[int, ...]) -> Found:
    return Matrix(1.0, shape[-1]) if len(shape) == 2 else None


DRAWS: dict[str, Callable[[list[Found], tuple[int, ...]], Found]] = {
    "_normal": _normal,
    "_uniform": _uniform,
    "_truncated_normal": _truncated,
    "_orthogonal": _orthogonal,
}


def _is_reference(name: str, eqn: Any, inner: Any) -> bool:
    """Whether a function of this name is jax.random's own: it must be the same program."""
    out = eqn.outvars[0].aval
    if not all(isinstance(n, int) for n in out.shape):  # sizes are symbols: programs differ in their names
        return True
    arguments = tuple((v.aval.shape, v.aval.dtype, getattr(v.aval, "weak_type", False)) for v in eqn.invars)
    return str(inner) == _reference(name, out.shape, out.dtype, arguments)


@functools.lru_cache(maxsize=4096)
def _reference(name: str, shape: tuple[int, ...], dtype: Any, arguments: tuple[Any, ...]) -> str:
    random = jax.random
    functions: dict[str, Callable[..., Any]] = {
        "_normal": lambda key: random.normal(key, shape, dtype),
        "_uniform": lambda key, low, high: random.uniform(key, shape, dtype, low, high),
        "_truncated_normal": lambda key, low, high: random.truncated_normal(key, low, high, shape, dtype),
        "_orthogonal": lambda key: random.orthogonal(key, shape[0], (), dtype, shape[1]),
    }
    given = [jax.ShapeDtypeStruct(s, d, weak_type=weak) for s, d, weak in arguments]
    try:
        traced = jax.make_jaxpr(functions[name])(*given)
    except (TypeError, ValueError, IndexError):  # not the arguments of jax.random's function
        return ""
    return str(traced.eqns[-1].params.get("jaxpr"))


def _combined(name: str, values: list[Found]) -> Found:
    """Random values with a constant: times, divided by, plus, minus, or negative."""
    if name == "neg":
        return _scaled(values[0], -1.0)
    if len(values) != 2 or name not in ("mul", "div", "add", "sub"):
        return None
    a, b = values
    if name == "mul":
        return _scaled(b, a) if isinstance(a, float) else _scaled(a, b)
    if name == "div":
        return _scaled(a, 1 / b) if isinstance(b, float) else None
    if name == "sub":
        if isinstance(a, float):
            return _moved_by(_scaled(b, -1.0), a)
        return _moved_by(a, -b) if isinstance(b, float) else None
    return _moved_by(b, a) if isinstance(a, float) else _moved_by(a, b)


def _scaled(law: Found, by: Found) -> Found:
    if not isinstance(by, float) or law is None or isinstance(law, float):
        return None
    if isinstance(law, Matrix):
        return Matrix(law.gain * by, law.columns)
    if by == 0:
        return 0.0
    if isinstance(law, (Normal, TruncatedNormal)):
        return replace(law, mean=law.mean * by, std=law.std * abs(by))
    if isinstance(law, Uniform) and by > 0:  # times less than 0, the bound never reached would be the lower
        return Uniform(low=law.low * by, high=law.high * by)
    return None


def _moved_by(law: Found, by: Found) -> Found:
    if not isinstance(by, float):
        return None
    if isinstance(law, (Normal, TruncatedNormal)):
        return replace(law, mean=law.mean + by)
    if isinstance(law, Uniform):
        return Uniform(low=law.low + by, high=law.high + by)
    return None
