"""What layers and tensors remember of a `deferred()`, and what is done to them between it and the start.

Whoever lays a model out over devices puts tensors of his own in the place of those that were built, and
says nothing of which. So while a model waits for its start, what is put into layers is followed.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.nn.parameter import is_lazy

from seedbed.frameworks.torch.shards import is_sharded

if TYPE_CHECKING:
    from seedbed.frameworks.torch.origins import Origin

NOTE = "_seedbed_note"
WRITTEN = "written to after deferred(), where nothing is recorded; do it inside, or after the start"
REPLACED = "replaced after deferred(), where nothing is recorded; do it inside, or after the start"


class Mark(NamedTuple):
    """What a tensor remembers that was built.

    Attributes:
        built: Its id: attributes go with what is made of it.
        version: How often it was written to.
        origin: How it starts.
        prefix: The first path of the layer it was built in.
        paths: All paths of that layer.
    """

    built: int
    version: int
    origin: Origin
    prefix: str
    paths: tuple[str, ...]

    def __reduce__(self) -> Any:
        return tuple, ((),)

    def __deepcopy__(self, memo: Any) -> Mark:
        return self


@dataclass(eq=False)
class Note:
    """What a layer remembers of its construction.

    Attributes:
        prefix: The layer's first path in the model that was built.
        paths: All its paths there.
        origins: By the names of its parameters and buffers.
        homes: The marks of those among them that were built in another layer.
        loose: Of the tensors in its other attributes, in the order in which `tensors_in` finds them.
        fresh: Whether its tensors are those that were built, neither copied nor started.
        built: Those tensors by name, without memory, or what was put in their place.
        laid: Names of the tensors that were laid out over devices while it was built.
    """

    prefix: str = ""
    paths: tuple[str, ...] = ()
    origins: dict[str, Origin] = field(default_factory=dict)
    homes: dict[str, Mark] = field(default_factory=dict)
    loose: dict[str, tuple[Origin | None, ...]] = field(default_factory=dict)
    fresh: bool = False
    built: dict[str, torch.Tensor] = field(default_factory=dict)
    laid: tuple[str, ...] = ()

    def __reduce__(self) -> Any:
        return Note, ()  # a file holds values, not how they came to be

    def __deepcopy__(self, memo: Any) -> Note:
        return Note(self.prefix, self.paths, dict(self.origins), dict(self.homes), dict(self.loose))


def note_of(module: nn.Module) -> Note | None:
    """A layer's note."""
    return module.__dict__.get(NOTE)


def mark_of(tensor: torch.Tensor) -> Mark | None:
    """The mark of a tensor that was built; of what was made of one, none."""
    mark = tensor.__dict__.get(NOTE)
    return mark if isinstance(mark, Mark) and mark.built == id(tensor) else None


def since(noted: Note, leaf: str, tensor: torch.Tensor) -> str:
    """What was done to a tensor after the `deferred()` it was built in, where nothing is recorded."""
    record = noted.origins[leaf].record
    if not noted.fresh or record.cell is None or not tensor.is_meta or tensor.is_inference():
        return ""
    own: torch.Tensor | None = tensor
    if is_sharded(tensor):  # laying out writes to none, and puts its own in the place of the one that was built
        if tensor._version:
            return WRITTEN
        own = noted.built.get(leaf)
    if own is None:
        return ""
    mark = mark_of(own)
    if mark is not None:
        return WRITTEN if own._version != mark.version else ""
    moved = own.dtype != record.dtype or own.stride() != record.geometry.stride  # as `.to()` does with buffers
    return "" if moved else REPLACED


_lock = threading.RLock()
_waiting: weakref.WeakSet[Note] = weakref.WeakSet()
_handles: list[Any] = []


def wait(notes: Iterable[Note]) -> None:
    """Follow what is put into layers until models of these notes are started.

    What PyTorch calls for it stays: taken away, it would break the loops of threads that build models meanwhile.
    """
    with _lock:
        _waiting.update(note for note in notes if note.built)
        if _waiting and not _handles:
            _handles.append(hooks.register_module_parameter_registration_hook(_follow))
            _handles.append(hooks.register_module_buffer_registration_hook(_follow))


def settled_now(model: nn.Module) -> None:
    """Forget that a model's tensors are those that were built: they have been started."""
    with _lock:
        for module in model.modules():
            if (noted := note_of(module)) is not None:
                for tensor in noted.built.values():
                    tensor.__dict__.pop(NOTE, None)
                noted.fresh = False
                noted.built.clear()
                _waiting.discard(noted)


def _follow(module: nn.Module, leaf: str, tensor: torch.Tensor | None) -> None:
    if not _waiting:
        return
    noted = note_of(module)
    mark = mark_of(tensor) if tensor is not None else None
    if tensor is None or (noted is None and mark is None) or is_lazy(tensor) or is_sharded(tensor):
        return
    if mark is not None and tensor.is_meta:
        if noted is None:
            noted = module.__dict__[NOTE] = Note(fresh=True)
        if noted.origins.get(leaf) is not mark.origin:
            noted.origins[leaf], noted.homes[leaf] = mark.origin, mark
        noted.built[leaf] = tensor
        wait([noted])
    elif noted is not None and leaf in noted.built:
        if tensor.is_meta:
            noted.built[leaf] = tensor.detach()
        else:
            del noted.built[leaf]
