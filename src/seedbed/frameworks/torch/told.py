"""What the notes of a deferred model tell: where each tensor comes from, and the programs that make it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from seedbed.errors import CaptureError
from seedbed.fill import storage_dtype
from seedbed.frameworks.torch.chains import Steps
from seedbed.frameworks.torch.mismatch import plain
from seedbed.frameworks.torch.noted import Mark, Note, note_of, since
from seedbed.frameworks.torch.origins import Draws, Origin, tensors_in
from seedbed.frameworks.torch.record import Event, Record, events_of, flipped
from seedbed.frameworks.torch.replay import carry_out, of_numpy, tensor_on
from seedbed.frameworks.torch.resets import Record as Start
from seedbed.frameworks.torch.wrappers import named_modules, named_tensors
from seedbed.initializers import Initializer, Keep, Recorded

UNWRITTEN = "torch.empty, which nothing"


class Program:
    """Carries out what was recorded of one tensor, for the spine."""

    def __init__(self, origin: Origin, renamed: Callable[[str], str]) -> None:
        self.origin, self.renamed, self.device = origin, renamed, origin.record.device

    def __call__(self, dtype: str, draws: Draws) -> Any:
        """The whole array, in `dtype`; bfloat16 and float8 as their bits. Of a chain, a function of blocks."""

        def held(made: torch.Tensor) -> np.ndarray[Any, Any]:
            made, name = made.to(getattr(torch, dtype)).contiguous(), str(storage_dtype(dtype))
            return (made if name == dtype else made.view(getattr(torch, name))).numpy()

        if self.origin.steps is None:
            return held(self.tensor(draws))
        block = self._block(self.origin.steps, draws)
        return lambda numbers: held(torch.stack([block(int(n)) for n in numbers]))

    def _block(self, steps: Steps, draws: Draws) -> Callable[[int], torch.Tensor]:
        return steps.starting(
            lambda event, shape: self._draw_for(event, shape, draws),
            lambda filled: draws(self.renamed(filled.stream), 0, filled.record.geometry.size),
        )

    def _draw_for(self, event: Event, shape: tuple[int, ...], draws: Draws) -> Any:
        stream, number = self.origin.owners[event.index]
        return draws(self.renamed(stream), number, shape)

    def tensor(self, draws: Draws, *, scratch: bool = False) -> torch.Tensor:
        """The whole tensor, laid out as it was recorded; `scratch` memory need not be written."""
        record, known, path = self.origin.record, {}, self.origin.path
        if _draws(self.origin):
            made = torch.empty_strided(record.geometry.size, record.geometry.stride, dtype=record.dtype)
            return self._filled(made, self.origin.stream, self.origin.start, draws)
        if self.origin.steps is not None:
            return self.origin.steps.whole(self._block(self.origin.steps, draws))
        for i, steps in self.origin.chained.items():
            known[i] = steps.whole(self._block(steps, draws)).untyped_storage()
        for i, filled in self.origin.known.items():
            storage = known[i] = torch.UntypedStorage(filled.record.cell.nbytes)
            tensor = tensor_on(storage, filled.record.geometry, filled.record.dtype)
            self._filled(tensor, filled.stream, filled.start, draws)
        draw_for = functools.partial(self._draw_for, draws=draws)
        made = [
            tensor_on(carry_out(record.cell, draw_for, known, poison=poison, path=path), record.geometry, record.dtype)
            for poison in ((0.0, math.nan) if _unwritten(record) and not scratch else (0.0,))
        ]
        if not all(_same_bits(a, made[0]) for a in made):
            raise CaptureError(
                f"{path}: holds memory of torch.empty that nothing writes.",
                facts=[f"made  {_unwritten(record)}"],
                remedy="Write all of it in the constructor, or give it a rule.",
                path=path,
            )
        return flipped(made[0], record.flips).resolve_conj().resolve_neg()

    def _filled(self, tensor: torch.Tensor, stream: str, start: Initializer, draws: Draws) -> torch.Tensor:
        draw = draws(self.renamed(stream), 0, tuple(tensor.shape))
        return tensor.copy_(of_numpy(draw.filled(start, plain(tensor.dtype)), tensor.dtype))


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    one, two = (t.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8) for t in (a, b))
    return torch.equal(one, two)


def _unwritten(record: Record) -> str:
    """Where memory that is not filled was asked for, if it was."""
    return next((str(e.site) for e in events_of(record.cell) if "empty" in e.name), "")


class Told(NamedTuple):
    """What a note tells of a path."""

    start: Start
    origin: str
    stream: str
    copied: str


def told(model: nn.Module) -> dict[str, Told]:
    """What notes tell of a model's parameters and buffers."""
    found: dict[str, Told] = {}
    base = _base(model)
    copies: dict[int, tuple[Told, torch.Tensor]] = {}
    for prefix, module in named_modules(model, remove_duplicate=False):
        noted = note_of(module)
        for leaf in noted.laid if noted and noted.fresh else ():
            path = f"{prefix}.{leaf}" if prefix else leaf
            found[path] = Told(
                Start(None), "laid out inside deferred(), where nothing is recorded of it; do it after", path, ""
            )
        for leaf, origin in noted.origins.items() if noted else ():
            tensor = module._parameters.get(leaf)
            tensor = module._buffers.get(leaf) if tensor is None else tensor
            if tensor is None or is_lazy(tensor) or tuple(tensor.shape) != origin.record.geometry.size:
                continue
            path = f"{prefix}.{leaf}" if prefix else leaf
            if done := since(noted, leaf, tensor):
                found[path] = Told(Start(None), done, path, "")
                continue
            home = noted.homes.get(leaf)
            renamed = moved(home or noted, (base + prefix).rstrip("."))
            here = _told(origin, path, renamed if home is None else _but({origin.path: path}, renamed))
            earlier, same = copies.setdefault(id(origin), (here, tensor))
            if same is not tensor and _draws(origin):  # copied after it was built
                here = earlier._replace(copied=earlier.stream)
            found[path] = here
    return {path: t._replace(stream=t.stream if t.stream != path else "") for path, t in found.items()}


def told_of_both(model: nn.Module, twin: nn.Module) -> dict[str, Told]:
    """What notes tell of a model whose open sizes were settled on a twin; what was done to it since, its own tensors tell."""
    settled, own = dict(named_tensors(twin)), dict(named_tensors(model))
    return told(twin) | {p: t for p, t in told(model).items() if p in settled and settled[p].shape == own[p].shape}


def _base(model: nn.Module) -> str:
    mine = note_of(model)
    return f"{mine.prefix}." if mine is not None and mine.prefix else ""


def _draws(origin: Origin) -> bool:
    return origin.start is not None and not isinstance(origin.start, (Keep, Recorded))


def moved(noted: Note | Mark, now: str) -> Callable[[str], str]:
    """Where paths of the model that was built are, from the paths that one layer had and the one it has."""
    was = now if now in noted.paths else noted.prefix
    old, new = was.split(".") if was else [], now.split(".") if now else []
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()

    def renamed(path: str) -> str:
        parts = path.split(".")
        kept = parts[len(old) :] if parts[: len(old)] == old else parts
        return ".".join([*new, *kept])

    return renamed


def _but(names: Mapping[str, str], renamed: Callable[[str], str]) -> Callable[[str], str]:
    return lambda path: names.get(path) or renamed(path)


def _told(origin: Origin, path: str, renamed: Callable[[str], str]) -> Told:
    cell, start = origin.record.cell, origin.start
    if cell is None:
        return Told(Start(start), "as it was given", path, "")
    site = cell.event.site
    why = str(site)
    if cell.over is not None and cell.over.who != site.who:
        why += f", over {cell.over.who}"
    if start is None:
        why += f": {UNWRITTEN} {'' if 'empty' in cell.event.name else 'fully '}writes"
        return Told(Start(None), why, path, "")
    if isinstance(start, Recorded):
        start = dataclasses.replace(start, function=Program(origin, renamed))
    stream = renamed(origin.stream)
    return Told(Start(start), why, stream, stream if origin.stream != origin.path else "")


def device_of(module: nn.Module, leaf: str) -> str:
    """The device that a layer's constructor asked for, for one of its tensors."""
    noted = note_of(module)
    return noted.origins[leaf].record.device if noted and leaf in noted.origins else "cpu"


def loose_tensors(model: nn.Module) -> list[tuple[torch.Tensor, Program]]:
    """The tensors without memory that layers hold beside their parameters and buffers."""
    found: dict[int, tuple[torch.Tensor, Program]] = {}
    base = _base(model)
    for path, module in named_modules(model):
        noted = note_of(module)
        for attribute, known in noted.loose.items() if noted else ():
            tensors = tensors_in(module, attribute) if attribute in vars(module) else []
            for tensor, origin in zip(tensors, known, strict=False):
                same = origin is not None and tuple(tensor.shape) == origin.record.geometry.size
                if same and tensor.is_meta and not is_lazy(tensor):
                    found.setdefault(id(tensor), (tensor, Program(origin, moved(noted, (base + path).rstrip(".")))))
    return list(found.values())
