"""What every kind of storage can do: a place is a folder (or one file) at a URI.

A `Source` can be read; a `Place` can be written too. Implemented by `storage.s3` and `storage.local`
(both) and `storage.hub` (reading); their users do not know which kind they hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol


@dataclass(frozen=True)
class StoredFile:
    """A file of a place.

    Attributes:
        name: Path below the place, with forward slashes; the base name if the place is one file.
        size: Bytes.
        location: Where it lies: the object's key, or the local path.
    """

    name: str
    size: int
    location: str


class Versioned(NamedTuple):
    """A small file as it was at one moment.

    Attributes:
        content: Its bytes.
        version: What changes whenever the file is written; only to be compared.
    """

    content: bytes
    version: str


class Source(Protocol):
    """A folder, or one file, at a URI. All names are paths below it.

    Every method raises `TrainerError` with a storage reason; the reason for an absent place is
    given when the place is opened, because it depends on what was looked for.
    """

    @property
    def uri(self) -> str:
        """The URI, for messages."""
        ...

    @property
    def identity(self) -> str:
        """The URI for manifests: the same, with nothing in it that can come to mean another."""
        ...

    def files(self) -> tuple[StoredFile, ...]:
        """All files, sorted by name; never empty, an empty place counts as absent."""
        ...

    def fetch(self, files: Sequence[StoredFile], folder: Path) -> Path:
        """Make files readable locally; returns the folder that holds them under their names.

        That is `folder`, after a download, or the place itself where it is local already.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """A small file's content, or None if there is none."""
        ...

    def below(self, name: str) -> "Source":
        """The place of a folder below this one."""
        ...


class Place(Source, Protocol):
    """A source that can be written to."""

    def put(self, source: Path, name: str) -> None:
        """Store a local file, over any former one."""
        ...

    def put_new(self, name: str, content: bytes) -> bool:
        """Store a small file only if none has that name; False if one has. Atomic."""
        ...

    def read_versioned(self, name: str) -> Versioned | None:
        """A small file's content with its version, or None if there is none."""
        ...

    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Overwrite a small file only while it has that version; False if not. Atomic."""
        ...

    def listing(self) -> tuple[StoredFile, ...]:
        """All files below, sorted by name; an absent folder has none."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file; absent is fine."""
        ...

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove many files, in that order; absent ones are fine."""
        ...

    def discard_unfinished(self) -> int:
        """Drop what uploads that never ended left below; returns how many. Ends live ones too."""
        ...

    def below(self, name: str) -> "Place":
        """The place of a folder below this one."""
        ...
