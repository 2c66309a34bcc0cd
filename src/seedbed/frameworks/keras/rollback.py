"""A model as it was: what building it inside changes is undone.

Keras has no copy of a model that is free of charge: `copy` and `clone_model` go through `get_config`,
which many a subclassed model lacks, and through a file of all its values. So a dry run builds the
model itself, where variables get no value, and afterwards each object that Keras holds of it is put back.
"""

from __future__ import annotations

import collections
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.ops.node import Node
from keras.src.utils.tracking import Tracker

BUILDING = threading.RLock()
"""Held while a model is tried or built, so that threads that make the first call wait for it."""

CONTAINERS = (list, dict, set)


class Undo:
    """Everything that Keras holds of a model, as it is now.

    Args:
        model: The model.
        alone: Whether to leave out what only the graph of calls leads to: the layers before and after.
    """

    def __init__(self, model: Any, *, alone: bool = False) -> None:
        self.followed = (
            (keras.Operation, keras.Variable, Tracker) if alone else (keras.Operation, keras.Variable, Tracker, Node)
        )
        self.kept: dict[int, tuple[Any, Any]] = {}
        self.names = dict(global_state.get_global_attribute("object_name_uids") or {})
        self.globals = dict(vars(global_state.GLOBAL_STATE_TRACKER))
        waiting = self.globals.get("uninitialized_variables")
        self.waiting = list(waiting or ())
        self.random = random.getstate(), np.random.get_state()
        stack = [model]
        while stack:
            stack += self._keep(stack.pop())

    def _keep(self, thing: Any) -> list[Any]:
        """Note what a thing holds; what there is to look at next."""
        if id(thing) in self.kept:
            return []
        if isinstance(thing, tuple):
            return list(thing)
        if isinstance(thing, CONTAINERS):
            copied = list(thing) if isinstance(thing, list) else set(thing) if isinstance(thing, set) else dict(thing)
            self.kept[id(thing)] = (thing, copied)
            inside = list(copied.values()) if isinstance(copied, dict) else list(copied)
            return [*inside, *getattr(thing, "__dict__", {}).values()]
        if isinstance(thing, self.followed) or _has_modules(thing):
            return [vars(thing)]
        return []

    def __call__(self) -> None:
        """Put everything back."""
        for thing, before in self.kept.values():
            if isinstance(thing, list):
                if len(thing) != len(before) or any(a is not b for a, b in zip(thing, before, strict=True)):
                    list.__setitem__(thing, slice(None), before)
            elif isinstance(thing, set):
                if thing != before:
                    set.clear(thing)
                    set.update(thing, before)
            else:
                _put_back(thing, before)
        found = vars(global_state.GLOBAL_STATE_TRACKER)
        found.clear()
        found.update(self.globals)
        uids = found.get("object_name_uids")
        if uids is not None:
            uids.clear()
            uids.update(self.names)
        if found.get("uninitialized_variables") is not None:
            found["uninitialized_variables"][:] = self.waiting
        self.recall_random()

    def recall_random(self) -> None:
        """Random states of Python and NumPy as they were: Keras draws seeds when it makes initializers."""
        ours, theirs = self.random
        random.setstate(ours)
        np.random.set_state(theirs)


def _put_back(thing: dict[Any, Any], before: dict[Any, Any]) -> None:
    if len(thing) == len(before) and all(k in thing and thing[k] is v for k, v in before.items()):
        return
    kind: Any = collections.OrderedDict if isinstance(thing, collections.OrderedDict) else dict
    for key in [k for k in thing if k not in before]:
        kind.__delitem__(thing, key)
    for key, value in before.items():
        if key not in thing or thing[key] is not value:
            kind.__setitem__(thing, key, value)
    if list(thing) != list(before):  # not by emptying it, if there is another way: other threads may look at it
        kind.clear(thing)
        for key, value in before.items():
            kind.__setitem__(thing, key, value)


def _has_modules(thing: Any) -> bool:
    """Whether this is one of torch's own modules, as Keras keeps its parameters in on that backend."""
    return "_modules" in getattr(thing, "__dict__", {})


@contextmanager
def undone(model: Any, *, alone: bool = False) -> Iterator[None]:
    """A context whose changes to a model are undone; `alone` as in `Undo`."""
    with BUILDING:
        undo = Undo(model, alone=alone)
        try:
            yield
        finally:
            undo()
