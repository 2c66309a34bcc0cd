"""Stage 3: what we want. Ordered rules from parameters to initializers; the first match wins."""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union

from seedbed.errors import InitializerError, RecipeError, nearest, quoted
from seedbed.initializers import Initializer, Native, from_dict
from seedbed.spec import ROLES, ParamSpec


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which parameters: all the conditions given must hold.

    Args:
        path: A glob over the whole path; `*` also crosses dots.
        layer: The layer's class or its name, or one that it extends.
        role: One of the roles of `ParamSpec`. Buffers are matched only by `role="buffer"`.

    Raises:
        RecipeError: No condition is given, or the role is unknown.

    Example:
        >>> where = Where(layer="Linear", role="weight")
        >>> where.matches(ParamSpec(path="head.weight", shape=(2, 3), role="weight", layer="Linear"))
        True
        >>> print(where)
        layer=Linear role=weight
    """

    path: str | None = None
    layer: str | None = None
    role: str | None = None

    def __post_init__(self) -> None:
        layer: Any = self.layer
        if isinstance(layer, type):
            object.__setattr__(self, "layer", layer.__name__)
        if self.path is None and self.layer is None and self.role is None:
            raise RecipeError("Where: at least one of `path`, `layer` and `role` must be given.")
        for name, value in vars(self).items():
            if value is not None and not isinstance(value, str):
                raise RecipeError(f"Where: `{name}` must be text, got {quoted(value)}.")
        if self.role is not None and self.role not in ROLES:
            raise RecipeError(f"Where: unknown role {self.role!r}.", remedy=nearest(self.role, ROLES))

    def matches(self, spec: ParamSpec) -> bool:
        """Whether every condition holds; any of a tied parameter's paths will do."""
        return self._holds(spec) and (self.path is None or any(fnmatch.fnmatchcase(p, self.path) for p in spec.paths))

    def _holds(self, spec: ParamSpec) -> bool:
        """Whether the conditions hold that are not of the path."""
        if spec.kind == "buffer" and self.role != "buffer":
            return False
        return (self.layer is None or self.layer == spec.layer or self.layer in spec.bases) and (
            self.role is None or self.role == spec.role
        )

    def __str__(self) -> str:
        named = [f"{n}={v}" for n, v in (("layer", self.layer), ("role", self.role)) if v is not None]
        return " ".join(([repr(self.path)] if self.path is not None else []) + named)


WhereLike = Union[Where, str, type]
InitializerLike = Union[Initializer, str, Mapping[str, Any], Callable[..., Any]]
"""One of seedbed's, its name or a table as in files, or the framework's own function."""


@dataclass(frozen=True, init=False)
class Rule:
    """One `where -> initializer`.

    Args:
        where: A `Where`, a glob over the path, or a layer's class.
        initializer: One of seedbed's, the name of one that needs no arguments, a table as in files, or the
            framework's own function.
        optional: Whether the rule may match nothing.

    Raises:
        RecipeError: `where` is none, or there is no such initializer.

    Example:
        >>> from seedbed.initializers import Zeros
        >>> print(Rule("*.bias", Zeros()))
        '*.bias' -> Zeros()
        >>> Rule("*.bias", "Zeros") == Rule("*.bias", Zeros())
        True
    """

    where: Where
    initializer: Initializer
    optional: bool = False

    def __init__(self, where: WhereLike, initializer: InitializerLike, optional: bool = False) -> None:
        if isinstance(where, str):
            where = Where(path=where)
        elif isinstance(where, type):
            where = Where(layer=where.__name__)
        elif not isinstance(where, Where):
            raise RecipeError(f"A rule's `where` must be a glob, a layer's class or a Where, got {quoted(where)}.")
        if isinstance(initializer, type) and issubclass(initializer, Initializer):
            raise RecipeError(f"{where}: {initializer.__name__} is a class; write {initializer.__name__}(...).")
        object.__setattr__(self, "where", where)
        object.__setattr__(self, "initializer", _initializer(where, initializer))
        object.__setattr__(self, "optional", optional)

    def __str__(self) -> str:
        return f"{self.where} -> {self.initializer}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, read back by `from_dict`."""
        data: dict[str, Any] = {k: v for k, v in vars(self.where).items() if v is not None}
        start = self.initializer.to_dict()
        data["initializer"] = start["name"] if len(start) == 1 else start
        return {**data, "optional": True} if self.optional else data

    @classmethod
    def from_dict(cls, data: object) -> Rule:
        """The inverse of `to_dict`, strict: an unknown key is an error."""
        if not isinstance(data, Mapping) or "initializer" not in data:
            raise RecipeError(
                f"A rule must be a table with an `initializer`, got {quoted(data)}.",
                remedy="Write it as\n    [[rule]]\n    path = '*.weight'\n    initializer = 'HeNormal'",
            )
        known = ["path", "layer", "role", "initializer", "optional"]
        for key, value in data.items():
            if key not in known:
                raise RecipeError(f"A rule has no key {key!r}.", remedy=nearest(str(key), known))
            kind, wanted = (bool, "true or false") if key == "optional" else (str, "text")
            if key != "initializer" and not isinstance(value, kind):
                raise RecipeError(f"A rule's `{key}` must be {wanted}, got {quoted(value)}.")
        where = Where(**{k: data[k] for k in ("path", "layer", "role") if k in data})
        return cls(where, from_dict(data["initializer"]), data.get("optional", False))


def _initializer(where: Where, asked: InitializerLike) -> Initializer:
    if isinstance(asked, Initializer):
        return asked
    if isinstance(asked, (str, Mapping)):
        try:
            return from_dict(asked)
        except (RecipeError, InitializerError) as error:
            raise type(error)(f"{where}: {error}") from None
    if not callable(asked):
        raise RecipeError(
            f"{where}: an initializer is needed, got {quoted(asked)}.",
            remedy="Give one of seedbed.initializers, such as Constant(value=...), or the framework's own function.",
        )
    return Native(function=asked)


@dataclass(frozen=True)
class Recipe:
    """Rules in the order they are tried, with a name.

    Args:
        rules: The first that matches a parameter decides it.
        name: Shown in plans and errors.

    Example:
        >>> from seedbed.initializers import Normal, Zeros
        >>> recipe = Recipe((Rule("*.bias", Zeros()), Rule("*", Normal(std=0.02))), name="mine")
        >>> Recipe.from_toml(recipe.to_toml()) == recipe == Recipe.from_json(recipe.to_json())
        True
    """

    rules: tuple[Rule, ...]
    name: str = "recipe"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        for number, rule in enumerate(self.rules, 1):
            if not isinstance(rule, Rule):
                raise RecipeError(f"recipe {self.name!r}: rule {number} must be a Rule, got {quoted(rule)}.")
        if not self.rules:
            raise RecipeError(
                f"recipe {self.name!r}: has no rules.", remedy="Give at least one, such as Rule('*', Keep())."
            )

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    @classmethod
    def of(cls, value: Recipe | InitializerLike | Mapping[WhereLike, InitializerLike]) -> Recipe:
        """A recipe from one initializer for every parameter, or from a mapping of rules.

        Example:
            >>> from seedbed.initializers import Ones
            >>> Recipe.of(Ones()) == Recipe.of({"*": Ones()}) == Recipe.of("Ones")
            True
        """
        if isinstance(value, Recipe):
            return value
        if isinstance(value, Mapping):
            return cls(tuple(Rule(where, start) for where, start in value.items()))
        if isinstance(value, (Initializer, str)) or callable(value):
            return cls((Rule("*", value),))
        raise RecipeError(
            f"A recipe cannot be made from {type(value).__name__}.",
            remedy="Give a Recipe, a name, one initializer, a mapping {pattern: initializer}, or a path to a TOML file.",
        )

    def lenient(self) -> Recipe:
        """The same rules, each of which may match nothing: for a part of a model."""
        return Recipe(tuple(Rule(r.where, r.initializer, optional=True) for r in self.rules), self.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, read back by `from_dict`."""
        return {"name": self.name, "rule": [rule.to_dict() for rule in self.rules]}

    @classmethod
    def from_dict(cls, data: object, *, source: str = "recipe") -> Recipe:
        """The inverse of `to_dict`, strict: an unknown key is an error."""
        if not isinstance(data, Mapping):
            raise RecipeError(f"{source}: a recipe must be a table with [[rule]] entries.")
        for key in data:
            if key not in ("name", "rule"):
                raise RecipeError(f"{source}: a recipe has no key {key!r}.", remedy=nearest(str(key), ("name", "rule")))
        rules = data.get("rule")
        if not isinstance(rules, list) or not rules:
            raise RecipeError(
                f"{source}: a recipe needs at least one [[rule]].",
                remedy="Write one as\n    [[rule]]\n    path = '*.weight'\n    initializer = 'HeNormal'",
            )
        name = data.get("name", "recipe")
        if not isinstance(name, str):
            raise RecipeError(f"{source}: the recipe's `name` must be text, got {quoted(name)}.")
        made = []
        for number, rule in enumerate(rules, 1):
            try:
                made.append(Rule.from_dict(rule))
            except (RecipeError, InitializerError) as error:  # the number is added here, once
                raise type(error)(f"{source}: rule {number}: {error}") from None
        return cls(tuple(made), name)

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, source: str = "recipe") -> Recipe:
        """The inverse of `to_json`; a syntax error names line and column."""
        try:
            return cls.from_dict(json.loads(text), source=source)
        except json.JSONDecodeError as error:
            raise RecipeError(
                f"{source}: is not valid JSON.", facts=_at(error.lineno, error.colno, error.msg)
            ) from None
        except RecursionError:
            raise RecipeError(f"{source}: is nested too deep.") from None

    def to_toml(self) -> str:
        """TOML text, one [[rule]] table a rule."""
        data = self.to_dict()
        tables = ["[[rule]]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in rule.items()) for rule in data["rule"]]
        return "\n".join([f"name = {_toml(data['name'])}\n", *tables])

    @classmethod
    def from_toml(cls, text: str, *, source: str = "recipe") -> Recipe:
        """The inverse of `to_toml`; a syntax error names line and column."""
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        try:
            return cls.from_dict(tomllib.loads(text), source=source)
        except tomllib.TOMLDecodeError as error:
            said = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL)
            what, line, column = said.groups() if said else (str(error), None, None)
            facts = _at(line, column, what) if line else _at(text.count("\n") + 1, None, what)
            raise RecipeError(f"{source}: is not valid TOML.", facts=facts) from None
        except RecursionError:
            raise RecipeError(f"{source}: is nested too deep.") from None

    def __str__(self) -> str:
        rows = [f"{n:>3}  {rule}{'  (optional)' if rule.optional else ''}" for n, rule in enumerate(self.rules, 1)]
        return "\n".join([f"recipe {self.name!r}", *rows])


class Finder:
    """Finds the first rule of a recipe that matches a parameter.

    Rules are sorted by the text that their globs begin or end with, so that of a thousand rules only those
    are tried whose text is the path's.

    Example:
        >>> from seedbed.initializers import Ones, Zeros
        >>> finder = Finder(Recipe.of({"*.bias": Zeros(), "*": Ones()}))
        >>> [finder.first(ParamSpec(path=path, shape=(2,))) for path in ("fc.bias", "fc.weight")]
        [0, 1]
    """

    def __init__(self, recipe: Recipe) -> None:
        self._rules = [(rule.where, _match_of(rule.where.path)) for rule in recipe]
        self._always: list[int] = []
        self._starts: dict[int, dict[str, list[int]]] = {}
        self._ends: dict[int, dict[str, list[int]]] = {}
        for number, rule in enumerate(recipe):
            glob = rule.where.path or "*"
            start, end = re.split(r"[*?[]", glob)[0], re.split(r"[]*?[]", glob)[-1]
            if start or end:
                texts, text = (self._starts, start) if len(start) >= len(end) else (self._ends, end)
                texts.setdefault(len(text), {}).setdefault(text, []).append(number)
            else:
                self._always.append(number)

    def first(self, spec: ParamSpec) -> int | None:
        """The place of the rule; `None` where none matches."""
        numbers = {*self._always}
        for path in spec.paths:
            for size, texts in self._starts.items():
                numbers.update(texts.get(path[:size], ()))
            for size, texts in self._ends.items():
                numbers.update(texts.get(path[-size:], ()))
        for number in sorted(numbers):
            where, match = self._rules[number]
            if where._holds(spec) and (match is None or any(map(match, spec.paths))):
                return number
        return None


def _match_of(glob: str | None) -> Callable[[str], Any] | None:
    return None if glob is None else re.compile(fnmatch.translate(glob)).match


def _toml(value: Any) -> str:
    """Plain data as a value of TOML; every key is a name of ours."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _at(line: object, column: object, what: str) -> list[str]:
    place = f"line {line}, column {column}" if column else f"line {line}, the last"
    return [f"at     {place}", f"found  {what}"]
