"""Where each parameter and buffer of a deferred model comes from: kept on its layer, read by the plan.

When a `deferred()` ends, every layer that was built in it is given a `Note` of what was recorded for its
tensors. The note goes where the layer goes: into copies, other dtypes, other models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from seedbed.fill import storage_dtype
from seedbed.frameworks.torch.laws import Law, Token, seen_through
from seedbed.frameworks.torch.record import Event, Geometry, Record, Ref, events_of
from seedbed.frameworks.torch.replay import carry_out, described, tensor_on
from seedbed.frameworks.torch.resets import Record as Start
from seedbed.initializers import Initializer, Recorded

if TYPE_CHECKING:
    from seedbed.frameworks.torch.capture import Recording

NOTE = "_seedbed_note"


class Origin(NamedTuple):
    """How one tensor of a deferred model starts.

    Attributes:
        path: Its first path in the model that was built.
        stream: The path whose numbers it is made of.
        start: The initializer; None where nothing was written.
        owners: For each drawing operation of a program, the path that owns it and the number of the draw.
        record: What was recorded.
    """

    path: str
    stream: str
    start: Initializer | None
    owners: Mapping[int, tuple[str, int]]
    record: Record

    def __deepcopy__(self, memo: Any) -> Origin:
        return self


@dataclass
class Note:
    """What a layer remembers of its construction.

    Attributes:
        prefix: The layer's path in the model that was built.
        origins: By the names of its parameters and buffers.
        loose: Tensors it holds that are neither, by attribute.
    """

    prefix: str = ""
    origins: dict[str, Origin] = field(default_factory=dict)
    loose: dict[str, Record] = field(default_factory=dict)

    def __reduce__(self) -> Any:
        return Note, ()  # a file holds values, not how they came to be

    def __deepcopy__(self, memo: Any) -> Note:
        return Note(self.prefix, dict(self.origins), dict(self.loose))


def note_of(module: nn.Module) -> Note | None:
    """A layer's note."""
    return module.__dict__.get(NOTE)


def note(recording: Recording) -> None:
    """Give every layer that was built its note."""
    modules = {id(m): m for seen in recording.modules.values() for m in seen.modules()}  # copies are not registered
    children = {id(c) for m in modules.values() for c in m.children()}
    for module in modules.values():
        module.__dict__.setdefault(NOTE, Note())
    for module in modules.values():
        mine = module.__dict__[NOTE]
        own = {id(t) for t in (*module._parameters.values(), *module._buffers.values())}
        loose = {
            k: _record(recording, v)
            for k, v in vars(module).items()
            if isinstance(v, torch.Tensor) and id(v) not in own and recording.cell_of(v)
        }
        mine.loose = {k: r for k, r in loose.items() if r is not None}
    for root in [m for i, m in modules.items() if i not in children]:
        _settle(recording, root)


def _record(recording: Recording, tensor: torch.Tensor) -> Record | None:
    cell = None if is_lazy(tensor) else recording.cell_of(tensor)
    return cell and Record(cell, Geometry.of(tensor), tensor.dtype, recording.device_of(tensor))


def _settle(recording: Recording, root: nn.Module) -> None:
    """Say of each tensor below `root` how it starts, and who owns the draws."""
    first: dict[int, Origin] = {}
    owned: dict[Token, tuple[str, int]] = {}
    places = [(path, m) for path, m in root.named_modules(remove_duplicate=False)]
    for path, module in reversed(places):  # the first path of a layer is the one that stays
        if (mine := note_of(module)) is not None:
            mine.prefix = path
    for kind in ("_parameters", "_buffers"):
        for path, module in places:
            mine = note_of(module)
            for leaf, tensor in getattr(module, kind).items():
                if mine is None or tensor is None:
                    continue
                record = _record(recording, tensor)
                if record is None:
                    continue
                here = f"{path}.{leaf}" if path else leaf
                if id(tensor) not in first:
                    first[id(tensor)] = _origin(here, record, owned)
                mine.origins[leaf] = first[id(tensor)]


def _origin(path: str, record: Record, owned: dict[Token, tuple[str, int]]) -> Origin:
    cell = record.cell
    if cell.written is False:
        return Origin(path, path, None, {}, record)
    law = seen_through(Ref(cell, record.geometry, record.dtype))
    start = law.initializer() if law is not None else None
    if law is not None and start is not None:
        stream = _stream(path, law, owned)
        if stream:
            return Origin(path, stream, start, {}, record)
    if law is not None and law.start is None:  # every write is known, and they do not cover it
        return Origin(path, path, None, {}, record)
    owners = {}
    count = sum(owner == path for owner, _ in owned.values())
    for event in events_of(cell):
        if event.random:
            if (event.index,) not in owned:
                owned[(event.index,)] = (path, count)
                count += 1
            owners[event.index] = owned[(event.index,)]
    return Origin(path, path, Recorded(text=described(cell), digest=_digest(record)), owners, record)


def _stream(path: str, law: Law, owned: dict[Token, tuple[str, int]]) -> str:
    """Whose numbers a law's are; empty where they are not the first draw of one parameter."""
    theirs = [owned[t] for t in law.tokens if t in owned]
    if not theirs:
        owned.update(dict.fromkeys(law.tokens, (path, 0)))
        return path
    same = len(theirs) == len(law.tokens) and len(set(theirs)) == 1
    return theirs[0][0] if same and theirs[0][1] == 0 else ""


def _digest(record: Record) -> str:
    digest = hashlib.blake2b(repr(record.geometry).encode(), digest_size=8)
    for event in events_of(record.cell):
        plainly = [a if isinstance(a, (int, float, str, bool)) else type(a).__name__ for a in event.args]
        digest.update(f"{event.name} {plainly} {[g for *_, g in event.outs]}".encode())
    return digest.hexdigest()


class Program:
    """Carries out what was recorded of one tensor, for the spine."""

    def __init__(self, origin: Origin, shift: str) -> None:
        self.origin, self.shift = origin, shift

    def __call__(self, dtype: str, draws: Callable[[str, int, tuple[int, ...]], Any]) -> np.ndarray[Any, Any]:
        """The whole array, in `dtype`; bfloat16 and float8 as their bits."""
        record = self.origin.record

        def draw_for(event: Event, shape: tuple[int, ...]) -> Any:
            stream, number = self.origin.owners[event.index]
            return draws(self.shift + stream, number, shape)

        storage = carry_out(record.cell, draw_for)
        made = tensor_on(storage, record.geometry, record.dtype).to(getattr(torch, dtype)).contiguous()
        held = str(storage_dtype(dtype))
        return (made if held == dtype else made.view(getattr(torch, held))).numpy()


class Told(NamedTuple):
    """What a note tells of a path."""

    start: Start
    origin: str
    stream: str
    copied: str


def told(model: nn.Module) -> dict[str, Told]:
    """What notes tell of a model's parameters and buffers."""
    found: dict[str, Told] = {}
    mine = note_of(model)
    base = f"{mine.prefix}." if mine is not None and mine.prefix else ""
    for prefix, module in model.named_modules(remove_duplicate=False):
        noted = note_of(module)
        for leaf, origin in noted.origins.items() if noted else ():
            tensor = module._parameters.get(leaf)
            tensor = module._buffers.get(leaf) if tensor is None else tensor
            if tensor is None or is_lazy(tensor) or tuple(tensor.shape) != origin.record.geometry.size:
                continue
            path = f"{prefix}.{leaf}" if prefix else leaf
            found[path] = _told(origin, path, base)
    return found


def _told(origin: Origin, path: str, base: str) -> Told:
    whole = base + path
    inside = whole == origin.path or whole.endswith("." + origin.path)
    shift = whole[: len(whole) - len(origin.path)] if inside else ""
    stream = shift + origin.stream if inside else whole
    start, site = origin.start, origin.record.cell.event.site
    why = str(site)
    if origin.record.cell.over is not None and origin.record.cell.over.who != site.who:
        why += f", over {origin.record.cell.over.who}"
    if start is None:
        return Told(
            Start(None),
            f"{why}: torch.empty, which nothing {'' if origin.record.cell.written is False else 'fully '}writes",
            "",
            "",
        )
    if isinstance(start, Recorded):
        start = Recorded(text=start.text, digest=start.digest, function=Program(origin, shift))
    copied = stream if origin.stream != origin.path and inside else ""
    return Told(Start(start), why, stream if stream != path else "", copied)


def device_of(model: nn.Module, path: str) -> str:
    """The device that a path's constructor asked for."""
    prefix, _, leaf = path.rpartition(".")
    noted = note_of(model.get_submodule(prefix))
    return noted.origins[leaf].record.device if noted and leaf in noted.origins else "cpu"


def revive(model: nn.Module) -> None:
    """Give memory to the tensors that layers hold beside their parameters and buffers."""
    real: dict[int, torch.Tensor] = {}
    for module in model.modules():
        noted = note_of(module)
        for name, origin in noted.origins.items() if noted else ():
            tensor = module._parameters.get(name)
            tensor = module._buffers.get(name) if tensor is None else tensor
            if tensor is not None and not tensor.is_meta:
                real[id(origin.record.cell)] = tensor
    for _, module, name, record in _loose(model):
        owner = real.get(id(record.cell))
        if owner is not None:
            made = torch.as_strided(owner.detach(), *record.geometry)
        else:
            made = tensor_on(carry_out(record.cell, None), record.geometry, record.dtype)
        setattr(module, name, made)


def _loose(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Record]]:
    for path, module in model.named_modules():
        noted = note_of(module)
        for name, record in noted.loose.items() if noted else ():
            value = vars(module).get(name)
            if isinstance(value, torch.Tensor) and value.is_meta:
                yield path, module, name, record


def all_noted(module: nn.Module) -> bool:
    """Whether a layer's own tensors all have their origins in its note."""
    noted = note_of(module)
    own = [n for d in (module._parameters, module._buffers) for n, t in d.items() if t is not None]
    return noted is not None and all(n in noted.origins for n in own)
