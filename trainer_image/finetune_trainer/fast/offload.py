"""Inputs of layers wait in the memory of the host while other layers compute, on a stream of their own.

Used by `fast.recompute` around torch's checkpointing, for layers that keep their input alone. transformers'
`offload` copies on the stream that computes, so each copy takes time of its own; here a copy runs beside the
layer that follows (two are on their way at most), and in the backward pass the next input comes back while
one layer computes. On the CPU the same steps are plain copies, which save nothing.
"""

import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from finetune_trainer.foreign import Foreign

# Inputs on the device at one time: that of the layer that computes, and one that is copied.
BUFFERS = 2


@dataclass(eq=False)
class Parked:
    """The input of one layer, away from the device.

    Attributes:
        host: Where it waits; pinned, if the device is a GPU.
        before: The one that was parked before it, and is needed after it.
        present: The tensor on the device, while it is there.
        copied: When the copy that is under way is done; None on the CPU.
    """

    host: Tensor
    before: "Parked | None"
    present: Tensor | None
    copied: torch.cuda.Event | None = None


class BlockInputs:
    """Parks tensors in the order of a forward pass, and has the next one back in time.

    Args:
        device: Of the model.

    Attributes:
        parked: Tensors parked so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.parked = 0
        on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._leaving: deque[Parked] = deque()
        self._last: Callable[[], Parked | None] = lambda: None

    def checkpoint(
        self, function: Callable[..., Foreign], layer: Callable[..., Foreign], *inputs: Foreign
    ) -> Foreign:
        """Call a checkpointing function, whose saved inputs are parked."""
        with saved_tensors_hooks(self._park, self._fetch):
            return function(layer, *inputs)

    def _park(self, tensor: Tensor) -> Parked | Tensor:
        if not tensor.numel() or not tensor.is_floating_point():
            return tensor
        if len(self._leaving) == BUFFERS:
            self._gone(self._leaving.popleft())
        host = torch.empty_like(tensor, device="cpu", pin_memory=self._stream is not None)
        parked = Parked(host, self._last(), present=tensor.detach())
        self._copy(parked, host, tensor)
        self._leaving.append(parked)
        self._last = weakref.ref(parked)
        self.parked += 1
        return parked

    def _gone(self, parked: Parked) -> None:
        """Give up a tensor on the device once it is copied; what computes waits for that."""
        _wait(parked)
        parked.present = None

    def _fetch(self, parked: Parked | Tensor) -> Tensor:
        if isinstance(parked, Tensor):
            return parked
        while self._leaving:
            # The newest ones have not left yet, and need not.
            _wait(self._leaving.popleft())
        self._bring(parked)
        _wait(parked)
        found, parked.present = parked.present, None
        if parked.before is not None:
            self._bring(parked.before)
        if found is None:
            raise RuntimeError("a layer's input is not where it was brought to")
        return found

    def _bring(self, parked: Parked) -> None:
        """Start the copy back to the device, unless it is there."""
        if parked.present is not None:
            return
        device = self._stream.device if self._stream else torch.device("cpu")
        # Of the computing stream, which also frees it.
        parked.present = torch.empty_like(parked.host, device=device)
        self._copy(parked, parked.present, parked.host)

    def _copy(self, parked: Parked, to: Tensor, source: Tensor) -> None:
        with self._aside():
            to.copy_(source.detach(), non_blocking=self._stream is not None)
        if self._stream:
            parked.copied = self._stream.record_event()

    def _aside(self) -> AbstractContextManager[object]:
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        return torch.cuda.stream(self._stream)


def _wait(parked: Parked) -> None:
    """Let what is computed next wait for the copy; the process itself goes on."""
    if parked.copied is not None:
        torch.cuda.current_stream(parked.copied.device).wait_event(parked.copied)
        parked.copied = None
