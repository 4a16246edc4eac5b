"""The queue: no key twice, no key with two workers, no news lost."""

import asyncio
from collections import Counter

import pytest

from finetune_operator.observe.facts import Key
from finetune_operator.queue import KeyedQueue

A, B = Key("n", "a"), Key("n", "b")


async def taken(queue: KeyedQueue, seconds: float = 0.05) -> Key | None:
    try:
        return await asyncio.wait_for(queue.get(), seconds)
    except TimeoutError:
        return None


async def test_a_key_waits_once() -> None:
    queue = KeyedQueue()
    for _ in range(3):
        queue.add(A)
    queue.add(B)
    assert [await taken(queue), await taken(queue), await taken(queue)] == [A, B, None]


async def test_news_during_work_bring_the_key_back_afterwards() -> None:
    queue = KeyedQueue()
    queue.add(A)
    assert await taken(queue) == A
    queue.add(A)
    queue.add(A)
    assert await taken(queue) is None
    queue.done(A)
    assert await taken(queue) == A
    queue.done(A)
    assert await taken(queue) is None


async def test_the_earliest_delay_counts() -> None:
    queue = KeyedQueue()
    queue.add(A, 60)
    queue.add(A, 0.05)
    queue.add(A, 60)
    assert await taken(queue, 0.02) is None
    assert await taken(queue, 1) == A


async def test_a_forgotten_key_does_not_come_back() -> None:
    queue = KeyedQueue()
    queue.add(A, 0.02)
    queue.forget(A)
    assert await taken(queue, 0.1) is None


async def test_failures_back_off_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    queue = KeyedQueue()
    monkeypatch.setattr(queue, "add", lambda _key, delay=0: delays.append(delay))
    counts = [queue.failed(A) for _ in range(12)]
    assert counts == list(range(1, 13))
    assert delays[:4] == [1, 2, 4, 8]
    assert delays[-1] == 300
    queue.succeeded(A)
    assert queue.failed(A) == 1


async def test_many_workers_never_share_a_key_and_see_the_last_version() -> None:
    queue = KeyedQueue()
    wanted: Counter[Key] = Counter()
    seen: Counter[Key] = Counter()
    active: set[Key] = set()
    keys = [Key("n", str(n)) for n in range(20)]

    async def work() -> None:
        while True:
            key = await queue.get()
            assert key not in active
            active.add(key)
            version = wanted[key]
            await asyncio.sleep(0.001)
            seen[key] = version
            active.discard(key)
            queue.done(key)

    workers = [asyncio.create_task(work()) for _ in range(8)]
    for turn in range(300):
        key = keys[(turn * 7) % len(keys)]
        wanted[key] += 1
        queue.add(key)
        if turn % 5 == 0:
            await asyncio.sleep(0.001)
    async with asyncio.timeout(10):
        while len(queue):  # noqa: ASYNC110 - the queue has no such event
            await asyncio.sleep(0.01)
    assert not any(worker.done() for worker in workers)
    for worker in workers:
        worker.cancel()
    assert seen == wanted
