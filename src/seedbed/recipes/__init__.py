"""Recipes by name: one small module each, with its source.

A module offers `recipe(specs) -> Recipe`; specs tell it what it needs to know of the model, such as
how many blocks there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seedbed.errors import RecipeError, nearest
from seedbed.initializers import BY_NAME
from seedbed.recipe import Recipe
from seedbed.recipes import gpt2, scaled
from seedbed.spec import Specs

NAMED: Mapping[str, Callable[[Specs], Recipe]] = {
    "gpt2": gpt2.recipe,
    "he": scaled.he,
    "lecun": scaled.lecun,
    "xavier": scaled.xavier,
}


def recipe_of(value: Any, specs: Specs) -> Recipe | None:
    """A recipe from all that `recipe=` may be.

    Raises:
        RecipeError: The name is unknown, or the file cannot be read or understood.

    Example:
        >>> recipe_of("he", Specs(())).name
        'he'
        >>> print(recipe_of("Zeros", Specs(())))
        recipe 'recipe'
          1  '*' -> Zeros()
    """
    if value is None:
        return None
    if isinstance(value, str) and value in NAMED:
        return NAMED[value](specs)
    if isinstance(value, (str, os.PathLike)) and value not in BY_NAME:
        return read(value)
    return Recipe.of(value)


def read(path: str | os.PathLike[str]) -> Recipe:
    """A recipe from a TOML or JSON file."""
    file = Path(path)
    if file.suffix not in (".toml", ".json"):
        raise RecipeError(
            f"Unknown recipe {str(path)!r}.",
            remedy=f"{nearest(str(path), NAMED, BY_NAME)}\n"
            "Give a name, a file that ends in .toml or .json, or, on the command line, FILE.py:NAME.",
            name=str(path),
        )
    try:
        text = file.read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it is not UTF-8 text"
        raise RecipeError(f"{file}: the recipe cannot be read: {reason}.", path=str(file)) from None
    read_as = Recipe.from_toml if file.suffix == ".toml" else Recipe.from_json
    return read_as(text, source=str(file))
