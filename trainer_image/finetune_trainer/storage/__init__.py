"""Storage: opens the place behind a URI, whatever its scheme.

`inputs` opens what is read, `publish` where it is written. Only `storage.s3` and its neighbours know
boto3, and only when there is an `s3://` URI; only `storage.hub` and its neighbours know
huggingface_hub, and only when there is an `hf://` URI.
"""

from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from finetune_api.v1alpha1.output import Storage as StorageSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.environment import Environment
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import S3Client
from finetune_trainer.storage.local import LocalPlace
from finetune_trainer.storage.place import Place, Source, StoredFile, Versioned
from finetune_trainer.storage.uri import Uri

if TYPE_CHECKING:
    from finetune_trainer.storage.hub_client import HubClient

__all__ = ["Place", "Source", "Storage", "StoredFile", "Versioned"]


class Storage:
    """The stores of one job."""

    def __init__(self, spec: StorageSpec | None, environment: Environment) -> None:
        self._spec = spec or StorageSpec()
        self._environment = environment
        # One of a kind for the whole run: it remembers what each revision stood for.
        self._hub = cache(self._make_hub_client)

    def source(
        self, uri: str, missing: Reason, kind: Literal["model", "dataset"] = "model"
    ) -> Source:
        """What can be read at a URI; nothing is read yet.

        Args:
            uri: `hf://`, or what `place` takes.
            missing: Reason of the failure when it turns out to be absent.
            kind: What a repository of the hub holds.

        Raises:
            TrainerError: As for `place`.
        """
        if uri.startswith("hf://"):
            from finetune_trainer.storage.hub import HubPlace

            return HubPlace.parse(uri, self._hub(kind), missing)
        return self.place(uri, missing)

    def place(self, uri: str, missing: Reason) -> Place:
        """The place at a URI; nothing is read yet.

        Args:
            uri: `s3://`, `pvc://` or `file://`.
            missing: Reason of the failure when the place turns out to be absent.

        Raises:
            TrainerError: The credentials are not usable, or the volume is not mounted.
        """
        at = Uri.parse(uri)
        if at.scheme == "s3":
            from finetune_trainer.storage.s3 import S3Place

            return S3Place(self._client, at, missing)
        if at.scheme == "pvc":
            root = self._volume(at)
            return LocalPlace(uri.rstrip("/"), root / at.path, root, missing)
        return LocalPlace(uri.rstrip("/"), Path("/") / at.path, None, missing)

    def _volume(self, at: Uri) -> Path:
        root = self._environment.volume(at.authority)
        if root is None:
            message = f"{at}: the volume claim {at.authority} is not mounted here"
            hint = "On a laptop, set FINETUNE_VOLUME_<CLAIM> to a folder that stands for it."
            raise TrainerError(Reason.INVALID_SPEC, message, hint)
        return root

    def _make_hub_client(self, kind: Literal["model", "dataset"]) -> "HubClient":
        from finetune_trainer.storage.hub_client import make_hub_client

        return make_hub_client(self._environment, kind)

    @cached_property
    def _client(self) -> S3Client:
        from finetune_trainer.storage.client import make_client

        return make_client(self._spec, self._environment)
