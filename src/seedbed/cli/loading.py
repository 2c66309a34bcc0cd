"""What a command line names: a model in a file or a package, built without memory."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import typer

from seedbed.errors import ModelError, nearest
from seedbed.frameworks import NAMES, loaded


class _Imported(BaseException):
    """A framework is about to be imported, by code that is not building in its `deferred()`."""


class _Stop:
    """A framework's own loader, which does not load it yet."""

    def __init__(self, loader: Any, watch: _Watch) -> None:
        self.loader, self.watch = loader, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> None:
        """As any module."""

    def exec_module(self, module: ModuleType) -> None:
        self.watch.fired = module.__name__
        raise _Imported(module.__name__)


class _Watch(MetaPathFinder):
    """Finds frameworks like everything else, and stops at the first that is really imported.

    Attributes:
        fired: That framework, also where the function has caught what stopped it.
    """

    def __init__(self, known: Collection[str]) -> None:
        self.known, self.fired = known, ""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        watched = fullname in NAMES.values() and fullname not in self.known
        spec = PathFinder.find_spec(fullname, path) if watched else None
        if spec is not None:
            spec.loader = _Stop(spec.loader, self)  # type: ignore[assignment]
        return spec

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch."""
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)


def model_of(text: str, real: bool) -> Any:
    """The model that a name stands for; what makes one is called, without memory unless `real`.

    Raises:
        ModelError: There is no such thing, or it needs arguments.
    """
    found = named(text)
    if not callable(found) or any(f.owns(found) for f in loaded()):
        return found
    needed = _needed(found)
    if needed:
        raise ModelError(
            f"{text}: is called without arguments, and needs {' and '.join(needed)}.",
            remedy="Write a function without arguments that returns the model, and give its name.",
        )
    tried: set[str] = set()  # frameworks that are there by now, or cannot be
    while True:
        watch = _Watch(NAMES.values() if real else tried)
        made: Any = None
        with ExitStack() as stack:
            for framework in loaded() if not real else []:
                stack.enter_context(framework.deferred())
            stack.enter_context(watch.on())
            try:
                made = found()
            except (Exception, SystemExit, _Imported) as error:  # the user's own code: its own traceback is what helps
                if not watch.fired:
                    hint = (
                        ""
                        if real
                        else " It was built without memory; if it reads values while it is built, add --real."
                    )
                    _own_traceback(error, text, hint)
        if not watch.fired:
            return made
        tried.add(watch.fired)  # by the function itself: it is called again, when the framework is there
        with suppress(Exception):  # one that is broken is the function's own to meet
            importlib.import_module(watch.fired)


def _needed(function: Callable[..., Any]) -> list[str]:
    """Arguments without which a function cannot be called."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature: the call itself finds out
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [f"`{p.name}`" for p in parameters if p.default is p.empty and p.kind not in optional]


def named(text: str) -> Any:
    """What FILE.py:NAME or package.module:NAME is.

    Raises:
        ModelError: There is no such thing.
    """
    source, colon, name = text.rpartition(":")
    if not colon or not source or not name:
        raise ModelError(f"{text!r}: must be FILE.py:NAME or package.module:NAME.")
    found: Any = _module(source)
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n in vars(found) if not n.startswith("_")] if hasattr(found, "__dict__") else []
            raise ModelError(f"{source}: has no name {part!r}.", remedy=nearest(part, known))
        found = getattr(found, part)
    return found


def _module(source: str) -> ModuleType:
    file = Path(source)
    try:
        if file.suffix == ".py" or "/" in source:
            if not file.is_file() or file.suffix != ".py":
                raise ModelError(f"{source}: {'is not a Python file' if file.exists() else 'there is no such file'}.")
            return _run(file.resolve())
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(source)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code: its own traceback is what helps
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{source}.".startswith(f"{missing}."):
            raise ModelError(f"{source}: there is no such module.") from None
        _own_traceback(error, source)


def _run(file: Path) -> ModuleType:
    """The module that a file is, run once; under another name where its own is that of another module."""
    there = sys.modules.get(file.stem)
    if there is not None and getattr(there, "__file__", None) == str(file):
        return there
    name = f"{file.stem}_{file.parent.name}" if there is not None else file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(file.parent))
    spec.loader.exec_module(module)
    return module


def _own_traceback(error: BaseException, source: str, hint: str = "") -> NoReturn:
    """Show the traceback of the user's code without our own frames, and leave."""
    frames = error.__traceback__
    ours = (str(Path(__file__)), "<frozen importlib", str(Path(importlib.__file__)))
    while frames and frames.tb_frame.f_code.co_filename.startswith(ours):
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames)
    typer.echo(f"\nError: {source}: its own code failed, as shown above.{hint}", err=True)
    raise typer.Exit(2)
