"""What code sees that looks at a tensor being recorded: the device it asked for, the values it wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from seedbed.frameworks.torch.record import site_of

if TYPE_CHECKING:
    from seedbed.frameworks.torch.capture import Recording

META = torch.device("meta")


class Looking(TorchFunctionMode):
    """Answers code that looks at a tensor's device, or reads its values, as if it were there."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not kwargs and func not in SEEN:  # most calls, and they are many
            return func(*args)
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
            which = args[1] if len(args) > 1 else kwargs.get("device")
            asked = str(torch.device("cuda", which) if isinstance(which, int) else torch.device(which or "cuda"))
            return self._placed(torch.Tensor.to(args[0], META, copy=True), asked)
        if func == SET_DATA and not args[1].is_meta and self.recording.cell_of(args[0]):
            return func(args[0], self.recording.literal(args[1], site_of()))
        if func in MAKES and args and isinstance(args[0], (list, tuple)):
            args = (self._read(args[0]), *args[1:])
        if func is torch.Tensor.new_tensor:  # it would make a meta tensor without its values
            facts = {"dtype": args[0].dtype, "device": self.recording.device_of(args[0]), **kwargs}
            return self.__torch_function__(torch.tensor, types, args[1:], facts)
        if func is torch.Tensor.new and len(args) == 2 and isinstance(args[1], (list, tuple)):
            return self.__torch_function__(torch.Tensor.new_tensor, types, args)
        return func(*args, **kwargs)

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


SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]
MAKES = {torch.tensor, torch.as_tensor}
MOVES = {torch.Tensor.to}
ANSWERS = {
    torch.Tensor.device.__get__: lambda r, t: torch.device(r.device_of(t)),  # type: ignore[attr-defined]
    torch.Tensor.is_meta.__get__: lambda *_: False,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda r, t: r.device_of(t) == "cpu",  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__: lambda r, t: r.device_of(t).startswith("cuda"),  # type: ignore[attr-defined]
    torch.Tensor.tolist: lambda r, t: r.real(t).tolist(),
    torch.Tensor.numpy: lambda r, t, **_: r.real(t).detach().numpy(),
    torch.Tensor.__array__: lambda r, t, *a, **k: r.real(t).detach().__array__(*a, **k),
    torch.Tensor.__format__: lambda r, t, s: r.real(t).__format__(s),
    torch.Tensor.__repr__: lambda r, t, **k: r.real(t).__repr__(**k),
}
SEEN = {*ANSWERS, *MOVES, *MAKES, SET_DATA, torch.Tensor.cuda, torch.Tensor.new, torch.Tensor.new_tensor}
"""What needs another look even where nothing is given by name."""
