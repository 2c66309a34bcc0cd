"""Initializers whose spread follows from the fans."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from seedbed.errors import InitializerError, nearest
from seedbed.initializers.elementwise import Normal, TruncatedNormal, Uniform, Zeros
from seedbed.initializers.initializer import Fan, HasFan, Initializer, choice, number

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut at two."""

CONVOLUTIONS = [f"conv{transposed}{axes}d" for transposed in ("", "_transpose") for axes in (1, 2, 3)]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class VarianceScaling(Initializer):
    r"""Random values with standard deviation `sqrt(scale / fan)`.

    That is the spread of the values produced, for all three distributions: the truncated normal is
    widened first, so that cutting it at two standard deviations does not shrink it.

    Args:
        scale: Variance times fan, above 0; no unit. 1 is LeCun's and Glorot's, 2 is He's.
        fan: How many inputs feed one output (`"in"`), how many outputs one input feeds (`"out"`),
            or the mean of the two (`"avg"`).
        distribution: `"normal"`, `"truncated_normal"` or `"uniform"`.

    Shapes:
        Any whose spec has at least one `in` and one `out` axis; `window` axes multiply both fans,
        `stack` axes change neither.

    Raises:
        InitializerError: An argument is out of range.
        FanError: By `plan`, for a parameter without an `in` or an `out` axis.

    Example:
        >>> from seedbed import ParamSpec
        >>> he = VarianceScaling(scale=2.0, fan="in")
        >>> he.resolve(ParamSpec(path="fc.weight", shape=(2048, 512), axes=("out", "in")))
        Normal(std=0.0625)

    References:
        K. He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852, section 2.2.
        X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural
        networks", AISTATS 2010, section 4.2.
    """

    elementwise = True
    scale: float
    fan: Fan = "in"
    distribution: Literal["normal", "truncated_normal", "uniform"] = "normal"

    def __post_init__(self) -> None:
        number(self, "scale", above=0)
        choice(self, "fan", ("in", "out", "avg"))
        choice(self, "distribution", ("normal", "truncated_normal", "uniform"))

    def resolve(self, spec: HasFan) -> Initializer | None:
        fan = spec.fan(self.fan)
        if fan is None:
            return None
        if fan == 0:
            return Zeros()
        std = math.sqrt(self.scale / fan)
        if self.distribution == "normal":
            return Normal(std=std)
        if self.distribution == "truncated_normal":
            return TruncatedNormal(std=std / TRUNCATED_STD)
        bound = math.sqrt(3.0 * self.scale / fan)
        return Uniform(low=-bound, high=bound)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class _Row(Initializer):
    """A famous name for a row of `VarianceScaling`: scale = gain squared."""

    elementwise = True
    distribution: ClassVar[Literal["normal", "uniform"]]

    def __post_init__(self) -> None:
        number(self, "gain", above=0)
        if hasattr(self, "fan"):
            choice(self, "fan", ("in", "out", "avg"))

    def scaling(self) -> VarianceScaling:
        """The row of the table."""
        gain: float = getattr(self, "gain")  # noqa: B009 -- each row below declares its own default
        return VarianceScaling(scale=gain * gain, fan=getattr(self, "fan", "avg"), distribution=self.distribution)

    def resolve(self, spec: HasFan) -> Initializer | None:
        return self.scaling().resolve(spec)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class XavierUniform(_Row):
    """Uniform, bound `gain * sqrt(6 / (fan_in + fan_out))`; also called Glorot.

    Args:
        gain: Multiplies the bound; above 0.

    Example:
        >>> from seedbed import ParamSpec
        >>> XavierUniform().resolve(ParamSpec(path="w", shape=(4, 2), axes=("out", "in")))
        Uniform(low=-1.0, high=1.0)

    References:
        X. Glorot and Y. Bengio, 2010, "Understanding the difficulty of training deep feedforward
        neural networks", AISTATS, section 4.2 (the normalized initialization).
    """

    distribution = "uniform"
    gain: float = 1.0


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class XavierNormal(_Row):
    """Normal, not cut, `std = gain * sqrt(2 / (fan_in + fan_out))`; also called Glorot.

    JAX and Keras cut theirs: `VarianceScaling(scale=1.0, fan="avg", distribution="truncated_normal")`.

    Args:
        gain: Multiplies the standard deviation; above 0.

    References:
        X. Glorot and Y. Bengio, 2010, "Understanding the difficulty of training deep feedforward
        neural networks", AISTATS, section 4.2.
    """

    distribution = "normal"
    gain: float = 1.0


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class HeUniform(_Row):
    """Uniform, bound `gain * sqrt(3 / fan)`; also called Kaiming.

    Args:
        gain: sqrt(2) for ReLU; see `gain()` for others.
        fan: `"in"`, `"out"` or `"avg"`.

    References:
        K. He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852, section 2.2.
    """

    distribution = "uniform"
    gain: float = math.sqrt(2.0)
    fan: Fan = "in"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class HeNormal(_Row):
    """Normal, not cut, `std = gain / sqrt(fan)`; also called Kaiming.

    JAX and Keras cut theirs: `VarianceScaling(scale=2.0, distribution="truncated_normal")`.

    Args:
        gain: sqrt(2) for ReLU; see `gain()` for others.
        fan: `"in"`, `"out"` or `"avg"`.

    References:
        K. He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852, section 2.2.
    """

    distribution = "normal"
    gain: float = math.sqrt(2.0)
    fan: Fan = "in"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class LecunUniform(_Row):
    """Uniform, bound `gain * sqrt(3 / fan_in)`.

    References:
        Y. LeCun et al., "Efficient BackProp", 1998, section 4.6.
    """

    distribution = "uniform"
    gain: float = 1.0
    fan: Fan = "in"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class LecunNormal(_Row):
    """Normal, not cut, `std = gain / sqrt(fan_in)`.

    References:
        Y. LeCun et al., "Efficient BackProp", 1998, section 4.6.
    """

    distribution = "normal"
    gain: float = 1.0
    fan: Fan = "in"


def gain(nonlinearity: str, slope: float = 0.01) -> float:
    """The gain usually recommended after a nonlinearity, as in `torch.nn.init.calculate_gain`.

    Args:
        nonlinearity: Its name, as torch has it.
        slope: Of `leaky_relu` below 0.

    Raises:
        InitializerError: The name is unknown.

    Example:
        >>> gain("relu") ** 2
        2.0000000000000004
    """
    table = {
        **dict.fromkeys(("linear", "identity", "sigmoid", *CONVOLUTIONS), 1.0),
        "tanh": 5.0 / 3.0,
        "relu": math.sqrt(2.0),
        "leaky_relu": math.sqrt(2.0 / (1.0 + slope * slope)),
        "selu": 0.75,
    }
    if nonlinearity not in table:
        raise InitializerError(f"Unknown nonlinearity {nonlinearity!r}.", remedy=nearest(nonlinearity, table))
    return table[nonlinearity]
