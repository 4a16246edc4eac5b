"""What PyTorch really takes: bytes at the peak of some work, and bytes that autograd saves of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak(work: Callable[[], object]) -> int:
    """Bytes beside what was there before, by what the allocator is asked for; of two tries the larger one.

    The profiler loses an event now and then, and makes less of it.
    """
    return max(_peak(work) for _ in range(2))


def _peak(work: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    # Of torch's profiler: each time that memory was taken or freed, in order.
    events = profiler.profiler.kineto_results.events()
    taken = [event for event in events if event.name() == "[memory]"]
    return max(accumulate(each.nbytes() for each in sorted(taken, key=lambda e: e.start_ns())))


@contextmanager
def saved(net: Any) -> Iterator[list[int]]:
    """Bytes that autograd saves, beside what belongs to the model; each storage once."""
    own = {each.untyped_storage().data_ptr() for each in net.parameters()}
    found: dict[int, torch.Tensor] = {}
    total: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            # Held, so that its place is not given to another.
            found[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
    total.append(sum(each.untyped_storage().nbytes() for each in found.values()))
