"""What the property tests draw: parameters of every kind, regions of them, and ways to cut them up."""

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import seedbed as sb
from seedbed import engine
from seedbed.initializers import (
    Chain,
    Constant,
    Custom,
    Dirac,
    HeNormal,
    HeUniform,
    Identity,
    Initializer,
    LecunNormal,
    LecunUniform,
    Mixture,
    Normal,
    Ones,
    Orthogonal,
    Overlay,
    Recorded,
    Sparse,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    XavierNormal,
    XavierUniform,
    Zeros,
)
from seedbed.region import Region
from seedbed.threefry import rounded


@pytest.fixture(scope="module", autouse=True, params=["numpy", "c"])
def each_engine(request):
    """Runs every test of a module that imports it with both engines."""
    if request.param == "c" and not engine.names():
        pytest.skip("the C engine was not built: no compiler at install")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEDBED_ENGINE", request.param)
        yield


FLOATS = ("float32", "float64", "bfloat16", "float16")
SMALL = st.floats(-100, 100, width=32, allow_subnormal=False)
SPREAD = st.floats(0.0009765625, 100, width=32)
SEEDS = st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1))
PARTS = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
FANS = st.sampled_from(["in", "out", "avg"])


def product(draw: Any, spec: Any) -> Any:
    """Two draws."""
    return draw.normal() * draw.uniform(-1, 1)


def places(draw: Any, spec: Any) -> Any:
    """No draw, only places."""
    return sum((draw.index(axis) * (axis + 1) for axis in range(len(draw.shape))), np.zeros(draw.shape, np.int64))


def chosen(draw: Any, spec: Any) -> Any:
    """Words, and values that take part in some places only."""
    return np.where(draw.bits() & 1, draw.normal(mean=3.0, std=0.5), draw.uniform())


constants = st.one_of(
    st.just(Zeros()),
    st.just(Ones()),
    st.builds(Constant, value=SMALL),
    st.builds(Constant, value=st.integers(-100, 100)),
)
drawn = st.one_of(
    st.builds(lambda ends: Uniform(low=min(ends), high=max(ends)), st.tuples(SMALL, SMALL)),
    st.builds(Normal, std=SPREAD),
    st.builds(Normal, mean=SMALL, std=SPREAD),
    st.builds(TruncatedNormal, std=SPREAD, cut=st.floats(0.1, 7.0)),
    st.builds(TruncatedNormal, mean=SMALL, std=SPREAD),
)
scaled = st.one_of(
    st.builds(
        VarianceScaling,
        scale=SPREAD,
        fan=FANS,
        distribution=st.sampled_from(["normal", "truncated_normal", "uniform"]),
    ),
    st.builds(XavierUniform, gain=SPREAD),
    st.builds(XavierNormal, gain=SPREAD),
    st.builds(HeUniform, fan=FANS),
    st.builds(HeNormal, fan=FANS),
    st.builds(LecunUniform),
    st.builds(LecunNormal),
)
elementwise = st.one_of(constants, drawn, scaled)
customs = st.sampled_from([Custom(product), Custom(places), Custom(chosen)])


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """Two to four parts; a probability may be 0."""
    weights = draw(st.lists(st.integers(0, 8), min_size=2, max_size=4).filter(any))
    return Mixture([(w / sum(weights), draw(elementwise)) for w in weights])


@st.composite
def shapes(draw: st.DrawFn, least: int = 0, most: int = 4, largest: int = 7) -> tuple[int, ...]:
    """`least` to `most` axes, matrices most often; a size is seldom 1 and seldom 0."""
    rank = draw(st.sampled_from([n for n in (2, 2, 2, 3, 3, 4, 1, 0) if least <= n <= most]))
    kinds = st.integers(0, 19)
    return tuple(draw({7: st.just(0), 11: st.just(1)}.get(draw(kinds), st.integers(2, largest))) for _ in range(rank))


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, ...]) -> Region:
    """Any box inside a shape, empty ones included."""
    ends = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    return Region(tuple(a for a, _ in ends), tuple(b for _, b in ends))


@st.composite
def cuts(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Region]:
    """Boxes that together are the whole and share nothing, in any order."""
    boxes = [Region.whole(shape)]
    for _ in range(draw(st.integers(0, 6)) if shape else 0):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(shape) - 1))
        place = draw(st.integers(box.start[axis], box.stop[axis]))
        stop = tuple(place if a == axis else n for a, n in enumerate(box.stop))
        start = tuple(place if a == axis else n for a, n in enumerate(box.start))
        boxes += [Region(box.start, stop), Region(start, box.stop)]
    return draw(st.permutations(boxes))


@st.composite
def overlays(draw: st.DrawFn, shape: tuple[int, ...], base: st.SearchStrategy[Initializer]) -> Overlay:
    """Up to three boxes, which may cover each other."""
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        box = draw(regions(shape))
        boxes.append((tuple(zip(box.start, box.stop, strict=True)), draw(st.one_of(constants, drawn, mixtures_drawn))))
    return Overlay(base=draw(base), boxes=tuple(boxes))


mixtures_drawn = st.builds(lambda a, b: Mixture([(0.25, a), (0.75, b)]), drawn, constants)


@st.composite
def initializers(draw: st.DrawFn, shape: tuple[int, ...]) -> Initializer:
    """Every initializer that suits the shape."""
    suiting = [constants, drawn, mixtures(), customs]
    if len(shape) >= 2:
        suiting += [scaled, st.builds(Orthogonal, gain=SMALL)]
    if len(shape) == 2:
        suiting += [st.builds(Identity, gain=SMALL), st.builds(Sparse, sparsity=PARTS, std=SPREAD)]
    if 3 <= len(shape) <= 5:
        divisors = [g for g in range(1, shape[0] + 1) if shape[0] % g == 0] or [1]
        suiting.append(st.builds(Dirac, groups=st.sampled_from(divisors)))
    if len(shape) < 2:
        suiting[2] = mixtures_drawn
    if shape:
        suiting.append(overlays(shape, st.one_of(*suiting)))
    return draw(draw(st.sampled_from(suiting)))  # one_of would join them, and draw the rarer kinds seldom


@st.composite
def entries(draw: st.DrawFn, shape: tuple[int, ...] | None = None, dtypes: tuple[str, ...] = FLOATS) -> sb.Entry:
    """One line of a plan: any shape, dtype, initializer, seed and path."""
    shape = draw(shapes()) if shape is None else shape
    path = draw(st.sampled_from(["w", "fc.weight", "h.0.attn.weight", "h.1.attn.weight"]))
    return planned(draw(initializers(shape)), shape, draw(st.sampled_from(dtypes)), seed=draw(SEEDS), path=path)


def planned(
    start: Initializer, shape: tuple[int, ...], dtype: str = "float32", seed: int = 0, path: str = "fc.weight"
) -> sb.Entry:
    """The one entry of a plan that starts one parameter so."""
    axes = ("out", "in", "window", "window", "window")[: len(shape)] if len(shape) >= 2 else ()
    specs = sb.Specs((sb.ParamSpec(path=path, shape=shape, dtype=dtype, axes=axes),))
    return sb.plan(specs, recipe=start, seed=seed)[path]


@st.composite
def memory(draw: st.DrawFn, shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """An array of a shape inside a larger one: axes in any order, gaps, steps backwards. Both are returned."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in shape]
    margins = [draw(st.integers(0, 2)) for _ in shape]
    sizes = [shape[a] * abs(steps[a]) + margins[a] for a in order]
    owner = np.zeros(sizes, dtype)
    view = owner.transpose(np.argsort(order)) if shape else owner
    box = [slice(m, m + n * abs(s)) for m, n, s in zip(margins, shape, steps, strict=True)]
    return owner, view[tuple(box)][tuple(slice(None, None, s) for s in steps)] if shape else owner


def bits(values: np.ndarray) -> np.ndarray:
    """An array's bits, which compare zeros of two signs as different and equal NaNs as equal."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").reshape(values.shape)


def chained(dtype, draws):
    """What a chain does: any of its blocks."""
    draw, step = draws("", 0, (5, 7)), Chain.STEP
    return lambda numbers: np.stack([rounded(np.exp(draw.run(n * step, step).normal()), dtype) for n in numbers])


def recorded(dtype, draws):
    """What a constructor did, carried out again."""
    return rounded(draws("", 0, (5, 7)).normal(), dtype)


EVERY: dict[str, tuple[Initializer, tuple[int, ...]]] = {
    "Zeros": (Zeros(), (5, 7)),
    "Ones": (Ones(), (5, 7)),
    "Constant": (Constant(value=0.1), (5, 7)),
    "Uniform": (Uniform(low=-0.3, high=0.7), (5, 7)),
    "Normal": (Normal(std=0.02), (5, 7)),
    "Normal shifted": (Normal(mean=1.0, std=0.02), (5, 7)),
    "TruncatedNormal": (TruncatedNormal(std=0.02), (5, 7)),
    "TruncatedNormal shifted": (TruncatedNormal(mean=-1.0, std=0.5, cut=1.5), (5, 7)),
    "VarianceScaling": (VarianceScaling(scale=2.0, fan="in"), (5, 7)),
    "VarianceScaling truncated": (VarianceScaling(scale=2.0, distribution="truncated_normal"), (5, 7)),
    "VarianceScaling uniform": (VarianceScaling(scale=1.0, fan="avg", distribution="uniform"), (5, 7)),
    "XavierUniform": (XavierUniform(), (5, 7)),
    "XavierNormal": (XavierNormal(gain=5 / 3), (5, 7)),
    "HeUniform": (HeUniform(fan="out"), (5, 7)),
    "HeNormal": (HeNormal(), (5, 7, 3)),
    "LecunUniform": (LecunUniform(), (5, 7)),
    "LecunNormal": (LecunNormal(), (5, 7)),
    "Orthogonal": (Orthogonal(gain=1.4), (5, 7)),
    "Identity": (Identity(gain=0.3), (5, 7)),
    "Dirac": (Dirac(groups=2), (6, 3, 3)),
    "Sparse": (Sparse(sparsity=0.4, std=0.1), (5, 7)),
    "Mixture": (
        Mixture([(0.25, Uniform(low=5, high=10)), (0.5, Zeros()), (0.25, Uniform(low=-10, high=-5))]),
        (5, 7),
    ),
    "Custom": (Custom(product), (5, 7)),
    "Overlay": (Overlay(base=Normal(std=1.0), boxes=((((0, 1), (0, 7)), Zeros()),)), (5, 7)),
    "Recorded": (Recorded(text="randn", digest="0", function=recorded), (5, 7)),
    "Chain": (Chain(text="randn, exp", digest="0", function=chained), (5, 7)),
}
"""At least one of each class, with a shape that suits it."""
