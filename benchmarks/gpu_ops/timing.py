"""Time calls in turn: each contestant once a round, with cold caches, by the device's own clock."""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from support.kernel_truth import Operation

# Larger than any level-2 cache; writing it also keeps the GPU busy while Python queues the call.
_FLUSH_BYTES = 2**29

Call = Callable[[], object]


def forward(operation: Operation, inputs: Sequence[Tensor]) -> Call:
    """A call without gradients."""
    return torch.no_grad()(lambda: operation(*inputs))


def both(operation: Operation, inputs: Sequence[Tensor]) -> Call:
    """A call with the gradients of all inputs, for an upstream gradient of ones."""
    leaves = [x.detach().requires_grad_() for x in inputs]

    def call() -> object:
        made = operation(*leaves)
        outputs = (made,) if isinstance(made, Tensor) else made
        return torch.autograd.grad(outputs, leaves, [torch.ones_like(y) for y in outputs])

    return call


def in_turn(calls: Mapping[str, Call], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every call of every contestant, after two rounds that compile and warm up."""
    clock = _by_events() if device == "cuda" else _by_clock
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            taken = clock(call)
            if number >= 2:
                seconds[name].append(taken)
    return seconds


def _by_clock(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _by_events() -> Callable[[Call], float]:
    cache = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def clock(call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cache.zero_()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    return clock


def peak_bytes(call: Call, device: str) -> int | None:
    """Memory that a call takes beyond what was there before; None on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
