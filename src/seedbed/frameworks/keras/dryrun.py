"""A model run on shapes: Keras traces it, its variables come to be without values, and each call is watched."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
from keras.src.models.functional import Functional

from seedbed.errors import InputError, SeedbedError
from seedbed.frameworks.keras import walk
from seedbed.spec import Input

Sizes = Mapping[tuple[str, int], int]


class Maker(NamedTuple):
    """The last layer with variables, and the last layer, that a tensor came from; None for inputs."""

    sized: Any = None
    last: Any = None


@dataclass(eq=False)
class DryRun:
    """One run on shapes.

    Attributes:
        model: The model being run.
        calls: The layers being called, outermost first, each with what it was given.
        failed: The innermost call that an error came out of.
        called: Every layer that was called, by its id.
        makers: Who made which tensor.
    """

    model: Any
    calls: list[tuple[Any, list[Any]]] = field(default_factory=list)
    failed: tuple[Any, list[Any]] | None = None
    called: dict[int, Any] = field(default_factory=dict)
    makers: dict[int, tuple[Any, Maker]] = field(default_factory=dict)

    def run(self, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        """Call the model on Keras tensors.

        Variables that are missing are made, without values; nothing else is computed.

        Raises:
            SeedbedError: It cannot be run so.
        """
        checked = any(isinstance(m, (keras.Sequential, Functional)) and m.built for m in walk.layers(self.model))
        try:
            with valueless(), warnings.catch_warnings(), plain_errors(), self.watching():
                warnings.simplefilter("ignore")  # Keras warns of a trace that fails; here that is an error
                self.model(*inputs, **keywords)
                if checked:  # models made of layers do not look at sizes when they answer for their output alone
                    keras.Operation.compute_output_spec(self.model, *inputs, **keywords)
        except SeedbedError:
            raise
        except Exception as error:  # whatever the user's model raises becomes a sentence
            from seedbed.frameworks.keras.mismatch import explain

            raise explain(error, self) from error

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note the calls of layers on this thread. Keras has no hooks, so the method itself is replaced."""
        original, here = keras.layers.Layer.__call__, threading.get_ident()

        def watched(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != here:
                return original(layer, *args, **kwargs)
            given = [t for t in keras.tree.flatten((args, kwargs)) if hasattr(t, "shape")]
            self.called[id(layer)] = layer
            self.calls.append((layer, given))
            try:
                out = original(layer, *args, **kwargs)
            except Exception:
                self.failed = self.failed or (layer, given)
                raise
            finally:
                self.calls.pop()
            self._note(layer, given, out)
            return out

        keras.layers.Layer.__call__ = watched
        try:
            yield
        finally:
            keras.layers.Layer.__call__ = original

    def _note(self, layer: Any, given: list[Any], out: Any) -> None:
        self.failed = None  # what a layer caught itself is no failure
        if isinstance(layer, keras.Model) or next(walk.children(layer), None):
            return
        before = next((self.maker(t) for t in given), Maker())
        sized = layer if layer.weights else before.sized
        for tensor in keras.tree.flatten(out):
            self.makers[id(tensor)] = (tensor, Maker(sized, layer))

    def maker(self, tensor: Any) -> Maker:
        """Who made a tensor; Keras's own graph knows of what went through functions."""
        if id(tensor) in self.makers:
            return self.makers[id(tensor)][1]
        history = getattr(tensor, "_keras_history", None)
        if history is None or history.operation is None or isinstance(history.operation, keras.layers.InputLayer):
            return Maker()
        node = history.operation._inbound_nodes[history.node_index]
        if isinstance(history.operation, keras.layers.Layer):
            layer = history.operation
            before = next((self.maker(t) for t in node.input_tensors), Maker()) if not layer.weights else Maker()
            return Maker(layer if layer.weights else before.sized, layer)
        return next((self.maker(t) for t in node.input_tensors), Maker())

    def path_of(self, layer: Any) -> str:
        """Where a layer stands in the model."""
        return walk.path_of(self.model, layer)

    def source(self, tensor: Any) -> str:
        """Who made a tensor, in words."""
        sized, last = self.maker(tensor)
        names = [f"{self.path_of(m)} ({type(m).__name__})" for m in (sized, last) if m is not None]
        return ", through ".join(dict.fromkeys(names)) or "the model's input"


@contextmanager
def valueless() -> Iterator[None]:
    """A context in which variables are made without values, and stay without them."""
    with keras.StatelessScope(initialize_variables=False):
        yield


@contextmanager
def plain_errors() -> Iterator[None]:
    """A context in which Keras leaves errors as they are raised, with all of their frames."""
    filtering = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if filtering:
            keras.config.enable_traceback_filtering()


def standing_in(value: Any, model: Any, sizes: Sizes, name: str) -> Any:
    """Inputs as Keras tensors, which have no values; `sizes` stands in for sizes that vary."""
    likely = isinstance(value, list) and value and all(n is None or type(n) is int for n in value)
    if likely or (isinstance(value, str) and re.fullmatch(r"[\d?]+(x[\d?]+)*", value)):
        raise InputError(f"{name}: a shape is a tuple, such as (2, 20), got {value!r}.")
    if isinstance(value, Input) or is_shape(value):
        value = value if isinstance(value, Input) else Input(value)
        shape = [sizes.get((name, axis)) if n is None else n for axis, n in enumerate(value.shape)]
        return keras.KerasTensor(shape, value.dtype or default_dtype(model))
    if is_array(value):
        return keras.KerasTensor(sizes_of(value), keras.backend.standardize_dtype(value.dtype))
    if isinstance(value, Mapping):
        return {k: standing_in(v, model, sizes, f"{name}[{k!r}]") for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        made = [standing_in(v, model, sizes, f"{name}[{i}]") for i, v in enumerate(value)]
        return type(value)(made) if type(value) in (tuple, list) else type(value)(*made)
    return value


def is_shape(value: Any) -> bool:
    """Whether a tuple is a shape: sizes and None only."""
    return type(value) is tuple and all(n is None or type(n) is int for n in value)


def sizes_of(array: Any) -> tuple[int | None, ...]:
    """An array's shape; sizes that a trace leaves open are None."""
    return tuple(n if n is None else int(n) if hasattr(n, "__index__") else None for n in tuple(array.shape))


def is_array(value: Any) -> bool:
    """Whether this is an array of any kind."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def default_dtype(model: Any) -> str:
    """The dtype of an input of which only the shape was given."""
    dtype: str = model.input_dtype if isinstance(model, keras.Sequential) else keras.config.floatx()
    return dtype
