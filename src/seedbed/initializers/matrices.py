"""Initializers of matrices and convolutions as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from seedbed.errors import InitializerError
from seedbed.initializers.initializer import Initializer, number


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Orthogonal(Initializer):
    """A random orthogonal matrix times `gain`, uniform over all of them.

    The parameter is read as a matrix (first axis, all others): rows are orthonormal when there are no
    more of them than columns, columns otherwise. A product of random reflections, which is half the work
    of decomposing a random matrix and as even. Computed whole, in float64, then rounded: another number
    of threads, or another machine, changes about one element in 10^7, by its last bit.

    Args:
        gain: Multiplies the matrix; any finite number.

    Shapes:
        Two axes or more; each slice of `stack` axes is a matrix of its own.

    References:
        A. Saxe, J. McClelland and S. Ganguli, "Exact solutions to the nonlinear dynamics of learning
        in deep linear neural networks", 2013, arXiv:1312.6120.
        G. W. Stewart, "The efficient generation of random orthogonal matrices with an application to
        condition estimators", 1980, SIAM Journal on Numerical Analysis 17(3), section 3.
        F. Mezzadri, "How to generate random matrices from the classical compact groups", 2006,
        arXiv:math-ph/0609050, section 5 (why signs matter).
    """

    whole = True
    gain: float = 1.0

    def __post_init__(self) -> None:
        number(self, "gain")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Identity(Initializer):
    """`gain` on the diagonal of a matrix, 0 elsewhere.

    Args:
        gain: Any finite number.

    Shapes:
        Two axes, not necessarily square.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        number(self, "gain")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Dirac(Initializer):
    """A convolution that passes its input through, as far as there are channels.

    Element `[g * out_per_group + c, c, size // 2, ...]` is 1, all others 0.

    Args:
        groups: How many groups of output channels repeat the same delta; 1 or more, a divisor of the outputs.

    Shapes:
        Three to five axes: (out, in / groups, window...).

    References:
        S. Zagoruyko and N. Komodakis, "DiracNets", 2017, arXiv:1706.00388.
    """

    groups: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.groups, int) or isinstance(self.groups, bool) or self.groups < 1:
            raise InitializerError(f"Dirac: `groups` must be a whole number, 1 or more, got {self.groups!r}.")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Sparse(Initializer):
    """Normal values, of which a fixed part of each column is 0.

    In each column, `ceil(sparsity * rows)` places drawn at random are 0.

    Args:
        sparsity: Part of each column that is 0, from 0 to 1.
        std: Standard deviation of the others, 0 or more.

    Shapes:
        Two axes.

    References:
        J. Martens, "Deep learning via Hessian-free optimization", ICML 2010, section 5.
    """

    whole = True
    sparsity: float
    std: float = 0.01

    def __post_init__(self) -> None:
        number(self, "sparsity", least=0)
        if self.sparsity > 1:
            raise InitializerError(f"Sparse: `sparsity` must be from 0 to 1, got {self.sparsity!r}.")
        number(self, "std", least=0)
