"""Recipes that scale weights by their fans: He, Xavier (Glorot) and LeCun.

Weights of layers and convolutions get the named initializer, recurrent matrices an orthogonal one,
biases 0; scales, embeddings and all others start as their framework starts them.
"""

from __future__ import annotations

from seedbed.initializers import HeNormal, Initializer, Keep, LecunNormal, Orthogonal, XavierUniform, Zeros
from seedbed.recipe import Recipe, Rule, Where
from seedbed.spec import Specs


def _recipe(name: str, weight: Initializer) -> Recipe:
    rules = [(Where(role="weight"), weight), (Where(role="recurrent"), Orthogonal()), (Where(role="bias"), Zeros())]
    return Recipe((*(Rule(w, i, optional=True) for w, i in rules), Rule("*", Keep(), optional=True)), name=name)


def he(specs: Specs) -> Recipe:
    """K. He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852."""
    return _recipe("he", HeNormal())


def xavier(specs: Specs) -> Recipe:
    """X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010."""
    return _recipe("xavier", XavierUniform())


def lecun(specs: Specs) -> Recipe:
    """Y. LeCun et al., "Efficient BackProp", 1998."""
    return _recipe("lecun", LecunNormal())
