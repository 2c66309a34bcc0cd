"""The vocabulary: one contract for every initializer, and what each one's arguments mean."""

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
import torch

import seedbed as sb
from seedbed import initializers
from seedbed.errors import InitializerError, RecipeError
from seedbed.initializers import (
    Chain,
    Constant,
    Custom,
    Dirac,
    HeNormal,
    HeUniform,
    Identity,
    Initializer,
    Keep,
    LecunNormal,
    LecunUniform,
    Loaded,
    Mixture,
    Native,
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
    from_dict,
    gain,
)


def noise(draw, spec):
    return draw.normal()


BOXES = ((((0, 1), (0, 6)), Zeros()),)
# For each class: an initializer, its text in a table, its plain data, and one that differs in each argument.
CONTRACT = {
    Zeros: (Zeros(), "Zeros()", {"name": "Zeros"}, []),
    Ones: (Ones(), "Ones()", {"name": "Ones"}, []),
    Constant: (Constant(value=42), "Constant(value=42)", {"name": "Constant", "value": 42}, [Constant(value=43)]),
    Uniform: (
        Uniform(low=-0.123456, high=0.5),
        "Uniform(low=-0.1235, high=0.5)",
        {"name": "Uniform", "low": -0.123456, "high": 0.5},
        [Uniform(low=-0.2, high=0.5), Uniform(low=-0.123456, high=0.6)],
    ),
    Normal: (
        Normal(std=0.02),
        "Normal(std=0.02)",
        {"name": "Normal", "std": 0.02},
        [Normal(std=0.03), Normal(mean=1, std=0.02)],
    ),
    TruncatedNormal: (
        TruncatedNormal(std=0.02, cut=3),
        "TruncatedNormal(std=0.02, cut=3)",
        {"name": "TruncatedNormal", "std": 0.02, "cut": 3},
        [TruncatedNormal(std=0.02), TruncatedNormal(std=0.03, cut=3), TruncatedNormal(mean=1, std=0.02, cut=3)],
    ),
    VarianceScaling: (
        VarianceScaling(scale=2.0, fan="out", distribution="uniform"),
        "VarianceScaling(scale=2, fan=out, distribution=uniform)",
        {"name": "VarianceScaling", "scale": 2.0, "fan": "out", "distribution": "uniform"},
        [
            VarianceScaling(scale=1.0, fan="out", distribution="uniform"),
            VarianceScaling(scale=2.0, distribution="uniform"),
            VarianceScaling(scale=2.0, fan="out"),
        ],
    ),
    XavierUniform: (XavierUniform(), "XavierUniform()", {"name": "XavierUniform"}, [XavierUniform(gain=2)]),
    XavierNormal: (XavierNormal(), "XavierNormal()", {"name": "XavierNormal"}, [XavierNormal(gain=2)]),
    HeUniform: (HeUniform(), "HeUniform()", {"name": "HeUniform"}, [HeUniform(gain=2), HeUniform(fan="out")]),
    HeNormal: (HeNormal(), "HeNormal()", {"name": "HeNormal"}, [HeNormal(gain=2), HeNormal(fan="avg")]),
    LecunUniform: (
        LecunUniform(), "LecunUniform()", {"name": "LecunUniform"}, [LecunUniform(gain=2), LecunUniform(fan="out")],
    ),
    LecunNormal: (
        LecunNormal(), "LecunNormal()", {"name": "LecunNormal"}, [LecunNormal(gain=2), LecunNormal(fan="out")],
    ),
    Orthogonal: (Orthogonal(), "Orthogonal()", {"name": "Orthogonal"}, [Orthogonal(gain=2)]),
    Identity: (Identity(), "Identity()", {"name": "Identity"}, [Identity(gain=2)]),
    Dirac: (Dirac(groups=2), "Dirac(groups=2)", {"name": "Dirac", "groups": 2}, [Dirac()]),
    Sparse: (
        Sparse(sparsity=0.9),
        "Sparse(sparsity=0.9)",
        {"name": "Sparse", "sparsity": 0.9},
        [Sparse(sparsity=0.8), Sparse(sparsity=0.9, std=1)],
    ),
    Mixture: (
        Mixture([(0.25, Uniform(low=5, high=10)), (0.75, Zeros())]),
        "Mixture(parts=0.25: Uniform(low=5, high=10), 0.75: Zeros())",
        {
            "name": "Mixture",
            "parts": [
                {"probability": 0.25, "initializer": {"name": "Uniform", "low": 5, "high": 10}},
                {"probability": 0.75, "initializer": {"name": "Zeros"}},
            ],
        },
        [Mixture([(0.5, Uniform(low=5, high=10)), (0.5, Zeros())]), Mixture([(0.25, Ones()), (0.75, Zeros())])],
    ),
    Keep: (Keep(values=True), "Keep(values=True)", {"name": "Keep", "values": True}, [Keep()]),
    Overlay: (
        Overlay(base=Normal(std=1.0), boxes=BOXES),
        "Normal(std=1), [0:1, 0:6] Zeros()",
        {
            "name": "Overlay",
            "base": {"name": "Normal", "std": 1.0},
            "boxes": [{"box": [[0, 1], [0, 6]], "initializer": {"name": "Zeros"}}],
        },
        [Overlay(base=Zeros(), boxes=BOXES), Overlay(base=Normal(std=1.0))],
    ),
    Loaded: (
        Loaded(file="base.safetensors", tensor="fc.weight"),
        "fc.weight of base.safetensors",
        {"name": "Loaded", "file": "base.safetensors", "tensor": "fc.weight"},
        [Loaded(file="base.safetensors", tensor="fc.bias"), Loaded(file="other", tensor="fc.weight"), Loaded(file="", tensor="")],
    ),
    Chain: (
        Chain(text="rand, exp", digest="1f0c"),
        "elementwise: rand, exp",
        {"name": "Chain", "text": "rand, exp", "digest": "1f0c"},
        [Chain(text="rand", digest="1f0c"), Recorded(text="rand, exp", digest="1f0c"), Chain(text="", digest="")],
    ),
    Recorded: (
        Recorded(text="arange, mul", digest="1f0c"),
        "computed: arange, mul",
        {"name": "Recorded", "text": "arange, mul", "digest": "1f0c"},
        [Recorded(text="arange", digest="1f0c"), Recorded(text="arange, mul", digest="2"), Recorded(text="", digest="")],
    ),
}  # fmt: skip
# These hold functions, which no file can.
OF_FUNCTIONS = {Custom: Custom(noise), Native: Native(function=torch.nn.init.zeros_)}
EVERY = [row[0] for row in CONTRACT.values()]
ids = [cls.__name__ for cls in CONTRACT]


def all_classes(cls=Initializer):
    return {cls}.union(*map(all_classes, cls.__subclasses__()))


def test_the_contract_holds_every_class_there_is():
    private = {Initializer, HeNormal.__mro__[1]}
    assert all_classes() - private == set(CONTRACT) | set(OF_FUNCTIONS)
    assert set(initializers.ALL) == set(CONTRACT)
    assert {c.__name__ for c in (*CONTRACT, *OF_FUNCTIONS)} <= set(initializers.__all__)


@pytest.mark.parametrize("cls", CONTRACT, ids=ids)
def test_repr_is_python_that_makes_the_same(cls):
    made = CONTRACT[cls][0]
    assert eval(repr(made), vars(initializers)) == made
    assert repr(eval(repr(made), vars(initializers))) == repr(made)


@pytest.mark.parametrize("cls", CONTRACT, ids=ids)
def test_text_in_tables_is_short(cls):
    made, text, _, _ = CONTRACT[cls]
    assert str(made) == text


@pytest.mark.parametrize("cls", CONTRACT, ids=ids)
def test_plain_data_goes_through_json_and_back(cls):
    made, _, data, _ = CONTRACT[cls]
    assert made.to_dict() == data
    assert from_dict(json.loads(json.dumps(data))) == made
    for other in CONTRACT[cls][3]:
        assert from_dict(json.loads(json.dumps(other.to_dict()))) == other
    if data == {"name": cls.__name__}:
        assert from_dict(cls.__name__) == made


@pytest.mark.parametrize("cls", CONTRACT, ids=ids)
def test_equality_and_hash_follow_the_arguments(cls):
    made, _, data, others = CONTRACT[cls]
    assert made == from_dict(data)
    assert hash(made) == hash(from_dict(data))
    assert len({made, *others}) == len(others) + 1
    assert len({made, *EVERY}) == len(EVERY)
    assert len(dataclasses.fields(cls)) <= max(len(others), 1), "an argument that no other differs in"


@pytest.mark.parametrize("cls", [*CONTRACT, *OF_FUNCTIONS], ids=lambda c: c.__name__)
def test_it_is_frozen(cls):
    made = {**{c: row[0] for c, row in CONTRACT.items()}, **OF_FUNCTIONS}[cls]
    for name in [f.name for f in dataclasses.fields(cls)] or ["anything"]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, name, 1)


@pytest.mark.parametrize("cls", CONTRACT, ids=ids)
def test_it_can_be_sent_to_another_process(cls):
    assert pickle.loads(pickle.dumps(CONTRACT[cls][0])) == CONTRACT[cls][0]


@pytest.mark.parametrize("cls", [c for c in CONTRACT if c is not Mixture], ids=lambda c: c.__name__)
def test_arguments_are_given_by_name(cls):
    if dataclasses.fields(cls):
        with pytest.raises(TypeError):
            cls(1)


@pytest.mark.parametrize("cls", CONTRACT, ids=ids)
def test_an_unknown_argument_in_data_is_an_error(cls):
    with pytest.raises(RecipeError, match=f"{cls.__name__} has no argument 'strange'"):
        from_dict({**CONTRACT[cls][2], "strange": 1})


@pytest.mark.parametrize("made", OF_FUNCTIONS.values(), ids=lambda i: type(i).__name__)
def test_those_of_functions_show_the_function_and_no_address(made):
    assert " at 0x" not in repr(made) + str(made)
    assert made == type(made)(**{f.name: getattr(made, f.name) for f in dataclasses.fields(made)})
    assert made.name in str(made)


def test_a_partial_shows_the_function_inside():
    import functools

    assert Native(function=functools.partial(torch.nn.init.normal_, std=1)).name == "normal_"


# What arguments may be.


@pytest.mark.parametrize(
    "cls", [c for c in CONTRACT if c not in (Mixture, Keep, Overlay, Dirac)], ids=lambda c: c.__name__
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1", True, 1j, 1e39, 10**400, [1]])
def test_numbers_are_finite_and_fit_float32(cls, value):
    data = {k: v for k, v in CONTRACT[cls][2].items() if k != "name"}
    for field in dataclasses.fields(cls):
        if field.type in ("float", float):
            with pytest.raises(InitializerError) as caught:
                cls(**{**data, field.name: value})
            assert len(str(caught.value)) < 400


@pytest.mark.parametrize("one", [np.float32(0.5), np.float64(0.5), np.array(0.5)[()]])
def test_numbers_of_numpy_are_plain_numbers(one):
    made = Normal(mean=one, std=one)
    assert made == Normal(mean=0.5, std=0.5)
    assert json.loads(json.dumps(made.to_dict())) == made.to_dict()
    assert repr(made) == "Normal(mean=0.5, std=0.5)"
    assert json.dumps(Mixture([(one, Zeros()), (one, Ones())]).to_dict())


def test_there_is_one_zero():
    assert repr(Constant(value=-0.0)) == "Constant(value=0.0)"
    assert math.copysign(1, Uniform(low=-0.0, high=1.0).low) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Normal(std=0), lambda: Uniform(low=1, high=1), lambda: Sparse(sparsity=0), lambda: Sparse(sparsity=1),
        lambda: Mixture([(1, Zeros())]), lambda: Mixture([(0, Ones()), (1.0, Zeros())]),
        lambda: Mixture([(1 / 3, Ones())] * 3), lambda: Constant(value=-3.4028234663852886e38),
        lambda: Orthogonal(gain=-1), lambda: Mixture([(0.5, HeNormal()), (0.5, Zeros())]),
    ],
)  # fmt: skip
def test_what_is_at_the_edge_is_allowed(make):
    make()


@pytest.mark.parametrize(
    "data",
    [
        None, 3, [], {}, {"name": 3}, {"name": None}, {"name": "Mixture"}, {"name": "Mixture", "parts": "Zeros"},
        {"name": "Mixture", "parts": [3]}, {"name": "Mixture", "parts": [{"probability": 1}]},
        {"name": "Mixture", "parts": [{"probability": "1", "initializer": "Zeros"}]}, {"name": "Mixture", "parts": []},
        {"name": "Mixture", "parts": [{"probability": 1, "initializer": "Keep"}]},
        {"name": "Overlay"}, {"name": "Overlay", "base": 3}, {"name": "Overlay", "base": "Zeros", "boxes": 3},
        {"name": "Overlay", "base": "Zeros", "boxes": [{"box": 3, "initializer": "Ones"}]},
        {"name": "Overlay", "base": "Zeros", "boxes": [{"box": [[0]], "initializer": "Ones"}]},
        {"name": "Overlay", "base": "Zeros", "boxes": [{"box": [[0, "1"]], "initializer": "Ones"}]},
        {"name": "Overlay", "base": "Zeros", "boxes": [{"box": [[2, 1]], "initializer": "Ones"}]},
        {"name": "Overlay", "base": "Keep"}, {"name": "Native"}, {"name": "Initializer"}, {"name": "_Row"},
        {"name": "Normal", "std": {}}, {"name": "Dirac", "groups": 1.0}, {"name": "Keep", "values": 1},
        {"name": "HeNormal", "fan": ["in"]}, {3: 4, "name": "Zeros"},
    ],
)  # fmt: skip
def test_data_that_is_no_initializer_is_an_error_of_ours(data):
    with pytest.raises((RecipeError, InitializerError)):
        from_dict(data)


# What depends on fans.


def spec(shape=(64, 16), axes=("out", "in"), **facts):
    return sb.ParamSpec(path="w", shape=shape, axes=axes, **facts)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (XavierUniform(gain=2), Uniform(low=-2 * math.sqrt(6 / 80), high=2 * math.sqrt(6 / 80))),
        (XavierNormal(), Normal(std=math.sqrt(2 / 80))),
        (HeUniform(), Uniform(low=-math.sqrt(6 / 16), high=math.sqrt(6 / 16))),
        (HeNormal(), Normal(std=math.sqrt(2 / 16))),
        (HeNormal(fan="out", gain=1), Normal(std=math.sqrt(1 / 64))),
        (HeNormal(fan="avg", gain=1), Normal(std=math.sqrt(1 / 40))),
        (LecunUniform(), Uniform(low=-math.sqrt(3 / 16), high=math.sqrt(3 / 16))),
        (LecunNormal(), Normal(std=0.25)),
        (VarianceScaling(scale=4.0), Normal(std=0.5)),
        (VarianceScaling(scale=4.0, distribution="truncated_normal"), TruncatedNormal(std=0.5 / 0.87962566103423978)),
        (VarianceScaling(scale=4.0, fan="out", distribution="uniform"), Uniform(low=-math.sqrt(12 / 64), high=math.sqrt(12 / 64))),
        (Normal(std=3), Normal(std=3)),
        (Mixture([(0.5, LecunNormal()), (0.5, Zeros())]), Mixture([(0.5, Normal(std=0.25)), (0.5, Zeros())])),
        (
            Overlay(base=LecunNormal(), boxes=((((0, 1), (0, 6)), HeNormal(gain=2)),)),
            Overlay(base=Normal(std=0.25), boxes=((((0, 1), (0, 6)), Normal(std=0.5)),)),
        ),
    ],
)  # fmt: skip
def test_fans_give_the_spread_of_the_papers(start, expected):
    def numbers(value):
        if isinstance(value, dict):
            return [n for v in value.values() for n in numbers(v)]
        return [n for v in value for n in numbers(v)] if isinstance(value, list) else [value]

    got, want = numbers(start.resolve(spec()).to_dict()), numbers(expected.to_dict())
    assert [type(g) for g in got] == [type(w) for w in want]
    assert all(g == (w if isinstance(w, str) else pytest.approx(w, rel=1e-12)) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("cls", [XavierUniform, XavierNormal, HeUniform, HeNormal], ids=lambda c: c.__name__)
def test_the_named_ones_are_torchs(cls):
    weight = torch.empty(512, 2048)
    theirs = {
        XavierUniform: torch.nn.init.xavier_uniform_, XavierNormal: torch.nn.init.xavier_normal_,
        HeUniform: lambda w: torch.nn.init.kaiming_uniform_(w, nonlinearity="relu"),
        HeNormal: lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu"),
    }[cls]  # fmt: skip
    theirs(weight)
    ours = cls().resolve(spec((512, 2048)))
    if isinstance(ours, Uniform):
        assert float(weight.max()) == pytest.approx(ours.high, rel=1e-4)
    else:
        assert float(weight.std()) == pytest.approx(ours.std, rel=1e-2)


@pytest.mark.parametrize(
    "start", [HeNormal(), XavierUniform(), Mixture([(0.5, HeNormal()), (0.5, Zeros())]), Overlay(base=HeNormal())]
)
def test_a_size_that_is_not_known_leaves_the_start_open(start):
    assert start.resolve(spec((64, None))) is None


def test_a_box_that_needs_an_unknown_size_leaves_the_start_open():
    start = Overlay(base=Zeros(), boxes=((((0, 1), (0, 1)), HeNormal()),))
    assert start.resolve(spec((64, None))) is None


@pytest.mark.parametrize("start", [HeNormal(), XavierUniform(), VarianceScaling(scale=1.0, distribution="uniform")])
def test_fans_of_zero_start_nothing(start):
    assert start.resolve(spec((0, 0))) == Zeros()


@pytest.mark.parametrize(
    "name",
    ["linear", "identity", "sigmoid", "tanh", "relu", "leaky_relu", "selu", "conv1d", "conv2d", "conv3d",
     "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"],
)  # fmt: skip
def test_gains_are_torchs(name):
    if name == "identity":  # torch calls it linear
        assert gain(name) == gain("linear")
        return
    assert gain(name) == torch.nn.init.calculate_gain(name)
    if name == "leaky_relu":
        assert gain(name, 0.3) == torch.nn.init.calculate_gain(name, 0.3)


def test_probabilities_become_thresholds_of_words():
    assert Mixture([(0.25, Zeros()), (0.5, Ones()), (0.25, Zeros())]).thresholds() == (2**30, 3 * 2**30)
    assert Mixture([(0.0, Zeros()), (1.0, Ones())]).thresholds() == (0,)
    assert Mixture([(1.0, Zeros()), (0.0, Ones())]).thresholds() == (2**32,)


def test_a_number_too_long_to_print_is_refused_all_the_same():
    with pytest.raises(InitializerError, match="got a int that is too long to print"):
        Constant(value=10**5000)
