"""Places in an S3-compatible store.

Made by `storage.Storage`. Every call is bounded in time and turns boto3's exceptions into reasons.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign, S3Client
from finetune_trainer.storage.again import undamaged
from finetune_trainer.storage.failures import translated
from finetune_trainer.storage.place import StoredFile, Versioned
from finetune_trainer.storage.uri import Uri

_MEBI = 1024 * 1024

MULTIPART_THRESHOLD = 64 * _MEBI
PART_SIZE = 32 * _MEBI
"""Of one part of a big file; eight are under way at once, read from and written to disk in pieces."""


@dataclass(frozen=True)
class S3Place:
    """A prefix, or one object, of a bucket.

    Attributes:
        client: boto3's S3 client.
        at: Bucket and key.
        missing: Reason when there is nothing.
    """

    client: S3Client
    at: Uri
    missing: Reason

    @property
    def uri(self) -> str:
        """The URI."""
        return str(self.at)

    @property
    def identity(self) -> str:
        """The URI."""
        return self.uri

    def files(self) -> tuple[StoredFile, ...]:
        """The object of exactly this key, or all below it."""
        with translated(self.uri, self.missing):
            exact = self._exact()
            found = (exact,) if exact else tuple(self._below())
        if not found:
            message = f"{self.uri}: no such object, and no objects below it"
            raise TrainerError(self.missing, message)
        return found

    def fetch(self, files: Sequence[StoredFile], folder: Path) -> Path:
        """Download files into `folder`."""
        for file in files:
            target = folder / file.name
            if not target.resolve().is_relative_to(folder.resolve()):
                message = f"{self.uri}: the key {file.location} leads out of the download folder"
                raise TrainerError(Reason.INVALID_SPEC, message)
            target.parent.mkdir(parents=True, exist_ok=True)
            undamaged(partial(self._download, file, target))
        return folder

    def read(self, name: str) -> bytes | None:
        """An object's content, or None."""
        found = self.read_versioned(name)
        return found.content if found else None

    def read_versioned(self, name: str) -> Versioned | None:
        """An object's content with its ETag, or None."""
        return undamaged(partial(self._get, name))

    def put(self, source: Path, name: str) -> None:
        """Upload a file, in parts if it is big; what fails leaves no parts behind."""
        undamaged(partial(self._upload, source, name))

    def put_new(self, name: str, content: bytes) -> bool:
        """Write an object unless it exists, decided by the store."""
        return self._put_if(name, content, IfNoneMatch="*")

    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Overwrite an object that has that ETag, decided by the store."""
        return self._put_if(name, content, IfMatch=version)

    def listing(self) -> tuple[StoredFile, ...]:
        """All objects below, sorted by key; there may be none."""
        with translated(self.uri, self.missing):
            return tuple(self._below())

    def delete(self, name: str) -> None:
        """Delete an object; S3 does not mind if it is absent."""
        with translated(self._uri_of(name), self.missing):
            self.client.delete_object(Bucket=self.at.authority, Key=self._key(name))

    def delete_all(self, names: Sequence[str]) -> None:
        """Delete objects one by one: not every store knows the call for many."""
        for name in names:
            self.delete(name)

    def discard_unfinished(self) -> int:
        """Abort the multipart uploads below, whoever began them."""
        pages = self.client.get_paginator("list_multipart_uploads")
        found = 0
        with translated(self.uri, self.missing):
            for page in pages.paginate(Bucket=self.at.authority, Prefix=f"{self.at.path}/"):
                for upload in page.get("Uploads", ()):
                    self._abort(upload["Key"], upload["UploadId"])
                    found += 1
        return found

    def below(self, name: str) -> "S3Place":
        """The place of a prefix below this one."""
        return replace(self, at=replace(self.at, path=f"{self.at.path}/{name}"))

    def _get(self, name: str) -> Versioned | None:
        with translated(self._uri_of(name), self.missing):
            try:
                answer = self.client.get_object(Bucket=self.at.authority, Key=self._key(name))
            except self.client.exceptions.NoSuchKey:
                return None
            return Versioned(bytes(answer["Body"].read()), str(answer["ETag"]))

    def _download(self, file: StoredFile, target: Path) -> None:
        uri = f"s3://{self.at.authority}/{file.location}"
        with translated(uri, self.missing):
            self.client.download_file(
                self.at.authority, file.location, str(target), Config=_transfer()
            )
        size = target.stat().st_size
        if size != file.size:
            message = f"{uri}: {size} bytes came, and {file.size} were listed"
            raise TrainerError(Reason.STORAGE_CORRUPTED, message)

    def _upload(self, source: Path, name: str) -> None:
        with translated(self._uri_of(name), self.missing):
            self.client.upload_file(
                str(source), self.at.authority, self._key(name), Config=_transfer()
            )

    def _put_if(self, name: str, content: bytes, **condition: str) -> bool:
        return undamaged(partial(self._put_once, name, content, condition))

    def _put_once(self, name: str, content: bytes, condition: Mapping[str, str]) -> bool:
        from botocore.exceptions import ClientError

        with translated(self._uri_of(name), self.missing):
            try:
                self.client.put_object(
                    Bucket=self.at.authority, Key=self._key(name), Body=content, **condition
                )
            except ClientError as error:
                # The third: nothing is there to have that version.
                if error.response["Error"]["Code"] in ("PreconditionFailed", "412", "NoSuchKey"):
                    return False
                raise
        return True

    def _abort(self, key: str, upload: str) -> None:
        # It may be gone because its owner ended it meanwhile.
        with suppress(self.client.exceptions.NoSuchUpload):
            self.client.abort_multipart_upload(Bucket=self.at.authority, Key=key, UploadId=upload)

    def _exact(self) -> StoredFile | None:
        # The key itself sorts before every longer key, so one entry tells.
        answer = self.client.list_objects_v2(
            Bucket=self.at.authority, Prefix=self.at.path, MaxKeys=1
        )
        first = (answer.get("Contents") or [{}])[0]
        if first.get("Key") != self.at.path:
            return None
        return StoredFile(PurePosixPath(self.at.path).name, first["Size"], self.at.path)

    def _below(self) -> Iterator[StoredFile]:
        prefix = f"{self.at.path}/" if self.at.path else ""
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.at.authority, Prefix=prefix):
            for entry in page.get("Contents", ()):
                name = entry["Key"].removeprefix(prefix)
                # Some consoles make an empty object for a folder.
                if name and not name.endswith("/"):
                    yield StoredFile(name, entry["Size"], entry["Key"])

    def _key(self, name: str) -> str:
        return f"{self.at.path}/{name}"

    def _uri_of(self, name: str) -> str:
        return f"{self.uri}/{name}"


def _transfer() -> Foreign:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=MULTIPART_THRESHOLD,
        multipart_chunksize=PART_SIZE,
        max_concurrency=8,
        # Of 256 KiB each: what came from the store and waits for the disk.
        max_io_queue=100,
    )
