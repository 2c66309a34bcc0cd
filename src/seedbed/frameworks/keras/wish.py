"""A start asked for before there are any sizes: kept on the model, and carried out when it is built."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from seedbed.frameworks.keras.place import refuse_traces
from seedbed.frameworks.keras.rollback import BUILDING
from seedbed.recipe import Recipe

HOOKED = ("build", "_maybe_build")
"""What Keras calls when a model is built, or called for the first time; it has no hooks of its own."""


@dataclass(eq=False)
class Wish:
    """A start asked for, in the place of a model's two methods that build it.

    It stands there until it has been carried out: on threads that make the first call together, one
    carries it out and the others wait.
    """

    model: Any
    recipe: Recipe | None
    seed: int
    streams: Mapping[str, str] | None
    before: dict[str, Any] = field(default_factory=dict)
    aside: bool = False

    def keep(self) -> None:
        """Stand in the way of building."""
        attributes = vars(self.model)
        original, maybe = attributes["build"], self.model._maybe_build
        self.before = {name: attributes[name] for name in HOOKED if name in attributes}

        @functools.wraps(original)
        def build(*args: Any, **kwargs: Any) -> None:
            with BUILDING:
                given = {k.removesuffix("_shape"): as_shape(v) for k, v in kwargs.items()}
                if not self._carry_out([as_shape(a) for a in args], given):
                    original(*args, **kwargs)

        def maybe_build(call_spec: Any) -> None:
            with BUILDING:
                asked = call_spec.user_arguments_dict  # with those of `fit` that the model's call does not take
                given = {k: v for k, v in asked.items() if k in call_spec.arguments_dict}
                first = next(iter(given), None)
                self._carry_out([given.pop(first)] if first is not None else [], given)
                maybe(call_spec)

        build._seedbed_wish = maybe_build._seedbed_wish = self  # type: ignore[attr-defined]
        attributes.update(build=build, _maybe_build=maybe_build)

    def drop(self) -> None:
        """Step out of the way."""
        attributes = vars(self.model)
        for name in HOOKED:
            attributes.pop(name, None)
        attributes.update(self.before)

    def _carry_out(self, inputs: list[Any], keywords: dict[str, Any]) -> bool:
        """Start the model, unless this is a dry run or another thread has; whether it did."""
        if self.aside or wish_of(self.model) is not self or not (inputs or keywords):
            return False
        from seedbed import verbs

        refuse_traces(self.model)
        with stepped_aside(self.model):
            verbs.start(self.model, inputs, keywords, self.recipe, self.seed, self.streams, None, None)
        self.drop()
        return True


@contextmanager
def stepped_aside(model: Any) -> Iterator[None]:
    """A context in which a model can be built without its wish being carried out."""
    with BUILDING:
        wish = wish_of(model)
        before = wish is not None and wish.aside
        if wish is not None:
            wish.aside = True
        try:
            yield
        finally:
            if wish is not None:
                wish.aside = before


def as_shape(value: Any) -> Any:
    """A shape as Keras passes it: lists of sizes become tuples."""
    if isinstance(value, (list, tuple)) and all(n is None or type(n) is int for n in value):
        return tuple(value)
    if isinstance(value, Mapping):
        return {k: as_shape(v) for k, v in value.items()}
    return [as_shape(v) for v in value] if isinstance(value, (list, tuple)) else value


def wish_of(model: Any) -> Wish | None:
    """The wish that a model keeps."""
    hook: Callable[..., Any] | None = vars(model).get("_maybe_build")
    return getattr(hook, "_seedbed_wish", None)


def keep(model: Any, recipe: Recipe | None, seed: int, streams: Mapping[str, str] | None) -> None:
    """Keep a wish until the model is built; the last one asked for is the one carried out."""
    with BUILDING:
        forget(model)
        Wish(model, recipe, seed, streams).keep()


def forget(model: Any) -> None:
    """Drop the wish that a model keeps."""
    wish = wish_of(model)
    if wish is not None:
        wish.drop()
