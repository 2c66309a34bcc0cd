"""Every message of the Keras adapter, compared whole with its file in tests/keras/messages.

`pytest tests/keras/test_keras_messages.py --update-messages` writes the files anew; read the difference before
keeping it. The messages are the same on every backend, but for those of `JAX`, which that one alone raises.
"""

import ast
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import initializers as ki
from keras import layers as kl

import seedbed as sb
from seedbed import errors
from seedbed import initializers as i
from seedbed.errors import SeedbedError
from seedbed.frameworks.keras import slot

FOLDER = Path(__file__).parent / "messages"
SOURCE = Path(sb.__file__).parent / "frameworks" / "keras"


def mlp():
    return keras.Sequential([kl.Dense(256), kl.ReLU(), kl.Dense(10)])


def small():
    return sb.initialize(keras.Sequential([kl.Dense(3), kl.ReLU(), kl.Dense(2)]), (2, 4))


def half_built(width):
    net = keras.Sequential([kl.Dense(256), kl.ReLU(), kl.Dense(10)])
    net.layers[2].build((None, width))
    return net


class Fails(kl.Layer):
    def call(self, x):
        raise ValueError("no such thing")


class Reads(keras.Model):
    def __init__(self):
        super().__init__()
        self.fc = kl.Dense(2)

    def call(self, x):
        return self.fc(x) if x[0, 0] > 0 else x


class Uneven(kl.Layer):
    """Makes as many variables as its input is wide."""

    def build(self, input_shape):
        for number in range(input_shape[-1]):
            self.add_weight(shape=(2,), name=f"w{number}")

    def call(self, x):
        return x


class Doubles(keras.Model):
    """Layers whose widths hang together by what the first makes of its input."""

    def __init__(self):
        super().__init__()
        self.last = kl.Dense(2)
        self.last.build((None, 3))

    def call(self, x):
        return self.last(keras.ops.concatenate([x, x], -1))


def other_net():
    return keras.Sequential([kl.Dense(3, dtype="float16"), kl.ReLU(), kl.Dense(2, use_bias=False)])


def traced():
    import jax

    jax.jit(lambda x: sb.initialize(mlp(), (2, 20)) and x)(np.ones(1))


def shared():
    layer = kl.Dense(3)

    class Shared(keras.Model):
        def __init__(self):
            super().__init__()
            self.one = self.two = layer

        def call(self, x):
            return self.two(self.one(x))

    return Shared()


class Apart(keras.Model):
    def __init__(self):
        super().__init__()
        self.one, self.two = kl.Dense(3), kl.Dense(3)

    def call(self, x):
        return self.two(self.one(x))


def half_a_function(a):
    return a


class MakesLayers(keras.Model):
    def call(self, x):
        return kl.Dense(3)(x)


CASES = {
    "shape_is_a_list": lambda: sb.plan(mlp(), [2, 20]),
    "width_does_not_fit": lambda: sb.plan(half_built(128), (2, 20)),
    "width_does_not_fit_a_built_model": lambda: sb.plan(small(), (2, 5)),
    "width_does_not_fit_any_size": lambda: sb.plan(half_built(128), (None, 20)),
    "width_follows_one_that_varies": lambda: sb.plan(Doubles(), (2, None)),
    "too_few_axes": lambda: sb.plan(keras.Sequential([kl.Conv2D(4, 3)]), (2, 20)),
    "call_fails": lambda: sb.plan(keras.Sequential([kl.Dense(3), Fails()]), (2, 20)),
    "variable_of_a_value": lambda: sb.plan(kl.LSTM(4, stateful=True), (2, 3, 4)),
    "nothing_can_be_told": lambda: sb.plan(kl.EinsumDense("bhd,hde->bhe", output_shape=(3, 6))),
    "number_of_variables_cannot_be_told": lambda: sb.plan(keras.Sequential([Uneven()])),
    "checked_too_early": lambda: sb.check(mlp(), sb.plan(mlp(), (2, 20))),
    "plan_of_another_model": lambda: sb.plan(small(), recipe="he").materialize(sb.initialize(other_net(), (2, 4))),
    "plan_of_a_tied_model": lambda: sb.plan(shared(), (2, 3)).materialize(Apart()),
    "plan_keeps_what_is_not_there": lambda: sb.initialize(mlp(), (2, 20), recipe=i.Keep(values=True)),
    "function_of_other_arguments": lambda: sb.plan(kl.Dense(2), (2, 3), recipe=half_a_function),
    "slot_of_another_kind": lambda: slot(ki.HeNormal()),
    "device_of_keras": lambda: sb.initialize(mlp(), (2, 20), device="cpu"),
    "sharding_of_keras": lambda: sb.initialize(mlp(), (2, 20), sharding=object()),
    "layer_made_in_call": lambda: sb.initialize(MakesLayers(name="maker"), (2, 4)),
    "lazy_of_keras": lambda: sb.lazy(keras.layers.Dense, sb.dim(-1)),
}
JAX = {
    "started_in_jit": traced,
    "reads_a_value": lambda: sb.plan(Reads(), (2, 2)),
}
CASES |= JAX if keras.backend.backend() == "jax" else {}


def raised(case):
    keras.utils.clear_session(free_memory=False)  # the names of layers are part of some messages
    with pytest.raises(SeedbedError) as caught:
        CASES[case]()
    return caught.value


@pytest.mark.parametrize("case", CASES)
def test_the_message_is_the_one_on_file(case, update_messages):
    text = f"{type(error := raised(case)).__name__}: {error}\n"
    file = FOLDER / f"{case}.txt"
    if update_messages:
        file.write_text(text, "utf-8")
    assert file.exists(), "there is no file; write it with --update-messages, and read it"
    assert text == file.read_text("utf-8")
    assert not any(mark in text for mark in (" at 0x", "/site-packages/", "\x1b"))
    sentence, *rest = str(error).split("\n\n")
    assert sentence.endswith("."), "a whole sentence first"
    assert "\n" not in sentence
    assert len(rest) <= 4


def test_every_file_of_a_message_has_its_case():
    assert {f.stem for f in FOLDER.iterdir()} == set(CASES) | set(JAX)


def sites():
    """Where errors are made: file, first and last line of each call."""
    classes = {name for name, c in vars(errors).items() if isinstance(c, type) and issubclass(c, SeedbedError)}
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in classes | {"unbuilt", "_cannot_be_told"}:
                yield file, node.lineno, node.end_lineno


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="some are raised on JAX alone")
def test_every_error_in_the_adapter_is_raised_here(monkeypatch):
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
    lost = [
        f"{file.relative_to(SOURCE)}:{first}"
        for file, first, last in sites()
        if not any((file, line) in places for line in range(first, last + 1))
    ]
    assert not lost


def test_the_facts_are_attributes():
    error = raised("width_does_not_fit")
    assert (error.path, error.expected, error.got, error.source) == ("dense_1", "(..., 128)", (2, 256), "dense")
    assert raised("checked_too_early").path == "dense.kernel"
    assert raised("plan_of_another_model").paths
