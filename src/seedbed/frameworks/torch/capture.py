"""Deferred construction: unmodified models built without memory, all that their constructors do recorded.

Inside `deferred()` every tensor that is made is a meta tensor, and a `TorchDispatchMode` notes what is
written to it. Code that looks sees the device it asked for; code that reads a value gets it, worked out
for real, unless it was drawn at random.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from seedbed.errors import CaptureError
from seedbed.frameworks.torch import diverted, origins
from seedbed.frameworks.torch.laws import Law, made_by, overlaid
from seedbed.frameworks.torch.record import Cell, Event, Geometry, Ref, Site
from seedbed.frameworks.torch.replay import work_out

META = torch.device("meta")
WRITES_ONLY = {
    *("zero_", "fill_", "copy_", "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "cauchy_"),
    *("log_normal_", "geometric_"),
}
"""In-place operators that do not read what was there."""
EMPTY = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "empty_permuted"}
SMALL = 1 << 16
"""Elements of a real tensor that is copied rather than referred to."""

_local = threading.local()


class Kind(NamedTuple):
    """What is to be known of an operator, read once from its schema."""

    names: tuple[str, ...]
    defaults: Mapping[str, Any]
    mutated: tuple[str, ...]
    views: bool
    random: bool
    device: bool


_kinds: dict[Any, Kind] = {}


def kind_of(func: Any) -> Kind:
    """From an operator's schema."""
    kind = _kinds.get(func)
    if kind is None:
        arguments, returns = func._schema.arguments, func._schema.returns
        kind = _kinds[func] = Kind(
            tuple(a.name for a in arguments),
            {a.name: a.default_value for a in arguments if a.has_default_value()},
            tuple(a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write),
            bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns),
            torch.Tag.nondeterministic_seeded in func.tags,
            any(a.name == "device" for a in arguments),
        )
    return kind


def tensors_in(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among arguments, and in lists of them."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
    return found


class Recording(TorchDispatchMode):
    """Sends every tensor to the meta device, and keeps what each storage holds."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: dict[int, tuple[Any, Cell]] = {}
        self.devices: dict[int, str] = {}
        self.modules: dict[int, nn.Module] = {}

    def cell_of(self, tensor: torch.Tensor) -> Cell | None:
        """What a tensor's storage holds, if it is one of those recorded."""
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
            return Ref(cell, Geometry.of(leaf), leaf.dtype)
        return leaf.detach().clone() if leaf.numel() <= SMALL and not leaf.is_meta else leaf.detach()

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
        kind, kwargs = kind_of(func), dict(kwargs or {})
        if kind.views and func._schema.name != "aten::lift_fresh":
            return func(*args, **kwargs)
        leaves = [*tensors_in(args), *tensors_in(kwargs.values())]
        asked = kwargs.get("device")
        if kind.device and (asked is not None or not leaves):
            kwargs["device"] = META
        name = func._schema.name.rpartition(":")[2]
        if name == "_local_scalar_dense":
            return self.real(args[0]).item()
        places = dict(zip(kind.names, args, strict=False))
        targets = tensors_in(places[n] if n in places else kwargs.get(n) for n in kind.mutated)
        if any(not t.is_meta for t in targets):  # memory of someone else's: written for real
            given, keywords = pytree.tree_map_only(torch.Tensor, self.real_or_same, (args, kwargs))
            return func(*given, **keywords)
        if name in WRITES_ONLY and (len(leaves) == 1 or leaves[0].shape == leaves[-1].shape):
            out = args[0]  # all that the meta device would do
        else:
            out = self._on_meta(func, args, kwargs)
        if isinstance(out, NotImplementedError):
            return self._for_real(func, args, kwargs, out)
        given, keywords = self.refs(args), self.refs(kwargs)
        recorded = {**kind.defaults, **dict(zip(kind.names, given, strict=False)), **keywords}
        event = Event(func, given, keywords, site_of(), random=kind.random)
        self._wrote(event, name, recorded, targets)
        if not targets:
            device = str(asked) if asked is not None else next(map(self.device_of, leaves), "cpu")
            self._made(event, name, recorded, out, device)
        return out

    def _on_meta(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the operator returns on the meta device, or why it cannot tell."""

        def blank(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_meta or func._schema.name == "aten::lift_fresh":
                return tensor if tensor.is_meta else torch.empty_like(tensor, device=META)
            return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=META)

        given, keywords = args, kwargs
        if not all(t.is_meta for t in [*tensors_in(args), *tensors_in(kwargs.values())]):
            given, keywords = pytree.tree_map_only(torch.Tensor, blank, (args, kwargs))
        if func._schema.name == "aten::lift_fresh":
            return given[0]
        try:
            return func(*given, **keywords)
        except (NotImplementedError, RuntimeError) as error:
            if not isinstance(error, NotImplementedError) and "meta" not in str(error).lower():
                raise
            return NotImplementedError(str(error))

    def _for_real(self, func: Any, args: Any, kwargs: Any, why: NotImplementedError) -> Any:
        """Work an operator out whose result's shape depends on values, or that the meta device lacks."""
        kwargs = {k: v for k, v in kwargs.items() if k != "device"}
        given, keywords = pytree.tree_map_only(torch.Tensor, self.real, (args, kwargs))
        out = func(*given, **keywords)

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            return self.literal(tensor, site_of())

        return pytree.tree_map_only(torch.Tensor, keep, out)

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
            if len(targets) == 1:
                law = made_by(event.func, name, dict(values), target, event.index)
                if law is not None and not whole and not (before.law and before.law.geometry == geometry):
                    law = overlaid(before.law, law, target)
            after.law = law
            after.before = None if whole else before
            after.over = before.event.site if whole and before.written else before.over
            after.written = True if whole else _written(before, law)
            if whole:  # what was there is not read, and may be forgotten
                event.args = (Ref(after, geometry, target.dtype), *event.args[1:])
            event.writes.append((before, after))
            self.put(target, after)

    def _made(self, event: Event, name: str, values: Mapping[str, Any], out: Any, device: str) -> None:
        for place, leaf in enumerate([out] if isinstance(out, torch.Tensor) else pytree.tree_leaves(out)):
            if not isinstance(leaf, torch.Tensor) or self._returned(event, leaf):
                continue
            storage = leaf.untyped_storage()
            cell = Cell(event, storage.nbytes())
            if name in EMPTY:
                cell.law, cell.written = Law(None, Geometry.of(leaf)), False
            elif name == "lift_fresh":
                real = values["self"]
                cell.law = Law(real.reshape((1,) * real.dim()), Geometry.of(leaf)) if real.numel() == 1 else None
            elif place == 0:
                cell.law = made_by(event.func, name, dict(values), leaf, event.index)
            event.outs.append((place, cell, Geometry.of(leaf)))
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

    def real(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor's values, worked out.

        Raises:
            CaptureError: They are drawn at random, so nobody knows them yet.
        """
        cell = self.cell_of(tensor)
        if cell is None:
            if tensor.is_meta:
                raise CaptureError(
                    f"{site_of()}: reads the values of a meta tensor that was made elsewhere.",
                    remedy="Make it inside deferred().",
                )
            return tensor
        return work_out(Ref(cell, Geometry.of(tensor), tensor.dtype), site_of())

    def real_or_same(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor to compute with: itself where it is real."""
        return self.real(tensor) if tensor.is_meta else tensor

    def divert(self, name: str, tensor: torch.Tensor, arguments: Mapping[str, Any]) -> bool:
        """Record an initializer of `torch.nn.init` under its name; False where the tensor is not recorded."""
        before = self.cell_of(tensor)
        if before is None:
            return False
        event = Event(
            name,
            (Ref(before, Geometry.of(tensor), tensor.dtype),),
            dict(arguments),
            site_of(),
            random=diverted.draws(name),
        )
        start, geometry = diverted.initializer(name, arguments), Geometry.of(tensor)
        after = Cell(event, before.nbytes)
        whole = geometry.fills(before.nbytes, tensor.element_size())
        if whole and start is not None:
            after.law = Law(start, geometry, (event.index,) if event.random else ())
        after.before = None if whole else before
        after.over = before.event.site if whole and before.written else before.over
        after.written = True if whole else None
        if whole:
            event.args = (Ref(after, geometry, tensor.dtype),)
        event.writes.append((before, after))
        self.put(tensor, after)
        return True


def _written(before: Cell, law: Law | None) -> bool | None:
    if before.written:
        return True
    return None if law is None else law.start is not None or law.initializer() is not None


INSIDE = (
    "/torch/nn/init.py",
    "torch.nn.init",
    "/torch/_",
    "/torch/utils/",
    "/torch/overrides.py",
    "/torch/functional.py",
    "/seedbed/frameworks/",
)


def site_of() -> Site:
    """Where in the user's code, or in a layer's, this is asked for."""
    frame, first = sys._getframe(2), None
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if not any(part in file for part in INSIDE):
            if first is None:
                first = Site(code.co_name, file, frame.f_lineno)
            method = code.co_argcount > 0 and not file.endswith("/torch/nn/modules/module.py")
            if method and isinstance(owner := frame.f_locals.get(code.co_varnames[0]), nn.Module):
                return Site(f"{type(owner).__name__}.{code.co_name}", file, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return first or Site("?", "?", 0)


class Looking(TorchFunctionMode):
    """Answers code that looks at a tensor's device, or reads its values, as if it were there."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = ANSWERS.get(func)
        if answer is not None and type(args[0]) is not nn.UninitializedParameter and self.recording.cell_of(args[0]):
            with _disable_current_modes():
                return answer(self.recording, args[0], *args[1:], **kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type not in ("cpu", "meta"):
            asked, kwargs = str(torch.device(kwargs["device"])), {**kwargs, "device": META}
            return self._placed(func(*args, **kwargs), asked)
        if func in MOVES and len(args) > 1 and isinstance(args[1], (str, torch.device, int)):
            asked = str(torch.device(args[1]))
            return self._placed(func(args[0], META, *args[2:], **kwargs), asked)
        if func is torch.Tensor.cuda:
            return self._placed(torch.Tensor.to(args[0], META, copy=True), f"cuda:{args[1] if len(args) > 1 else 0}")
        return func(*args, **kwargs)

    def _placed(self, out: Any, device: str) -> Any:
        if isinstance(out, torch.Tensor) and device not in ("cpu", "meta"):
            self.recording.devices[out.untyped_storage()._cdata] = device
        return out


MOVES = {torch.Tensor.to}
ANSWERS = {
    torch.Tensor.device.__get__: lambda r, t: torch.device(r.device_of(t)),  # type: ignore[attr-defined]
    torch.Tensor.is_meta.__get__: lambda *_: False,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda r, t: r.device_of(t) == "cpu",  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__: lambda r, t: r.device_of(t).startswith("cuda"),  # type: ignore[attr-defined]
    torch.Tensor.tolist: lambda r, t: r.real(t).tolist(),
    torch.Tensor.numpy: lambda r, t, **_: r.real(t).detach().numpy(),
    torch.Tensor.__array__: lambda r, t, *a: r.real(t).detach().__array__(*a),
}


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
        stack.enter_context(diverted.diverting(active))
        stack.callback(setattr, _local, "recording", None)
        _local.recording = recording
        stack.enter_context(Looking(recording))
        stack.enter_context(recording)
        yield
    origins.note(recording)
