"""What lies in a job's folder of checkpoints, by one listing.

Built by `store`. It knows names and sizes only; whether a checkpoint is whole is for its manifest to say.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from finetune_trainer.checkpoints.manifest import MANIFEST, CheckpointManifest, order_of
from finetune_trainer.storage import StoredFile


@dataclass(frozen=True)
class Entry:
    """The folder of one checkpoint.

    Attributes:
        folder: Its name.
        order: Step and attempt; the greater one is newer.
        files: What lies in it, named from above it.
    """

    folder: str
    order: tuple[int, int]
    files: tuple[StoredFile, ...]

    @property
    def attempt(self) -> int:
        """The attempt that wrote it."""
        return self.order[1]

    @property
    def published(self) -> bool:
        """Whether there is a manifest."""
        return any(file.name == MANIFEST for file in self.below())

    def below(self) -> tuple[StoredFile, ...]:
        """The files, named from the folder."""
        start = len(self.folder) + 1
        return tuple(replace(file, name=file.name[start:]) for file in self.files)

    def holds(self, manifest: CheckpointManifest) -> bool:
        """Whether all files of the manifest are there in their sizes."""
        sizes = {file.name: file.size for file in self.below()}
        return all(sizes.get(file.path) == file.size_bytes for file in manifest.files)


@dataclass(frozen=True)
class Shelf:
    """All checkpoint folders of a job, finished or not."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, listing: Iterable[StoredFile]) -> "Shelf":
        """Sort a listing into folders; what is not a checkpoint's is left out."""
        folders: dict[str, list[StoredFile]] = {}
        for file in listing:
            folder, inside, _ = file.name.partition("/")
            if inside:
                folders.setdefault(folder, []).append(file)
        found = ((name, order_of(name), tuple(files)) for name, files in folders.items())
        return cls(tuple(Entry(name, order, files) for name, order, files in found if order))

    def newest_first(self) -> list[Entry]:
        """Those with a manifest, the greatest step first."""
        published = (entry for entry in self.entries if entry.published)
        return sorted(published, key=lambda entry: entry.order, reverse=True)
