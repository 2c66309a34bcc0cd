"""Every error message of the Gluon adapter, compared whole with its file in tests/gluon/messages.

`pytest tests/gluon --update-messages` writes the files anew; read the difference before keeping it.
"""

import ast
import subprocess
import sys
import threading
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import Block, HybridBlock, nn, rnn

import seedbed as sb
from seedbed import errors
from seedbed.errors import SeedbedError
from seedbed.initializers import Keep, Ones

FOLDER = Path(__file__).parent / "messages"
SOURCE = Path(sb.__file__).parent / "frameworks" / "gluon"


def chain(*layers, kind=nn.Sequential):
    net = kind()
    net.add(*layers)
    return net


def small():
    return chain(nn.Dense(3, in_units=4), nn.Activation("relu"), nn.Dense(2, in_units=3))


def waiting():
    return chain(nn.Dense(256), nn.Dense(10))


class Sparse(HybridBlock):
    def __init__(self):
        super().__init__()
        self.table = self.params.get("table", shape=(5, 3), stype="row_sparse")


class Locked(Block):
    def __init__(self):
        super().__init__()
        self.lock, self.fc = threading.Lock(), nn.Dense(2)


class Adds(Block):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Dense(3), nn.Dense(4)

    def forward(self, x):
        return self.one(x) + self.two(x)


class Asks(Block):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Dense(6), nn.Dense(3, in_units=5)

    def forward(self, x):
        h = self.first(x)
        return self.last(h * h.shape[0])


class Multiplies(HybridBlock):
    def __init__(self):
        super().__init__()
        self.fc = nn.Dense(7)

    def hybrid_forward(self, F, x):
        return F.dot(self.fc(x), x)


class Wrong(mx.init.Initializer):
    def _init_weight(self, name, data):
        data[:] = mx.nd.ones((7, 7))


def plan_of_another():
    sb.materialize(sb.plan(small()), chain(nn.Dense(3, in_units=4), nn.Dense(2, in_units=5), nn.Dense(1, in_units=1)))


def plan_of_other_ties():
    one, two = nn.Dense(4, in_units=4), nn.Dense(4, in_units=4)
    sb.materialize(sb.plan(chain(one, two)), chain(one, one))


def plan_of_other_dtypes():
    net = small()
    plan = sb.plan(net)
    net.cast("float16")
    plan.materialize(net)


def values_that_are_not_there():
    sb.initialize(waiting(), (2, 20), recipe={"0.weight": Keep(values=True), "*": Ones()})


def not_started():
    sb.check(small(), sb.plan(small()))


def waits_for_its_size():
    sb.initialize(waiting())[0].weight.data()


def numpy_without_bool():
    code = (
        "import numpy\n"
        "del numpy.__getattr__\n"  # as numpy 1.24 has it
        "numpy.__version__ = '1.24.0'\n"
        "import seedbed.frameworks.gluon\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = done.stderr[done.stderr.rindex("seedbed.errors.ModelError: ") :].partition(": ")[2]
    raise errors.ModelError(said.strip())


def twice():
    layer = nn.Dense(8)
    return chain(layer, layer)


def norms():
    return chain(nn.Dense(6), nn.BatchNorm(in_channels=5))


CASES = {
    "arguments_by_name": lambda: sb.plan(waiting(), x=(2, 20)),
    "arguments_too_many": lambda: sb.plan(chain(nn.Dense(2), kind=nn.HybridSequential), (2, 20), (2, 20)),
    "arguments_too_few": lambda: sb.plan(rnn.LSTMCell(3), (2, 20)),
    "shape_in_a_list": lambda: sb.plan(waiting(), [2, 20]),
    "context_unknown": lambda: sb.initialize(small(), device="cuda:0"),
    "context_not_here": lambda: sb.initialize(small(), device=["cpu", "gpu(7)"]),
    "sharding": lambda: sb.initialize(small(), sharding="rows"),
    "lazy": lambda: sb.lazy(nn.Dense, sb.dim(-1)),
    "sparse_parameter": lambda: sb.plan(Sparse()),
    "not_copied": lambda: sb.plan(Locked(), (2, 20)),
    "numpy_without_bool": numpy_without_bool,
    "function_not_gluons": lambda: sb.plan(small(), recipe=lambda array: array),
    "initializer_of_a_vector": lambda: sb.plan(small(), recipe=mx.init.Xavier()),
    "initializer_of_a_vector_before_its_size": lambda: sb.plan(waiting(), recipe={"*": mx.init.Bilinear()}),
    "initializer_of_unknown_fan": lambda: sb.plan(small(), recipe={"*.weight": mx.init.Xavier("even"), "*": Ones()}),
    "initializer_that_fails": lambda: sb.initialize(small(), recipe=Wrong()),
    "mixed_without_a_pattern": lambda: sb.plan(small(), recipe=mx.init.Mixed([".*weight"], [mx.init.One()])),
    "load_without_a_name": lambda: sb.plan(small(), recipe=mx.init.Load({"0.weight": mx.nd.ones((3, 4))})),
    "plan_of_another_model": plan_of_another,
    "plan_of_other_ties": plan_of_other_ties,
    "plan_of_other_dtypes": plan_of_other_dtypes,
    "values_that_are_not_there": values_that_are_not_there,
    "not_started": not_started,
    "waits_for_its_size": waits_for_its_size,
    "dense_does_not_fit": lambda: sb.plan(
        chain(nn.Dense(256, in_units=20), nn.Activation("relu"), nn.Dense(10, in_units=128)), (2, 20)
    ),
    "dense_of_last_axis_does_not_fit": lambda: sb.plan(nn.Dense(3, in_units=4, flatten=False), (2, 5, 6)),
    "dense_does_not_fit_sizes_that_vary": lambda: sb.plan(chain(nn.Dense(256), nn.Dense(10, in_units=128)), (None, 20)),
    "dense_twice_does_not_fit": lambda: sb.plan(twice(), (2, 20)),
    "convolution_of_other_channels": lambda: sb.plan(nn.Conv2D(3, 3, in_channels=4), (2, 5, 8, 8)),
    "convolution_of_other_channels_last": lambda: sb.plan(nn.Conv2D(3, 3, in_channels=4, layout="NHWC"), (2, 8, 8, 5)),
    "convolution_of_other_axes": lambda: sb.plan(nn.Conv2D(3, 3), (2, 20)),
    "norm_does_not_fit": lambda: sb.plan(norms(), (2, 20)),
    "layer_norm_does_not_fit": lambda: sb.plan(nn.LayerNorm(in_channels=4), (2, 5)),
    "recurrent_does_not_fit": lambda: sb.plan(rnn.GRU(3, input_size=4), (2, 5, 6)),
    "recurrent_of_other_axes": lambda: sb.plan(rnn.LSTM(3), (2, 5)),
    "python_forward_does_not_fit": lambda: sb.plan(Asks(), (2, 20)),
    "function_between_layers": lambda: sb.plan(Adds(), (2, 20)),
    "function_of_a_graph": lambda: sb.plan(Multiplies(), (2, 20)),
    "zero_width": lambda: sb.plan(waiting(), (2, 0)),
}


def raised(case):
    with pytest.raises(SeedbedError) as caught:
        CASES[case]()
    return caught.value


@pytest.mark.parametrize("case", CASES)
def test_the_message_is_the_one_on_file(case, update_messages, tmp_path):
    error = raised(case)
    kind = next(c for c in type(error).__mro__ if c.__module__ == "seedbed.errors")
    text = f"{kind.__name__}: {error}\n"
    file = FOLDER / f"{case}.txt"
    if update_messages:
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    assert file.exists(), "there is no file; write it with --update-messages, and read it"
    assert text == file.read_text("utf-8")
    assert not any(mark in text for mark in (" at 0x", "/site-packages/", str(Path.cwd()), "../src"))
    sentence, *rest = str(error).split("\n\n")
    assert sentence.endswith("."), "a whole sentence first"
    assert "\n" not in sentence
    assert len(rest) <= 4


def test_every_file_of_a_message_has_its_case():
    assert sorted(f.name for f in FOLDER.iterdir()) == sorted(f"{case}.txt" for case in CASES)


def sites():
    """Where errors are made: file, first and last line of each call."""
    makers = {name for name, c in vars(errors).items() if isinstance(c, type) and issubclass(c, SeedbedError)}
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in makers | {"unstarted", "UnstartedError"}:
                yield file, node.lineno, node.end_lineno


def test_every_error_in_the_source_is_raised_here(monkeypatch):
    places = set()
    plain = SeedbedError.__init__

    def noted(self, *args, **kwargs):
        frame = sys._getframe(1)
        while frame:
            places.add((Path(frame.f_code.co_filename), frame.f_lineno))
            frame = frame.f_back
        plain(self, *args, **kwargs)

    monkeypatch.setattr(SeedbedError, "__init__", noted)
    for case in CASES:
        raised(case)
    net = sb.initialize(waiting())
    with pytest.raises(SeedbedError):  # finished by hand, and its sizes were never told
        net[0].weight._finish_deferred_init()
    with pytest.raises(SeedbedError):
        sb.check(sb.initialize(waiting()), sb.plan(waiting(), (2, 20)))
    lost = [
        f"{file.name}:{first}"
        for file, first, last in sites()
        if not any((file, line) in places for line in range(first, last + 1)) and file.name != "__init__.py"
    ]
    assert not lost  # that of the module itself is raised in a process of its own


def test_the_facts_are_attributes():
    error = raised("dense_does_not_fit")
    assert (error.path, error.expected, error.got, error.source) == ("2", "(batch, 128)", (2, 256), "0")
    assert raised("plan_of_another_model").paths[0] == "1.weight"
    assert np.all([p in raised("values_that_are_not_there").paths for p in ("0.weight",)])
