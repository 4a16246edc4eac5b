"""Credentials that change under a running job.

Used by `storage.client` where a Secret is mounted: the kubelet exchanges the files when the Secret
changes, and every request is signed with what they hold then. Imports botocore, so it is imported
only where there is an `s3://`.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from botocore.credentials import Credentials, ReadOnlyCredentials

from finetune_trainer.errors import TrainerError

logger = logging.getLogger(__name__)

# The kubelet points this link at a new folder, so that all keys of a Secret change at one moment.
_CURRENT = "..data"

Read = Callable[[Path], dict[str, str]]


class MountedCredentials(Credentials):
    """The keys that the files hold at the moment of each request.

    Args:
        folder: Where the Secret is mounted.
        read: Reads one state of the folder; raises `TrainerError` if it is not usable.

    Raises:
        TrainerError: The files are not usable now.
    """

    def __init__(self, folder: Path, read: Read) -> None:
        self._folder, self._read = folder, read
        self._complained = False
        keys = read(_current(folder))
        super().__init__(
            keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], keys.get("AWS_SESSION_TOKEN")
        )

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The keys for one request; those before if the files are not usable just now."""
        try:
            keys = self._read(_current(self._folder))
        except (TrainerError, OSError) as error:
            self._complain(error)
        else:
            self._complained = False
            self.access_key = keys["AWS_ACCESS_KEY_ID"]
            self.secret_key = keys["AWS_SECRET_ACCESS_KEY"]
            self.token = keys.get("AWS_SESSION_TOKEN")
        return ReadOnlyCredentials(self.access_key, self.secret_key, self.token)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            logger.warning("the former credentials are used on: %s", error)
        self._complained = True


def _current(folder: Path) -> Path:
    link = folder / _CURRENT
    return link.resolve() if link.exists() else folder
