"""Where each parameter and buffer of a deferred model comes from: kept on its layer, read by the plan.

When a `deferred()` ends, every layer that was built in it is given a `Note` of what was recorded for its
tensors. The note goes where the layer goes: into copies, other dtypes, other models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from seedbed.frameworks.torch.chains import Steps, steps_of
from seedbed.frameworks.torch.laws import Law, Token, disjoint, seen_through
from seedbed.frameworks.torch.noted import NOTE, Mark, Note, wait
from seedbed.frameworks.torch.record import Event, Geometry, Record, events_of, flips_of
from seedbed.frameworks.torch.replay import described
from seedbed.frameworks.torch.shards import is_sharded
from seedbed.frameworks.torch.wrappers import name_inside
from seedbed.initializers import Chain, Initializer, Keep, Recorded

if TYPE_CHECKING:
    from seedbed.frameworks.torch.capture import Recording

PLAIN = {*vars(nn.Module()), NOTE}
Draws = Callable[[str, int, "tuple[int, ...]"], Any]
"""Gives the numbers of one draw: of a path, its number, and a shape."""


class Filled(NamedTuple):
    """A tensor that is all of its memory, with the initializer that fills it and the path of its numbers."""

    record: Record
    stream: str
    start: Initializer


class Origin(NamedTuple):
    """How one tensor of a deferred model starts.

    Attributes:
        path: Its first path in the model that was built.
        stream: The path whose numbers it is made of.
        start: The initializer; None where nothing was written.
        owners: For each drawing operation of a program, the path that owns it and the number of the draw.
        record: What was recorded.
        known: Of the cells that a program reads, by id, those that are filled by an initializer.
        chained: Likewise those that are held elsewhere and made block by block: it reads what is held there.
        steps: What makes any block of it alone, if that is how it is made.
    """

    path: str
    stream: str
    start: Initializer | None
    owners: Mapping[int, tuple[str, int]]
    record: Record
    known: Mapping[int, Filled] = MappingProxyType({})
    chained: Mapping[int, Steps] = MappingProxyType({})
    steps: Steps | None = None

    def __deepcopy__(self, memo: Any) -> Origin:
        return self


def note(recording: Recording) -> None:
    """Give every layer that was built its note."""
    modules, children, todo = dict[int, nn.Module](), set[int](), [*reversed(recording.modules.values())]
    while todo:  # copies are not registered, and are found below what is
        module = todo.pop()
        if id(module) not in modules:
            modules[id(module)] = module
            below = [m for m in module._modules.values() if m is not None]
            children.update(map(id, below))
            todo += below
    for module in modules.values():
        module.__dict__.setdefault(NOTE, Note())
    for root in [m for i, m in modules.items() if i not in children]:
        Settling(recording, root).settle()
    wait(module.__dict__[NOTE] for module in modules.values())


def tensors_in(module: nn.Module, attribute: str) -> list[torch.Tensor]:
    """The tensors that an attribute of a layer leads to: itself, in lists and tables, in layers inside those."""
    found, seen, todo = [], set(), [vars(module)[attribute]]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, tuple):  # whatever a subclass makes of its length
            todo += [*tuple.__iter__(value)][::-1]
        elif isinstance(value, list):
            todo += [*list.__iter__(value)][::-1]
        elif isinstance(value, dict):
            todo += [*dict.values(value)][::-1]
        elif isinstance(value, nn.Module) and value is not module:
            todo += [v for k, v in reversed(vars(value).items()) if k != NOTE]
    return found


def loose_attributes(module: nn.Module) -> list[str]:
    """Attributes that may lead to tensors, and are not the layer's own tables."""
    return [k for k, v in vars(module).items() if k not in PLAIN and isinstance(v, (torch.Tensor, list, tuple, dict))]


def _places(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """All layers by all their paths, as `named_modules` gives them, which asks itself again at every depth."""
    found, todo = [], [("", root)]
    while todo:
        path, module = todo.pop()
        found.append((path, module))
        before = f"{path}." if path else ""
        held = name_inside(module)
        todo += [
            (path if name == held else before + name, m)
            for name, m in reversed(module._modules.items())
            if m is not None
        ]
    return found


class Settling:
    """Says of each tensor of one model how it starts, and who owns the draws.

    Tensors whose law is known own their draws first; programs then start from them.
    """

    def __init__(self, recording: Recording, root: nn.Module) -> None:
        self.recording = recording
        self.places = [(path, m) for path, m in _places(root) if NOTE in m.__dict__]
        self.records: dict[int, tuple[str, Record]] = {}
        self.first: dict[int, Origin] = {}
        self.owned: dict[Token, tuple[str, int]] = {}
        self.filled: dict[int, Filled] = {}
        self.chained: dict[int, Steps] = {}

    def settle(self) -> None:
        """Write the notes of all layers."""
        own = list(self._own())
        loose = list(self._loose())
        paths: dict[int, list[str]] = {}
        for path, module in self.places:
            paths.setdefault(id(module), []).append(path)
        for _, module in self.places:
            mine = module.__dict__[NOTE]
            mine.prefix, *_ = mine.paths = tuple(paths[id(module)])
        for path, tensor in [*((p, t) for _, _, p, t in own), *((p, t) for *_, named in loose for p, t in named)]:
            record = self._record(tensor)
            if record is not None and id(tensor) not in self.records:
                self.records[id(tensor)] = path, record
        apart = set(_apart([r for _, r in self.records.values()]))
        laws = {i: law for i, (_, r) in self.records.items() if (law := _law(r)) is not None}
        for i, law in laws.items():
            if all(len(t) == 1 or t in apart for t in law.tokens):
                self._by_law(i, law)
        for i, (_, record) in self.records.items():
            if i not in self.first and (steps := steps_of(record, self.filled)):
                self.chained[id(record.cell)] = steps
        for i, (path, record) in self.records.items():
            if i not in self.first:
                self.first[i] = self._by_program(path, record)
        for _, module in self.places:
            module.__dict__[NOTE].fresh = True
        marked = set[int]()
        for module, leaf, _, tensor in own:
            mine, origin = module.__dict__[NOTE], self.first.get(id(tensor))
            if is_sharded(tensor):
                mine.laid += (leaf,)
            elif origin is not None:
                mine.origins[leaf] = origin
                mine.homes.pop(leaf, None)
                if tensor.is_meta and not is_lazy(tensor) and not tensor.is_inference():
                    if id(tensor) not in marked:
                        tensor.__dict__[NOTE] = Mark(id(tensor), tensor._version, origin, mine.prefix, mine.paths)
                        marked.add(id(tensor))
                    mine.built[leaf] = tensor
        for module, attribute, named in loose:
            module.__dict__[NOTE].loose[attribute] = tuple(self.first.get(id(t)) for _, t in named)

    def _own(self) -> Iterator[tuple[nn.Module, str, str, torch.Tensor]]:
        for kind in ("_parameters", "_buffers"):
            for path, module in self.places:
                for leaf, tensor in getattr(module, kind).items():
                    if tensor is not None:
                        yield module, leaf, f"{path}.{leaf}" if path else leaf, tensor

    def _loose(self) -> Iterator[tuple[nn.Module, str, list[tuple[str, torch.Tensor]]]]:
        for path, module in self.places:
            for attribute in loose_attributes(module):
                tensors = tensors_in(module, attribute)
                whole = f"{path}.{attribute}" if path else attribute
                if tensors:
                    yield module, attribute, [(f"{whole}.{n}" if n else whole, t) for n, t in enumerate(tensors)]

    def _record(self, tensor: torch.Tensor) -> Record | None:
        if is_lazy(tensor) or tensor.layout is not torch.strided:
            return None
        cell = self.recording.cell_of(tensor)
        if cell is None:  # it has memory of its own already
            return None if tensor.is_meta else Record(None, Geometry.of(tensor), tensor.dtype, str(tensor.device))
        return Record(cell, Geometry.of(tensor), tensor.dtype, self.recording.device_of(tensor), flips_of(tensor))

    def _by_law(self, i: int, law: Law) -> None:
        path, record = self.records[i]
        start = law.initializer()
        assert record.cell is not None
        stream = self._stream(path, law) if start is not None else ""
        if start is None or not stream:
            return
        self.first[i] = Origin(path, stream, start, {}, record)
        if law.tokens and record.geometry.fills(record.cell.nbytes, record.dtype.itemsize):
            self.filled[id(record.cell)] = Filled(record, stream, start)

    def _stream(self, path: str, law: Law) -> str:
        """Whose numbers a law's are; empty where they are not the first draw of one parameter."""
        theirs = [self.owned[t] for t in law.tokens if t in self.owned]
        if not theirs:
            self.owned.update(dict.fromkeys(law.tokens, (path, 0)))
            return path
        same = len(theirs) == len(law.tokens) and len(set(theirs)) == 1
        return theirs[0][0] if same and theirs[0][1] == 0 else ""

    def _by_program(self, path: str, record: Record) -> Origin:
        cell = record.cell
        if cell is None:
            return Origin(path, path, Keep(values=True), {}, record)
        if cell.written is False:
            return Origin(path, path, None, {}, record)
        law = seen_through(record.ref)
        if law is not None and law.start is None and law.initializer() is None and _known(law):
            return Origin(path, path, None, {}, record)
        owners = {}
        count = sum(owner == path for owner, _ in set(self.owned.values()))
        for event in events_of(cell, self.filled):
            if event.random:
                if (event.index,) not in self.owned:
                    self.owned[(event.index,)] = (path, count)
                    count += 1
                owners[event.index] = self.owned[(event.index,)]
        text, digest = described(cell), _digest(record)
        steps = self.chained.get(id(cell))
        if steps is not None and steps.record[:3] == record[:3]:
            return Origin(path, path, Chain(text=text, digest=digest), owners, record, steps=steps)
        held = self.filled | self.chained
        read = {id(cell), *(i for e in events_of(cell, held) for i in _read(e))}
        known = {i: self.filled[i] for i in read & self.filled.keys()}
        chained = {i: self.chained[i] for i in read & self.chained.keys()}
        return Origin(path, path, Recorded(text=text, digest=digest), owners, record, known, chained)


def _read(event: Event) -> Iterator[int]:
    for ref in event.refs():
        yield id(ref.cell)
    for before, _ in event.writes:
        yield id(before)


def _law(record: Record) -> Law | None:
    return seen_through(record.ref) if record.cell is not None else None


def _known(law: Law) -> bool:
    """Whether all that was written to a part is known, so that the rest was not."""
    return all(part.start is not None for _, part in law.boxes)


def _apart(records: list[Record]) -> Iterator[Token]:
    """Parts of draws that nothing else has a part of: they may have numbers of their own."""
    taken: dict[int, set[Token]] = {}
    for record in {(id(r.cell), r.geometry, r.dtype): r for r in records if r.cell is not None}.values():
        law = _law(record)
        assert record.cell is not None
        if law is not None and law.initializer() is not None:
            tokens = set(law.tokens)
        else:
            tokens = {(e.index,) for e in events_of(record.cell) if e.random}
        for token in tokens:
            taken.setdefault(token[0], set()).add(token)
    for tokens in taken.values():
        parts = [t[1] for t in tokens if len(t) == 2]
        if (len(parts) == len(tokens) and (len(parts) == 1 or disjoint(parts))) or len(tokens) == 1:
            yield from tokens


def _digest(record: Record) -> str:
    digest = hashlib.blake2b(repr(record.geometry).encode(), digest_size=8)
    for event in events_of(record.cell):
        plainly = [a if isinstance(a, (int, float, str, bool)) else type(a).__name__ for a in event.args]
        digest.update(f"{event.name} {plainly} {[out[2] for out in event.outs]}".encode())
        if event.taken is not None:
            digest.update(event.taken.drawn.states[0].numpy().tobytes() + bytes([event.taken.number % 256]))
    return digest.hexdigest()
