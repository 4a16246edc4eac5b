"""Places on the Hugging Face hub: `hf://org/name[@revision]`, a repository at one commit.

Made by `storage.Storage`; read only. The revision is resolved to a commit once, and everything is
listed and fetched at that commit. Every file is checked against the digest that the listing gives.
"""

import contextvars
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign
from finetune_trainer.storage.hub_client import HubClient
from finetune_trainer.storage.place import StoredFile

DEFAULT_REVISION = "main"
DOWNLOADS = 4
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class HubPlace:
    """A repository, or a folder of one.

    Attributes:
        client: The hub.
        repository: `org/name`, or `name` for the few that have no owner.
        revision: Branch, tag or commit that was asked for.
        missing: Reason when there is nothing.
        inside: Folder in the repository, without slashes at its ends; empty for all of it.
    """

    client: HubClient
    repository: str
    revision: str
    missing: Reason
    inside: str = ""

    @classmethod
    def parse(cls, uri: str, client: HubClient, missing: Reason) -> "HubPlace":
        """The place at an `hf://` URI; nothing is asked yet.

        Raises:
            TrainerError: InvalidSpec if the URI names no repository.
        """
        repository, _, revision = uri.removeprefix("hf://").rstrip("/").partition("@")
        if repository.count("/") > 1:
            message = f"{uri}: a repository of the hub is org/name, without a path in it"
            raise TrainerError(Reason.INVALID_SPEC, message)
        return cls(client, repository, revision or DEFAULT_REVISION, missing)

    @property
    def uri(self) -> str:
        """The URI."""
        asked = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"hf://{self.repository}{asked}" + (f"/{self.inside}" if self.inside else "")

    @property
    def identity(self) -> str:
        """The URI with the commit."""
        return f"hf://{self.repository}@{self.commit}"

    @property
    def commit(self) -> str:
        """The commit that the revision stands for in this run."""
        return self.client.commit(self.repository, self.revision, self.uri, self.missing)

    def files(self) -> tuple[StoredFile, ...]:
        """All files of the repository, or of the folder in it."""
        prefix = f"{self.inside}/" if self.inside else ""
        found = tuple(
            StoredFile(path.removeprefix(prefix), entry.size, path)
            for path, entry in sorted(self._entries.items())
            if path.startswith(prefix)
        )
        if not found:
            raise TrainerError(self.missing, f"{self.uri}: the repository holds no files there")
        return found

    def fetch(self, files: Sequence[StoredFile], folder: Path) -> Path:
        """Download files; they are kept in one folder a commit, so that no file is fetched twice."""
        del folder
        pool = ThreadPoolExecutor(DOWNLOADS)
        try:
            # Each in a copy of the context, which says that the call is ours.
            tasks = [
                pool.submit(contextvars.copy_context().run, self._download, file.location)
                for file in files
            ]
            for task in tasks:
                task.result()
        finally:
            # A run that is told to stop waits for no download.
            pool.shutdown(wait=False, cancel_futures=True)
        return self._folder / self.inside

    def read(self, name: str) -> bytes | None:
        """A small file's content, or None if the repository has none of this name."""
        path = f"{self.inside}/{name}" if self.inside else name
        return self._download(path).read_bytes() if path in self._entries else None

    def below(self, name: str) -> "HubPlace":
        """A folder of the repository."""
        return replace(self, inside=f"{self.inside}/{name}".strip("/"))

    @property
    def _folder(self) -> Path:
        return self.client.scratch / self.repository.replace("/", "--") / self.commit

    @cached_property
    def _entries(self) -> dict[str, Foreign]:
        entries = self.client.calls(
            lambda: list(
                self.client.api.list_repo_tree(
                    self.repository,
                    recursive=True,
                    revision=self.commit,
                    repo_type=self.client.kind,
                )
            ),
            self.uri,
            self.missing,
        )
        # Folders have no size.
        return {entry.path: entry for entry in entries if hasattr(entry, "size")}

    def _download(self, path: str) -> Path:
        local = self.client.calls(
            lambda: self.client.api.hf_hub_download(
                self.repository,
                path,
                repo_type=self.client.kind,
                revision=self.commit,
                local_dir=self._folder,
            ),
            f"{self.uri}/{path}",
            self.missing,
        )
        if not _is_intact(Path(local), self._entries[path]):
            message = f"{self.uri}/{path} arrived with another digest than the hub lists"
            hint = "Something between here and the hub changes files; try again or look there."
            raise TrainerError(Reason.HUB_UNAVAILABLE, message, hint)
        return Path(local)


def _is_intact(path: Path, entry: Foreign) -> bool:
    """Whether a file has the digest of its entry: SHA-256 if it is large, git's SHA-1 if small."""
    if entry.lfs:
        digest, expected = hashlib.sha256(), str(entry.lfs.sha256)
    else:
        header = f"blob {path.stat().st_size}\0".encode()
        digest, expected = hashlib.sha1(header, usedforsecurity=False), str(entry.blob_id)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == expected
