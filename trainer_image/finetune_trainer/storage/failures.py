"""What an exception of boto3 means: one typed reason each, with the store's own error code.

Used by `storage.s3` around every call. Messages name the URI and never a credential.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError

# The store's error code -> reason, what it says, and a hint of its own where the reason's is vague.
_CODES: dict[str, tuple[Reason, str, str | None]] = {
    "NoSuchBucket": (Reason.BUCKET_NOT_FOUND, "the bucket does not exist", None),
    "InvalidAccessKeyId": (
        Reason.STORAGE_CREDENTIALS_INVALID,
        "the store does not know this access key",
        "Check `AWS_ACCESS_KEY_ID` in the Secret named in `storage.credentials`.",
    ),
    "SignatureDoesNotMatch": (
        Reason.STORAGE_CREDENTIALS_INVALID,
        "the secret key does not belong to the access key",
        "Check `AWS_SECRET_ACCESS_KEY` in the Secret named in `storage.credentials`.",
    ),
    "ExpiredToken": (
        Reason.STORAGE_CREDENTIALS_INVALID,
        "the temporary credentials have expired",
        "Renew `AWS_SESSION_TOKEN` and its keys in the Secret.",
    ),
    "InvalidToken": (
        Reason.STORAGE_CREDENTIALS_INVALID,
        "the session token is not valid",
        "Remove or renew `AWS_SESSION_TOKEN` in the Secret.",
    ),
    "RequestTimeTooSkewed": (
        Reason.STORAGE_UNAVAILABLE,
        "this machine's clock and the store's differ too much",
        "Set the clock of the node.",
    ),
    "PermanentRedirect": (
        Reason.INVALID_SPEC,
        "the bucket lies in another region",
        "Set `storage.region` to the bucket's region.",
    ),
    "AuthorizationHeaderMalformed": (
        Reason.INVALID_SPEC,
        "the store expects another region",
        "Set `storage.region` to the bucket's region.",
    ),
    "BadDigest": (
        Reason.STORAGE_CORRUPTED,
        "what arrived at the store is not what was sent",
        None,
    ),
    "XAmzContentSHA256Mismatch": (
        Reason.STORAGE_CORRUPTED,
        "what arrived at the store is not what was sent",
        None,
    ),
    "IncompleteBody": (Reason.STORAGE_CORRUPTED, "the upload was cut short on its way", None),
    "NotImplemented": (
        Reason.INVALID_SPEC,
        "the store does not know something that was asked of it, often upload checksums",
        "Set `storage.checksums: WhenRequired`.",
    ),
}
_ABSENT = ("NoSuchKey", "404", "NotFound")
_DENIED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled")


@contextmanager
def translated(uri: str, missing: Reason) -> Iterator[None]:
    """Turn exceptions of boto3 into `TrainerError`.

    Args:
        uri: What is being read or written, for the message.
        missing: Reason when the object itself does not exist.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise of_code(uri, missing, error) from None
    except (BotoCoreError, Boto3Error) as error:
        raise _of_exception(uri, missing, error) from None


def of_code(uri: str, missing: Reason, error: Exception) -> TrainerError:
    """The failure that a `ClientError` stands for."""
    response = getattr(error, "response", {})
    code = str(response.get("Error", {}).get("Code", "unknown"))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _CODES:
        reason, text, hint = _CODES[code]
        return TrainerError(reason, f"{uri}: {text} ({code})", hint)
    if code in _ABSENT:
        return TrainerError(missing, f"{uri}: no such object ({code})")
    if code in _DENIED or status == 403:
        # To a key of other buckets, many stores do not tell whether a bucket is there at all.
        message = f"{uri}: access denied, or the bucket does not exist ({code})"
        return TrainerError(Reason.STORAGE_ACCESS_DENIED, message)
    return TrainerError(Reason.STORAGE_UNAVAILABLE, f"{uri}: the store answered {status} ({code})")


def _of_exception(uri: str, missing: Reason, error: Exception) -> TrainerError:
    from botocore import exceptions as botocore

    # Uploads wrap the cause into an exception of boto3 that keeps its text only.
    cause = error.__cause__ or error.__context__
    if isinstance(cause, botocore.ClientError):
        return of_code(uri, missing, cause)
    # Downloads that were begun again too often hold the last cause.
    error = getattr(error, "last_exception", None) or error
    if isinstance(error, _damages()):
        message = f"{uri}: what came is not what was stored ({type(error).__name__})"
        return TrainerError(Reason.STORAGE_CORRUPTED, message)
    if isinstance(error, botocore.NoCredentialsError | botocore.PartialCredentialsError):
        message = f"{uri}: no credentials for the store were found"
        return TrainerError(Reason.STORAGE_CREDENTIALS_MISSING, message)
    if isinstance(error, botocore.SSLError):
        message = f"{uri}: the store's certificate cannot be verified ({_tls_cause(error)})"
        return TrainerError(Reason.TLS_VERIFY_FAILED, message)
    if isinstance(error, botocore.ParamValidationError | botocore.InvalidRegionError):
        return TrainerError(Reason.INVALID_SPEC, f"{uri}: {error}")
    message = f"{uri}: {type(error).__name__}: {error}"
    return TrainerError(Reason.STORAGE_UNAVAILABLE, message)


def _damages() -> tuple[type[Exception], ...]:
    from botocore import exceptions as botocore

    return (
        botocore.FlexibleChecksumError,
        botocore.IncompleteReadError,
        botocore.ResponseStreamingError,
    )


def _tls_cause(error: Exception) -> str:
    # "SSL validation failed for URL [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: …"
    _, _, cause = str(error).partition("[SSL: ")
    return cause.replace("]", ":", 1) if cause else str(error)
