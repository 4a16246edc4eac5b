"""Slim facts about the objects of one kind, by the FineTuneJob that they belong to.

Used by the store. Older versions of an object never replace newer ones, and a deleted object never
comes back.
"""

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from finetune_operator.observe.facts import Key

REMEMBERED_DELETIONS = 4096


class Item(Protocol):
    """What a shelf holds."""

    @property
    def key(self) -> Key: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def uid(self) -> str: ...  # noqa: D102
    @property
    def resource_version(self) -> int: ...  # noqa: D102


T = TypeVar("T", bound=Item)


class Shelf(Generic[T]):
    """The objects of one kind, by the FineTuneJob that they belong to."""

    def __init__(self) -> None:
        self._items: dict[Key, dict[str, T]] = {}
        self._deleted: dict[str, None] = {}

    def put(self, item: T) -> bool:
        """Keep an object, unless a newer version is here or it was deleted; says whether kept."""
        known = self._items.get(item.key, {}).get(item.name)
        if item.uid in self._deleted:
            return False
        if known is not None and known.resource_version >= item.resource_version:
            return False
        self._items.setdefault(item.key, {})[item.name] = item
        return True

    def delete(self, item: T) -> None:
        """Drop a deleted object for good."""
        self._deleted[item.uid] = None
        if len(self._deleted) > REMEMBERED_DELETIONS:
            del self._deleted[next(iter(self._deleted))]
        known = self._items.get(item.key, {}).get(item.name)
        if known is not None and known.uid == item.uid:
            self._remove(known)

    def forget(self, key: Key) -> None:
        """Drop all objects of a job, which may come again."""
        self._items.pop(key, None)

    def drop(self, key: Key, name: str) -> None:
        """Drop one object of a job, which may come again."""
        for known in self.of(key):
            if known.name == name:
                self._remove(known)

    def of(self, key: Key) -> list[T]:
        """The objects of a job."""
        return list(self._items.get(key, {}).values())

    def keys(self) -> list[Key]:
        """The jobs that have objects here."""
        return list(self._items)

    def sync(self, items: Iterable[T], version: int, within: Iterable[Key] | None = None) -> None:
        """Take over a complete list read at `version`; what is older and not in it is gone.

        Args:
            items: The objects that the list holds.
            version: Resource version of the list.
            within: The jobs that the list speaks of; None for all.
        """
        present = set()
        for item in items:
            present.add(item.uid)
            self.put(item)
        for known in list(self._all(within)):
            if known.uid not in present and known.resource_version <= version:
                self._remove(known)

    def _all(self, within: Iterable[Key] | None) -> Iterator[T]:
        for key in self.keys() if within is None else within:
            yield from self.of(key)

    def _remove(self, item: T) -> None:
        items = self._items.get(item.key, {})
        items.pop(item.name, None)
        if not items:
            self._items.pop(item.key, None)
