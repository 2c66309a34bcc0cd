"""What code sees that looks at a tensor being recorded: the device it asked for, the values it wrote."""

from __future__ import annotations

import numbers
from collections.abc import Container
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from seedbed.frameworks.torch.record import site_of

if TYPE_CHECKING:
    from seedbed.frameworks.torch.capture import Recording

META = torch.device("meta")
FAR = 1 << 62
"""An address where nothing is: tensors are compared by theirs."""


class Looking(TorchFunctionMode):
    """Answers code that looks at a tensor's device, or reads its values, as if it were there."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not kwargs and func not in SEEN:  # most calls, and they are many
            return func(*args)
        kwargs = kwargs or {}
        if kwargs.get("generator") is not None:
            kwargs = {**kwargs, "generator": self.recording.brought.own(kwargs["generator"])}
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
            which = args[1] if len(args) > 1 else kwargs.get("device")
            asked = str(torch.device("cuda", which) if isinstance(which, int) else torch.device(which or "cuda"))
            return self._placed(torch.Tensor.to(args[0], META, copy=True), asked)
        if func == SET_DATA and not args[1].is_meta and self.recording.cell_of(args[0]):
            return func(args[0], self.recording.literal(args[1], site_of()))
        if func in SPARSE:
            args = tuple(
                torch.tensor(a) if isinstance(a, (list, tuple)) and n < SPARSE[func] else a for n, a in enumerate(args)
            )
        if func in MAKES and args and isinstance(args[0], (list, tuple)):
            args = (self._read(args[0]), *args[1:])
        if func in INDEXES and self.recording.cell_of(args[0]):
            args = (args[0], indices(args[1]), *args[2:])
        if func in KNOWN:
            args, kwargs = self._known(args, kwargs, *KNOWN[func])
        if func in ALONE and kwargs.get("out") is None:
            matrix, *others = args or (kwargs.pop("A"),)
            if not self.recording.drawn_by(matrix) and not matrix.requires_grad:
                with _disable_current_modes():
                    return self.recording.literal(func(self.recording.real(matrix), *others, **kwargs), site_of())
            args = (matrix, *others)
        if func is torch.Tensor.new_tensor:  # it would make a meta tensor without its values
            facts = {"dtype": args[0].dtype, "device": self.recording.device_of(args[0]), **kwargs}
            return self.__torch_function__(torch.tensor, types, args[1:], facts)
        listed = func is torch.Tensor.new and len(args) == 2 and isinstance(args[1], (list, tuple))
        if listed and not isinstance(args[1], torch.Size):  # any other is of values
            return self.__torch_function__(torch.Tensor.new_tensor, types, args)
        return func(*args, **kwargs)

    def _known(self, args: Any, kwargs: Any, place: int, names: Container[str]) -> Any:
        """Arguments with values in place of the tensors that a function looks into by itself."""

        def known(value: Any) -> Any:
            recorded = isinstance(value, torch.Tensor) and self.recording.cell_of(value) is not None
            return self.recording.real(value) if recorded else value

        with _disable_current_modes():
            return (
                tuple(known(a) if n == place else a for n, a in enumerate(args)),
                {k: known(v) if k in names else v for k, v in kwargs.items()},
            )

    def _read(self, data: Any) -> Any:
        """Lists of numbers, some of them tensors: those with their values, which PyTorch would read at once."""
        if isinstance(data, torch.Tensor):
            with _disable_current_modes():
                return self.recording.real(data).tolist() if self.recording.cell_of(data) else data
        return [self._read(v) for v in data] if isinstance(data, (list, tuple)) else data

    def _placed(self, out: Any, device: str) -> Any:
        if isinstance(out, torch.Tensor) and device not in ("cpu", "meta"):
            self.recording.devices[out.untyped_storage()._cdata] = device
        return out


def indices(index: Any) -> Any:
    """An index with tensors in place of lists and arrays: of those PyTorch would make meta tensors, without values."""
    if isinstance(index, tuple):
        return tuple(map(indices, index))
    if isinstance(index, np.ndarray):
        return torch.as_tensor(index)
    if not isinstance(index, (list, range)):
        return index
    if all(isinstance(i, numbers.Integral) for i in index):
        return torch.tensor(list(index), dtype=None if index else torch.long)
    return [indices(i) for i in index]  # an index for each axis, as PyTorch has it


SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]
MAKES = {torch.tensor, torch.as_tensor}
SPARSE = {torch.sparse_coo_tensor: 2, torch.sparse_csr_tensor: 3, torch.sparse_csc_tensor: 3}
"""Functions that make tensors of lists, and how many."""
SECTIONS = (1, {"tensor_indices_or_sections", "indices_or_sections"})
KNOWN: dict[Any, tuple[int, set[str]]] = {
    torch.unravel_index: (0, {"indices"}),
    torch.tensor_split: SECTIONS,
    torch.Tensor.tensor_split: SECTIONS,
}
"""Functions that look into an argument by themselves, past this mode: its place and its names."""
ALONE = {torch.linalg.eigvalsh, torch.linalg.svdvals, torch.linalg.cond, torch.linalg.matrix_norm, torch.linalg.norm}
"""Functions that take another way while a mode listens, to other last bits: of values that are known, not while it does."""
MOVES = {torch.Tensor.to}
INDEXES = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}


ANSWERS = {
    torch.Tensor.device.__get__: lambda r, t: torch.device(r.device_of(t)),  # type: ignore[attr-defined]
    torch.Tensor.is_meta.__get__: lambda *_: False,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda r, t: r.device_of(t) == "cpu",  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__: lambda r, t: r.device_of(t).startswith("cuda"),  # type: ignore[attr-defined]
    torch.Tensor.data_ptr: lambda _, t: (
        FAR + (t.untyped_storage()._cdata << 12) + t.storage_offset() * t.element_size()
    ),
    torch.Tensor.__dlpack__: lambda r, t, *a, **k: r.real(t).detach().__dlpack__(*a, **k),
    torch.Tensor.__dlpack_device__: lambda r, t: r.real(t).__dlpack_device__(),
    torch.Tensor.tolist: lambda r, t: r.real(t).tolist(),
    torch.Tensor.numpy: lambda r, t, **_: r.real(t).detach().numpy(),
    torch.Tensor.__array__: lambda r, t, *a, **k: r.real(t).detach().__array__(*a, **k),
    torch.Tensor.__format__: lambda r, t, s: r.real(t).__format__(s),
    torch.Tensor.__repr__: lambda r, t, **k: r.real(t).__repr__(**k),
}
SEEN = {
    *(*ANSWERS, *MOVES, *MAKES, *SPARSE, *INDEXES, *KNOWN, *ALONE),
    *(SET_DATA, torch.Tensor.cuda, torch.Tensor.new, torch.Tensor.new_tensor),
}
"""What needs another look even where nothing is given by name."""
