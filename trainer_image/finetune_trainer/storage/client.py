"""The S3 client: endpoint, credentials, certificates, and a bound on how long it tries.

Made once a run by `storage.Storage`. Credentials come from files that Kubernetes mounts, read again
for every request, or on a laptop from boto3's own search; they are never logged.
"""

from pathlib import Path

from finetune_api.v1alpha1.output import Storage as StorageSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.environment import Environment
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign, S3Client
from finetune_trainer.storage.failures import translated

DEFAULT_REGION = "us-east-1"
ATTEMPTS = 5
"""How often a request is sent before the store counts as away: for about ten seconds."""

_REQUIRED = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_OPTIONAL = ("AWS_SESSION_TOKEN",)
_CHECKSUMS = {"WhenSupported": "when_supported", "WhenRequired": "when_required"}


def read_credentials(folder: Path) -> dict[str, str]:
    """The credentials in a mounted Secret, by key.

    Raises:
        TrainerError: A required key is absent or empty, or a value is not one line of text. The
            message names the key and never the value.
    """
    found = {}
    for key in (*_REQUIRED, *_OPTIONAL):
        value = _read(folder / key)
        if value:
            found[key] = value
        elif key in _REQUIRED:
            state = "is empty" if value is not None else "is missing"
            message = f"the Secret in `storage.credentials`: key {key} {state}"
            raise TrainerError(Reason.STORAGE_CREDENTIALS_MISSING, message)
    return found


def _read(path: Path) -> str | None:
    try:
        # `kubectl create secret --from-file` keeps the newline that editors put at the end.
        lines = path.read_text("utf-8").strip().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        lines = ["not", "text"]
    if len(lines) > 1:
        message = f"the Secret in `storage.credentials`: key {path.name} is not one line of text"
        raise TrainerError(Reason.STORAGE_CREDENTIALS_INVALID, message)
    return "".join(lines)


def make_client(spec: StorageSpec, environment: Environment) -> S3Client:
    """boto3's S3 client for this job.

    Raises:
        TrainerError: The mounted credentials are not usable.
    """
    session = _session(environment.credentials)
    with translated(spec.endpoint or "AWS S3", Reason.STORAGE_UNAVAILABLE):
        client = session.client(
            "s3",
            endpoint_url=spec.endpoint,
            region_name=spec.region or DEFAULT_REGION,
            verify=str(environment.ca_bundle) if environment.ca_bundle else None,
            config=_config(spec),
        )
    client.meta.events.register("needs-retry.s3.PutObject", _pause_of_conflict)
    if spec.checksums == "WhenRequired":
        _guard_uploads_with_md5(client)
    return client


def _session(credentials: Path | None) -> Foreign:
    import boto3
    import botocore.session

    if credentials is None:
        return boto3.session.Session()
    from botocore.credentials import CredentialResolver

    from finetune_trainer.storage.rotation import MountedCredentials

    mounted = MountedCredentials(credentials, read_credentials)
    resolver = CredentialResolver([])
    resolver.load_credentials = lambda: mounted
    session = botocore.session.get_session()
    session.register_component("credential_provider", resolver)
    return boto3.session.Session(botocore_session=session)


def _pause_of_conflict(
    response: tuple[Foreign, Foreign] | None, attempts: int, **_: Foreign
) -> float | None:
    """Seconds until a conditional write is sent again that met another one; None for the rest."""
    # Not decided, unlike a 412: the store asks for the same request again, and boto3 gives up.
    code = response[1].get("Error", {}).get("Code") if response else None
    if code != "ConditionalRequestConflict" or attempts >= ATTEMPTS:
        return None
    return float(0.1 * 2**attempts)


def _guard_uploads_with_md5(client: S3Client) -> None:
    """Give uploads the one digest that every store knows, where the newer ones are not wanted."""
    from botocore.utils import calculate_md5

    def add(params: dict[str, Foreign], **_: Foreign) -> None:
        params["headers"]["Content-MD5"] = calculate_md5(params["body"])

    for operation in ("PutObject", "UploadPart"):
        client.meta.events.register(f"before-call.s3.{operation}", add)


def _config(spec: StorageSpec) -> Foreign:
    from botocore.config import Config

    checksums = _CHECKSUMS[spec.checksums]
    return Config(
        # Stores that are not AWS rarely have a DNS name for every bucket.
        s3={"addressing_style": "path"} if spec.endpoint else None,
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "adaptive", "total_max_attempts": ATTEMPTS},
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        max_pool_connections=16,
    )
