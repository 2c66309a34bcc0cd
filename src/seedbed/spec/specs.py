"""Every parameter and buffer of a model."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from seedbed import table
from seedbed.errors import PlanError, SeedbedError, no_path, printable, shown
from seedbed.spec.param import ParamSpec, remarks

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading JSON of another form can raise."""


def unreadable(what: str, error: Exception) -> PlanError:
    """The error of text that is not what seedbed wrote."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, json.JSONDecodeError):
        reason = f"line {error.lineno}, column {error.colno}: {error.msg}"
    elif isinstance(error, KeyError):
        reason = f"no {error}"
    return PlanError(f"The text is not {what} that seedbed wrote.", facts=[f"found  {printable(reason)}"])


@dataclass(frozen=True)
class Settled:
    """What a dry run settled in one lazy layer.

    Args:
        path: The layer's path; empty for the model itself.
        layer: The class it becomes.
        attributes: Pairs of name and value, such as `("in_features", 20)`.
    """

    path: str
    layer: str
    attributes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Specs:
    """Every parameter and buffer of a model, in the model's order.

    Args:
        params: The specs.
        framework: The framework they come from; empty when they were written by hand.
        settled: What the dry run settled in lazy layers.

    Example:
        >>> specs = Specs((ParamSpec(path="fc.weight", shape=(2, None), layer="Linear"),))
        >>> specs.unknown
        ('fc.weight',)
        >>> Specs.from_json(specs.to_json()) == specs
        True
    """

    params: tuple[ParamSpec, ...]
    framework: str = ""
    settled: tuple[Settled, ...] = field(default=())

    def __iter__(self) -> Iterator[ParamSpec]:
        return iter(self.params)

    def __len__(self) -> int:
        return len(self.params)

    def __getitem__(self, path: str) -> ParamSpec:
        """The spec at `path`, which may be one of its aliases."""
        if path in self.paths:
            return self.paths[path]
        raise no_path("specs", path, self.paths)

    @cached_property
    def paths(self) -> Mapping[str, ParamSpec]:
        """The spec at every path, ties and views included."""
        return {p: s for s in reversed(self.params) for p in s.paths}

    @property
    def unknown(self) -> tuple[str, ...]:
        """Paths whose sizes are not all settled."""
        return tuple(s.path for s in self.params if not s.known)

    @property
    def unreached(self) -> tuple[str, ...]:
        """Paths of parameters that the dry run's input did not use."""
        return tuple(s.path for s in self.params if s.reached is False and s.kind == "parameter")

    def label(self, pattern: str, **changes: Any) -> Specs:
        """Specs in which every path that matches the glob `pattern` has some facts replaced.

        Args:
            pattern: Compared with the whole path.
            **changes: Any of `axes`, `role`, `packed`, `groups`, `start`.

        Raises:
            PlanError: The pattern matches no path.

        Example:
            >>> specs = Specs((ParamSpec(path="mix.weight", shape=(3, 4)),))
            >>> specs.label("mix.*", axes=("in", "out"))["mix.weight"].fan("in")
            3.0
        """
        hits = [any(fnmatch.fnmatchcase(p, pattern) for p in s.paths) for s in self.params]
        if not any(hits):
            raise PlanError(
                f"label: {pattern!r} matches no parameter.",
                facts=["The parameters:", *shown([s.path for s in self.params])],
                remedy="Give a glob that matches a whole path, such as '*.weight'.",
                pattern=pattern,
            )
        params = (dataclasses.replace(s, **changes) if hit else s for s, hit in zip(self.params, hits, strict=True))
        return dataclasses.replace(self, params=tuple(params))

    def to_json(self) -> str:
        """JSON text, read back by `from_json`."""
        settled = [dataclasses.asdict(s) for s in self.settled]
        data = {"framework": self.framework, "params": [s.to_dict() for s in self.params], "settled": settled}
        return json.dumps(data, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Specs:
        """The inverse of `to_json`; raises `PlanError` for any other text."""
        try:
            data = json.loads(text)
            params = tuple(map(ParamSpec.from_dict, data["params"]))
            return cls(params, data["framework"], settled_from(data["settled"]))
        except SeedbedError:
            raise
        except UNREADABLE as error:
            raise unreadable("specs", error) from None

    def table(self, *, fold: bool | None = None, width: int | None = None) -> str:
        """Columns of text; `fold` writes rows that differ in a number only as one (by default when many)."""
        rows = [
            [s.path, s.shown_shape, s.dtype, s.layer, str(s.start) if s.start else "?", remarks(s)] for s in self.params
        ]
        rows = table.fold(rows) if (len(rows) > table.MANY if fold is None else fold) else rows
        return table.table(["parameter", "shape", "dtype", "layer", "framework's start", "remarks"], rows, width=width)

    def __str__(self) -> str:
        return self.table()


def settled_from(data: Sequence[Mapping[str, Any]]) -> tuple[Settled, ...]:
    """`Settled` from plain data."""

    def value(v: Any) -> Any:
        return tuple(map(value, v)) if isinstance(v, list) else v

    return tuple(Settled(d["path"], d["layer"], tuple((n, value(v)) for n, v in d["attributes"])) for d in data)
