"""Every error seedbed raises.

    SeedbedError
    ├── InitializerError   ValueError     an initializer's argument is out of range
    ├── FanError           ValueError     a fan is asked of axes that have no roles
    ├── RecipeError        ValueError     a recipe, rule or name cannot be understood
    ├── UnmatchedError     ValueError     parameters that no rule matches
    ├── UnusedRuleError    ValueError     rules that decided nothing
    ├── ModelError         TypeError      a thing that is not a model seedbed can start
    ├── CaptureError       RuntimeError   deferred construction needs a value nobody knows yet
    ├── InputError         TypeError      inputs the model cannot take
    ├── ShapeError         ValueError     sizes inside the model that do not fit
    ├── UnknownSizeError   ValueError     sizes that are needed and still unknown
    ├── UninitializedError RuntimeError   a value read before it exists
    ├── PlanError          ValueError     a plan that does not fit, or cannot be read
    ├── RegionError        IndexError     a region outside its parameter
    ├── PathError          KeyError       a path at which nothing stands
    ├── EngineError        RuntimeError   an engine is asked for that is not there
    ├── OutputError        OSError        a place that cannot be written
    └── CheckpointError    ValueError     a file that is not a sound checkpoint

The first line of a message is a whole sentence. Facts follow, one a line; then what to do,
as text to paste. A message never suggests a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

SHOWN = 5
"""Lines of facts before the rest is counted."""
LISTED = 20
"""Known names offered when none is near."""
LONGEST = 120
"""Characters of a name from a file."""


class SeedbedError(Exception):
    """Base of every error; the facts of the message are also attributes of the error.

    Args:
        sentence: The first line, complete in itself.
        facts: Lines below it.
        remedy: What to do about it.
        **attributes: Kept on the error under their own names.

    Example:
        >>> error = SeedbedError("fc.weight: no.", facts=["expected  1"], remedy="Do this.", path="fc.weight")
        >>> print(error)
        fc.weight: no.
        <BLANKLINE>
            expected  1
        <BLANKLINE>
        Do this.
        >>> error.path
        'fc.weight'
    """

    def __init__(self, sentence: str, *, facts: Iterable[str] = (), remedy: str = "", **attributes: Any) -> None:
        facts = list(facts)
        parts = [sentence]
        if facts:
            parts.append("\n".join(f"    {line}".rstrip() for line in facts))
        if remedy:
            parts.append(remedy)
        super().__init__("\n\n".join(parts))
        self.sentence, self.facts, self.remedy = sentence, facts, remedy
        for name, value in attributes.items():
            setattr(self, name, value)

    if TYPE_CHECKING:  # the facts are whatever the raiser gave; a type checker must let them be read

        def __getattr__(self, name: str) -> Any: ...

    def __str__(self) -> str:
        return str(self.args[0])


class InitializerError(SeedbedError, ValueError):
    """An initializer's argument is out of range; raised when the initializer is built."""


class FanError(SeedbedError, ValueError):
    """A fan is needed from a parameter whose axes carry no `in` or no `out` role."""


class RecipeError(SeedbedError, ValueError):
    """A recipe, a rule, an initializer's name or a recipe file cannot be understood."""


class UnmatchedError(SeedbedError, ValueError):
    """Some parameters match no rule; `paths` lists them all."""


class UnusedRuleError(SeedbedError, ValueError):
    """Some rules that are not optional decided no parameter."""


class ModelError(SeedbedError, TypeError):
    """The thing given is not a model, or cannot be handled as one."""


class CaptureError(SeedbedError, RuntimeError):
    """Deferred construction needs a value nobody knows yet."""


class InputError(SeedbedError, TypeError):
    """The inputs given are not ones that the model can take."""


class ShapeError(SeedbedError, ValueError):
    """Two sizes inside the model do not fit; `path` is the layer that found out."""


class UnknownSizeError(SeedbedError, ValueError):
    """Sizes are needed that no input has settled; `paths` lists the parameters."""


class UninitializedError(SeedbedError, RuntimeError):
    """A value was asked of a parameter that has none yet."""


class PlanError(SeedbedError, ValueError):
    """A plan cannot be read, or does not fit the model it is carried out on."""


class RegionError(SeedbedError, IndexError):
    """A region reaches outside its parameter."""


class PathError(SeedbedError, KeyError):
    """No parameter stands at a path; `path` is the one asked for."""


class EngineError(SeedbedError, RuntimeError):
    """The engine asked for is not there."""


class OutputError(SeedbedError, OSError):
    """A file or folder cannot be written; what stood there before still does."""


class CheckpointError(SeedbedError, ValueError):
    """A file is not a sound safetensors checkpoint."""


def columns(rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines whose cells are aligned, two spaces apart."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]


def shown(lines: Sequence[str]) -> list[str]:
    """The first five lines and a count of the rest."""
    if len(lines) <= SHOWN:
        return list(lines)
    return [*lines[:SHOWN], f"... and {len(lines) - SHOWN} more"]


def nearest(name: str, known: Iterable[str], other: Iterable[str] = ()) -> str:
    """A sentence that offers the known names closest to `name`, or `other` ones, or lists what is known."""
    import difflib

    known = sorted(known)
    close: list[str] = []
    for names in (known, sorted(other)):
        by_lower = {k.lower(): k for k in names}
        close = close or [by_lower[k] for k in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    close = close or [k for k in known if name and k.lower().startswith(name.lower())][:3]
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    rest = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return "Known: " + ", ".join(known[:LISTED]) + rest + "." if known else ""


def no_path(owner: str, path: object, known: Iterable[str]) -> PathError:
    """The error of asking for a path at which nothing stands."""
    return PathError(f"{owner}: nothing stands at {path!r}.", remedy=nearest(str(path), known), path=path)


def quoted(value: object) -> str:
    """A value of the user's as Python writes it, of bounded length."""
    try:
        return printable(repr(value))
    except ValueError:  # a whole number of thousands of digits
        return f"a {type(value).__name__} that is too long to print"


def printable(text: str) -> str:
    """A name from a file that nobody vouches for: of one line, of bounded length, without control characters."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters)"


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 parameter`, `2 parameters`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
