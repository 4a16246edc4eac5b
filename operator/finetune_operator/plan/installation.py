"""What the installation decides for all jobs: the trainer image and the default store.

Made from the settings by `__main__`; the planners read it, so that they stay free of the
process environment.
"""

from dataclasses import dataclass
from typing import Literal

from finetune_api.meta import SecretReference
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.output import Storage

Checksums = Literal["WhenSupported", "WhenRequired"]


@dataclass(frozen=True)
class Installation:
    """The cluster-wide choices.

    Attributes:
        progress_interval_seconds: Shortest time between two progress records of a trainer.
        hub_endpoint: URL of the hub that `hf://` means; None for the public one.
        endpoint, region, credentials_secret, checksums: Defaults of `spec.storage`.
    """

    image: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    progress_interval_seconds: float = 5
    hub_endpoint: str | None = None
    endpoint: str | None = None
    region: str | None = None
    credentials_secret: str | None = None
    checksums: Checksums | None = None


def with_defaults(spec: FineTuneJobSpec, installation: Installation) -> FineTuneJobSpec:
    """The spec with absent fields of `storage` filled by the installation's defaults."""
    given = spec.storage or Storage()
    filled = {
        "endpoint": given.endpoint or installation.endpoint,
        "region": given.region or installation.region,
        "credentials": given.credentials or _secret(installation),
    }
    # The API server fills `checksums` in, so that "absent" cannot be seen; it goes with the store.
    if given.endpoint is None and installation.checksums is not None:
        filled["checksums"] = installation.checksums
    storage = given.model_copy(update=filled)
    return spec if storage == Storage() else spec.model_copy(update={"storage": storage})


def _secret(installation: Installation) -> SecretReference | None:
    name = installation.credentials_secret
    return SecretReference(secret_name=name) if name else None
