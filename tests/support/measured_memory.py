"""What PyTorch really takes: bytes at the peak of some work, and bytes that autograd saves of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any
from weakref import WeakSet

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


class _Held:
    """A tensor for as long as autograd keeps it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        # A result that is saved would keep the graph that it came from, and so itself.
        self.tensor = tensor.detach()


@contextmanager
def saved(net: Any) -> Iterator[list[int]]:
    """Bytes that autograd saves, beside what belongs to the model; each storage once.

    What is saved for a graph that is dropped before the end does not count. Results of the work must be
    kept until then.
    """
    own = {each.untyped_storage().data_ptr() for each in net.parameters()}
    found: WeakSet[_Held] = WeakSet()
    total: list[int] = []

    def pack(tensor: torch.Tensor) -> _Held:
        found.add(held := _Held(tensor))
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        yield total
    storages = [each.tensor.untyped_storage() for each in found]
    sizes = {each.data_ptr(): each.nbytes() for each in storages}
    total.append(sum(size for place, size in sizes.items() if place not in own))
