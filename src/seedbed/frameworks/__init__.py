"""The edge: the only code that imports a framework, and only one the user has imported already.

Each framework is one module (or folder) here with the functions of `Framework`; to add one, write
it and name it in `NAMES`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, cast

from seedbed.check import Holder
from seedbed.errors import ModelError, SeedbedError
from seedbed.initializers import Initializer, Native
from seedbed.materialize import Job, Which
from seedbed.plan import Plan
from seedbed.recipe import Recipe
from seedbed.spec import ParamSpec, Specs

NAMES = {"flax": "flax", "gluon": "mxnet", "keras": "keras", "torch": "torch"}
"""Each adapter, and the package that is in use when it is in `sys.modules`. The first that owns a model has it."""


@dataclass(frozen=True)
class Room:
    """Where a plan's values go.

    Args:
        jobs: What to make, and the memory it is to fill.
        result: What `materialize` returns, asked for once everything is filled and placed.
    """

    jobs: Iterable[Job]
    result: Callable[[], Any]


@dataclass(frozen=True)
class Ranks:
    """The processes that hold one model together.

    Args:
        number: This process's.
        place: Where it stands in the largest mesh.
        mesh: That mesh, in words.
        size: How many processes it has.
        layouts: How each sharded parameter is laid out, in words.
        real: Parameters that have values, where others have none yet.
        gather: Called by all of them at once with a text: what each has said, by its number.
        failed: Why this one cannot start its part, if it cannot.
    """

    number: int
    place: tuple[int, ...]
    mesh: str
    size: int
    layouts: Mapping[str, str]
    real: tuple[str, ...]
    gather: Callable[[str], Mapping[int, str]]
    failed: SeedbedError | None = None


class Framework(Protocol):
    """What a framework's module offers."""

    name: str

    def owns(self, model: Any) -> bool:
        """Whether `model` is one of this framework's."""

    def owns_values(self, values: Mapping[str, Any]) -> bool:
        """Whether a mapping holds this framework's arrays."""

    def trace(self, model: Any, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Specs:
        """Every parameter and buffer; sizes settled without arithmetic when there are inputs."""

    def translate(self, native: Native, spec: ParamSpec) -> Initializer:
        """One of the framework's own initializers as one of ours, for one parameter."""

    def fit(self, plan: Plan, model: Any) -> None:
        """Raise `PlanError` unless the plan is for this model, and all that it keeps is there."""

    def placing(self, plan: Plan, model: Any, device: Any, sharding: Any, which: Which) -> AbstractContextManager[Room]:
        """Where the plan's values go; memory is made where there is none."""

    def keep(
        self,
        model: Any,
        specs: Specs,
        recipe: Recipe | None,
        seed: int,
        streams: Mapping[str, str] | None,
        device: Any,
    ) -> Any:
        """Keep the wish, and carry it out at the model's first call; the model, or one that keeps the wish."""

    def ranks(self, model: Any) -> Ranks | None:
        """The processes that hold a model together; `None` where this one holds all of it."""

    def values(self, model: Any) -> Mapping[str, Holder]:
        """The arrays of a model or of a mapping, by every path."""

    def apply(self, model: Any, function: Any) -> None:
        """Call `function` on every layer."""

    def is_native(self, function: Any) -> bool:
        """Whether a callable is an initializer of the framework's own."""

    def owns_class(self, cls: type) -> bool:
        """Whether a class is one of this framework's layers."""

    def lazy(self, cls: type, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """A layer of a class, some of whose sizes are `Dim`s, to be settled by its first input."""

    def deferred(self) -> AbstractContextManager[None]:
        """A context in which models are built without memory, and what their constructors do is recorded."""

    def recording(self) -> bool:
        """Whether this thread is inside a `deferred()` that records, and models have no start yet."""


def loaded() -> list[Framework]:
    """The frameworks that have been imported; one that has not cannot own a model."""
    names = [name for name, package in NAMES.items() if package in sys.modules]
    return [cast(Framework, importlib.import_module(f"seedbed.frameworks.{name}")) for name in names]


def framework_of(model: Any) -> Framework:
    """The framework that owns a model.

    Raises:
        ModelError: None does.
    """
    for framework in loaded():
        if framework.owns(model):
            return framework
    kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    imported = [framework.name for framework in loaded()]
    raise ModelError(
        f"A model is needed, got {kind}.",
        remedy=f"Give an instance of a model: {model.__name__}(...)."
        if isinstance(model, type)
        else f"Models of these frameworks are known: {', '.join(NAMES)}; imported here: {', '.join(imported) or 'none'}.",
    )
