"""Deferred construction: unmodified models built without memory, all that their constructors do recorded.

Inside `deferred()` every tensor that is made is a meta tensor, and a `TorchDispatchMode` notes what is
written to it. Code that looks sees the device it asked for; code that reads a value gets it, worked out
for real, unless it was drawn at random.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.utils import _pytree as pytree
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from seedbed.errors import CaptureError
from seedbed.frameworks.torch import diverted, origins, record
from seedbed.frameworks.torch.generators import Brought
from seedbed.frameworks.torch.laws import Law, made_by, overlaid
from seedbed.frameworks.torch.looking import Looking
from seedbed.frameworks.torch.operators import EMPTY, SHAPES, WRITES_ONLY, Kind, kind_of
from seedbed.frameworks.torch.record import Cell, Event, Geometry, Ref, Site, events_of, site_of
from seedbed.frameworks.torch.replay import foreign, forget, work_out

META = torch.device("meta")
SMALL = 1 << 16
"""Elements of a real tensor that is copied rather than referred to."""

_local = threading.local()


def tensors_in(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among arguments, and in lists of them."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
    return found


def odd(tensor: torch.Tensor) -> bool:
    """Whether a tensor has no plain memory: sparse, quantized. It is made for real."""
    return tensor.layout is not torch.strided or tensor.is_quantized


class Recording(TorchDispatchMode):
    """Sends every tensor to the meta device, and keeps what each storage holds."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: dict[int, tuple[Any, Cell]] = {}
        self.devices: dict[int, str] = {}
        self.modules: dict[int, nn.Module] = {}
        self.brought = Brought()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: what PyTorch would wrap the function below in takes as long as a tenth of it."""
        return False

    def cell_of(self, tensor: torch.Tensor) -> Cell | None:
        """What a tensor's storage holds, if it is one of those recorded."""
        if tensor.layout is not torch.strided:
            return None
        found = self.cells.get(tensor.untyped_storage()._cdata)
        return found[1] if found else None

    def put(self, tensor: torch.Tensor, cell: Cell) -> None:
        """Note what a tensor's storage holds now."""
        storage = tensor.untyped_storage()
        self.cells[storage._cdata] = (storage, cell)

    def ref(self, leaf: Any) -> Any:
        """An argument as it is recorded."""
        if not isinstance(leaf, torch.Tensor):
            return leaf
        cell = self.cell_of(leaf)
        if cell is not None:
            return Ref.of(cell, leaf)
        if leaf.is_meta or (leaf.numel() > SMALL and leaf.untyped_storage().resizable()):
            return leaf.detach()
        return leaf.detach().clone()  # NumPy may have it too, and write to it

    def refs(self, value: Any) -> Any:
        """Arguments as they are recorded."""
        if isinstance(value, torch.Tensor):
            return self.ref(value)
        if isinstance(value, dict):
            return {k: self.refs(v) for k, v in value.items()}
        return type(value)(map(self.refs, value)) if type(value) in (tuple, list) else value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # a tensor is what it is here, whatever the model's code is told
            return self._record(func, args, dict(kwargs or {}))

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kind = kind_of(func)
        if kind.views:
            return func(*args, **kwargs)
        leaves = tensors_in(args)
        if kwargs:
            leaves += tensors_in(kwargs.values())
        if kind.fills and len(leaves) == 1 and self._filled(kind, func, args, kwargs):
            return args[0]
        asked = kwargs.get("device")
        if kind.device and (asked is not None or not leaves):
            kwargs["device"] = META
        if any(map(odd, leaves)):
            return self._for_real(func, args, kwargs, (), random=kind.random)
        name = kind.name
        if name == "_local_scalar_dense":
            return self.real(args[0]).item()
        if name == "set_" and args[0].is_meta:
            real = len(args) > 1 and args[1].device.type != "meta"
            return self._set(args[0], *args[1:]) if real else func(*args)  # nothing is written
        places = dict(zip(kind.names, args, strict=False))
        mutated = (*kind.mutated, *record.written_unsaid(name, places))
        targets = tensors_in(places[n] if n in places else kwargs.get(n) for n in mutated)
        if any(not t.is_meta for t in targets):  # memory of someone else's: written for real
            given, keywords = pytree.tree_map_only(torch.Tensor, self.real, (args, kwargs))
            return func(*given, **keywords)
        if name in WRITES_ONLY and (len(leaves) == 1 or leaves[0].shape == leaves[-1].shape):
            out = args[0]  # all that the meta device would do
        else:
            out = self._on_meta(func, args, kwargs, leaves)
        if isinstance(out, NotImplementedError) or (not targets and any(map(odd, tensors_in([out])))):
            return self._for_real(func, args, kwargs, targets, random=kind.random)
        given, keywords = self.refs(args), self.refs(kwargs)
        recorded = kind.named(given, keywords)
        taken = self.brought.draw(name, func, given, keywords)
        event = Event(func, given, keywords, site_of(), random=kind.random and taken is None)
        event.taken = taken
        self._wrote(event, name, recorded, targets)
        if kind.fresh or not targets:
            device = str(asked) if asked is not None else next(map(self.device_of, leaves), "cpu")
            self._made(event, name, recorded, out, device)
        return out

    def _filled(self, kind: Kind, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Record what most operations of a constructor are: they write all of a tensor, and read no other."""
        target = args[0]
        brought = kwargs.get("generator") is not None
        if target.layout is not torch.strided or brought or any(record.flips_of(target)):
            return False
        storage = target.untyped_storage()
        place = storage._cdata
        found = self.cells.get(place)
        if found is None:
            return False
        before, geometry, dtype = found[1], Geometry.of(target), target.dtype
        if not geometry.fills(before.nbytes, dtype.itemsize):
            return False
        event = Event(func, args, kwargs, site_of(), random=kind.random)
        after = Cell(event, before.nbytes)
        after.law = made_by(func, kind.name, kind.named(args, kwargs), target, geometry, event.index)
        after.over = before.event.site if before.written else before.over
        event.args = (Ref(after, geometry, dtype), *args[1:])  # what was there is not read, and may be forgotten
        event.writes.append((before, after))
        self.cells[place] = storage, after
        return True

    def _on_meta(self, func: Any, args: Any, kwargs: Any, leaves: list[torch.Tensor]) -> Any:
        """What the operator returns on the meta device, or why it cannot tell."""

        def blank(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_meta:
                return tensor
            return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=META)

        given, keywords = args, kwargs
        if not all(t.is_meta for t in leaves):
            given, keywords = pytree.tree_map_only(torch.Tensor, blank, (args, kwargs))
        if func._schema.name == "aten::lift_fresh":
            return given[0]
        shapes = SHAPES.get(func)
        try:
            return func(*given, **keywords) if shapes is None else shapes(*given, **keywords)
        except (NotImplementedError, RuntimeError) as error:
            said = str(error).lower()
            if not isinstance(error, NotImplementedError) and "meta" not in said and "not allocated" not in said:
                raise
            return NotImplementedError(str(error))

    def _for_real(self, func: Any, args: Any, kwargs: Any, targets: Iterable[torch.Tensor], *, random: bool) -> Any:
        """Work an operator out whose result's shape depends on values, or that the meta device lacks."""
        site, name = site_of(), func._schema.name.rpartition(":")[2]
        if random:
            raise CaptureError(
                f"{site}: {name} draws in a way that seedbed's numbers do not have.",
                remedy="Build this model without deferred(), or draw with one of torch.nn.init.",
            )
        reals: dict[int, torch.Tensor] = {}

        def real(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in reals:
                reals[id(tensor)] = self.real(tensor, f"{name} cannot be recorded, and is given")
            return reals[id(tensor)]

        kwargs = {k: v for k, v in kwargs.items() if k != "device"}
        given, keywords = pytree.tree_map_only(torch.Tensor, real, (args, kwargs))
        out = func(*given, **keywords)
        written = {id(reals[id(t)]): t for t in targets}
        for made, target in [(reals[id(t)], t) for t in targets]:
            self._record(torch.ops.aten.copy_.default, (target, self.literal(made, site)), {})

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            return tensor if odd(tensor) else written.get(id(tensor)) or self.literal(tensor, site)

        return pytree.tree_map_only(torch.Tensor, keep, out)

    def _set(self, tensor: torch.Tensor, source: Any, *place: Any) -> torch.Tensor:
        """Give a tensor memory that is there already, as reading a file does."""
        real = torch.empty(0, dtype=tensor.dtype).set_(source, *place)
        blank = self.literal(real, site_of())
        return self._record(torch.ops.aten.set_.source_Tensor, (tensor, blank), {})

    def literal(self, tensor: torch.Tensor, site: Site) -> torch.Tensor:
        """A meta tensor that stands for a real one."""
        blank = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=META)
        event = Event(torch.ops.aten.lift_fresh.default, (tensor.detach(),), {}, site, random=False)
        self._made(event, "lift_fresh", {"self": tensor}, blank, "cpu")
        return blank

    def _wrote(self, event: Event, name: str, values: Mapping[str, Any], targets: list[torch.Tensor]) -> None:
        for target in targets:
            storage = target.untyped_storage()
            before = self.cell_of(target)
            if before is None:
                continue
            after = Cell(event, storage.nbytes())
            geometry = Geometry.of(target)
            whole = name in WRITES_ONLY and geometry.fills(storage.nbytes(), target.element_size())
            law = None
            if len(targets) == 1 and event.taken is None and not any(record.flips_of(target)):
                law = made_by(event.func, name, values, target, geometry, event.index)
                same = before.law is not None and before.law.geometry == geometry and before.law.dtype == target.dtype
                if law is not None and not whole and not same:
                    law = overlaid(before.law, law, target)
            after.law = law
            after.before = None if whole else before
            after.over = before.event.site if whole and before.written else before.over
            after.written = True if whole else _written(before, law)
            if whole:  # what was there is not read, and may be forgotten
                event.args = (Ref.of(after, target), *event.args[1:])
            event.writes.append((before, after))
            self.put(target, after)

    def _made(self, event: Event, name: str, values: Mapping[str, Any], out: Any, device: str) -> None:
        for place, leaf in enumerate([out] if isinstance(out, torch.Tensor) else pytree.tree_leaves(out)):
            if not isinstance(leaf, torch.Tensor) or self._returned(event, leaf):
                continue
            storage, geometry, dtype = leaf.untyped_storage(), Geometry.of(leaf), leaf.dtype
            cell = Cell(event, storage.nbytes())
            if not leaf.numel():
                cell.law = Law(torch.zeros((1,) * leaf.dim(), dtype=dtype), geometry, dtype)
            elif name in EMPTY:
                cell.law, cell.written = Law(None, geometry, dtype), False
            elif name == "lift_fresh":
                real = values["self"]
                one = real.reshape((1,) * real.dim()) if real.numel() == 1 else None
                cell.law = Law(one, geometry, dtype) if one is not None else None
            elif place == 0 and event.taken is None:
                cell.law = made_by(event.func, name, values, leaf, geometry, event.index)
            event.outs.append((place, cell, geometry, dtype, record.flips_of(leaf)))
            self.put(leaf, cell)
            if device not in ("cpu", "meta"):
                self.devices[storage._cdata] = device

    def _returned(self, event: Event, leaf: torch.Tensor) -> bool:
        """Whether what was returned is memory that an argument has already."""
        cell = self.cell_of(leaf)
        return cell is not None and any(ref.cell is cell for ref in event.refs())

    def device_of(self, tensor: torch.Tensor) -> str:
        """The device a tensor would be on."""
        return self.devices.get(tensor.untyped_storage()._cdata, "cpu") if tensor.is_meta else str(tensor.device)

    def real(self, tensor: torch.Tensor, what: str = "reads") -> torch.Tensor:
        """A tensor's values, worked out.

        Raises:
            CaptureError: They are drawn at random, so nobody knows them yet.
        """
        cell = None if odd(tensor) else self.cell_of(tensor)
        if cell is None:
            if tensor.is_meta:
                raise foreign(site_of())
            return tensor
        return work_out(Ref.of(cell, tensor), site_of(), what)

    def drawn_by(self, tensor: torch.Tensor) -> str:
        """The last of the operations that drew a tensor's values; empty where none did."""
        cell = self.cell_of(tensor)
        drawn = [e.name for e in events_of(cell) if e.random] if cell else []
        return cell.event.name if drawn and cell.event.name == "orthogonal_" else "".join(drawn[-1:])

    def undisturbed(self) -> bool:
        """Whether nobody else listens to what is called: no mode of the user's."""
        if _get_current_dispatch_mode() is not self:
            return False
        count = torch._C._len_torch_function_stack()
        modes = (torch._C._get_function_stack_at(n) for n in range(count))
        return all(type(mode) in (Looking, DeviceContext) for mode in modes)

    def fill(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Record an operator that writes all of a tensor; False where it is not that simple."""
        return self._filled(kind_of(func), func, args, {})

    def divert(self, name: str, tensor: torch.Tensor, arguments: Mapping[str, Any]) -> bool:
        """Record an initializer of `torch.nn.init` under its name; False where the tensor is not recorded."""
        before = self.cell_of(tensor)
        if before is None:
            return False
        event = Event(
            name,
            (Ref.of(before, tensor),),
            dict(arguments),
            site_of(),
            random=diverted.draws(name),
        )
        start, geometry = diverted.initializer(name, arguments), Geometry.of(tensor)
        after = Cell(event, before.nbytes)
        whole = geometry.fills(before.nbytes, tensor.element_size())
        if whole and start is not None:
            after.law = Law(start, geometry, tensor.dtype, (event.index,) if event.random else ())
        after.before = None if whole else before
        after.over = before.event.site if whole and before.written else before.over
        after.written = True if whole else None
        if whole:
            event.args = (Ref.of(after, tensor),)
        event.writes.append((before, after))
        self.put(tensor, after)
        return True


def _written(before: Cell, law: Law | None) -> bool | None:
    if before.written:
        return True
    return None if law is None else law.start is not None or law.initializer() is not None


def active() -> Recording | None:
    """The recording of this thread, if it is inside `deferred()`."""
    return getattr(_local, "recording", None)


@contextmanager
def deferred() -> Iterator[None]:
    """Build models without memory; inside another, it is part of that one."""
    if active() is not None:
        yield
        return
    recording = Recording()

    def seen(module: nn.Module, name: str, value: Any) -> None:
        if active() is recording:
            recording.modules[id(module)] = module
            if isinstance(value, nn.Module):
                recording.modules[id(value)] = value

    with ExitStack() as stack:
        for register in (
            hooks.register_module_parameter_registration_hook,
            hooks.register_module_buffer_registration_hook,
            hooks.register_module_module_registration_hook,
        ):
            stack.callback(register(seen).remove)
        stack.callback(forget)
        stack.callback(recording.brought.advance)
        stack.enter_context(diverted.diverting(active))
        stack.callback(setattr, _local, "recording", None)
        _local.recording = recording
        stack.enter_context(Looking(recording))
        stack.enter_context(recording)
        yield
    origins.note(recording)
