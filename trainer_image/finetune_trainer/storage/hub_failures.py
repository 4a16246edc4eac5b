"""What an exception of huggingface_hub means: one typed reason each.

Used by `storage.hub_client` around every call. Messages name the URI and the hub's own words, and
never a token or an address with a signature.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign

_TEMPORARY = (408, 429, 500, 502, 503, 504)


@contextmanager
def translated(uri: str, missing: Reason, *, known: bool) -> Iterator[None]:
    """Turn exceptions of huggingface_hub into `TrainerError`.

    Args:
        uri: What is being read, for the message.
        missing: Reason when it does not exist.
        known: Whether a token was shown to the hub.
    """
    import httpx2
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise TrainerError(Reason.INVALID_SPEC, f"{uri}: {error}") from None
    except (OSError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _failure(uri, missing, _cause(error), known=known) from None


def is_temporary(error: Exception) -> bool:
    """Whether the same call may succeed a moment later."""
    import httpx2

    if isinstance(error, httpx2.TransportError):
        return not _is_tls(error)
    return _status(error) in _TEMPORARY


def retry_after(error: Exception) -> float | None:
    """Seconds that the hub asks us to wait, or None."""
    value = _header(error, "Retry-After")
    return float(value) if value and value.isdigit() else None


def _failure(uri: str, missing: Reason, error: Exception, *, known: bool) -> TrainerError:
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return _gated(uri, error, known=known)
    if isinstance(error, errors.RepositoryNotFoundError | errors.DisabledRepoError):
        return _absent(uri, missing, known=known)
    if isinstance(error, errors.RevisionNotFoundError):
        return TrainerError(missing, f"{uri}: the repository has no such revision")
    if isinstance(error, errors.HfHubHTTPError):
        return _of_status(uri, missing, error, known=known)
    if _is_tls(error):
        message = f"{uri}: the hub's certificate cannot be verified"
        hint = "Give its authority in `storage.caBundle`, which is trusted for the hub too."
        return TrainerError(Reason.TLS_VERIFY_FAILED, message, hint)
    if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL):
        message = f"{uri}: the hub does not answer ({type(error).__name__})"
        return TrainerError(Reason.HUB_UNAVAILABLE, message)
    return _of_content(uri, error)


def _of_content(uri: str, error: Exception) -> TrainerError:
    from huggingface_hub.errors import FileMetadataError

    if isinstance(error, FileMetadataError):
        message = f"{uri}: what answers at HF_ENDPOINT is not a hub"
        return TrainerError(Reason.HUB_UNAVAILABLE, message, "Check the address of the hub.")
    if "Consistency check failed" in str(error):
        message = f"{uri}: the download ended early, again and again"
        return TrainerError(Reason.HUB_UNAVAILABLE, message)
    # The disk, most likely; `outcome` knows those.
    raise error


def _of_status(uri: str, missing: Reason, error: Exception, *, known: bool) -> TrainerError:
    status = _status(error)
    if status == 401 and known:
        return TrainerError(Reason.HUB_CREDENTIALS_INVALID, f"{uri}: the hub refuses the token")
    if status == 401:
        return _absent(uri, missing, known=known)
    if status == 403:
        message = f"{uri}: the hub denies access{_words(error)}"
        return TrainerError(Reason.HUB_ACCESS_DENIED, message)
    if status == 404:
        return TrainerError(missing, f"{uri}: the hub knows no such thing")
    if status == 429:
        message = f"{uri}: the hub has had too many requests from here"
        return TrainerError(Reason.HUB_RATE_LIMITED, message)
    return TrainerError(Reason.HUB_UNAVAILABLE, f"{uri}: the hub answered {status}{_words(error)}")


def _gated(uri: str, error: Exception, *, known: bool) -> TrainerError:
    if known:
        message = f"{uri}: the owner of this token has no access yet{_words(error)}"
        return TrainerError(Reason.HUB_ACCESS_DENIED, message)
    message = f"{uri}: the repository is gated, and no token was given"
    hint = "Accept its terms on the hub, and give a token in `model.credentials` (or `data.credentials`)."
    return TrainerError(Reason.HUB_ACCESS_DENIED, message, hint)


def _absent(uri: str, missing: Reason, *, known: bool) -> TrainerError:
    if known:
        return TrainerError(missing, f"{uri}: no such repository, or none that the token may see")
    # To strangers, the hub does not tell whether a private repository is there.
    message = f"{uri}: no such repository, or a private one and no token was given"
    hint = "Check the name; for a private one, give a token in `model.credentials` or `data.credentials`."
    return TrainerError(missing, message, hint)


def _cause(error: Exception) -> Exception:
    from huggingface_hub.errors import LocalEntryNotFoundError

    # "Not in the cache, and the hub could not be asked": the second half is what happened.
    inner = error.__cause__
    if isinstance(error, LocalEntryNotFoundError) and isinstance(inner, Exception):
        return inner
    return error


def _is_tls(error: BaseException) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _status(error: Exception) -> int:
    response: Foreign = getattr(error, "response", None)
    return int(response.status_code) if response is not None else 0


def _header(error: Exception, name: str) -> str | None:
    response: Foreign = getattr(error, "response", None)
    return response.headers.get(name) if response is not None else None


def _words(error: Exception) -> str:
    said = " ".join((_header(error, "X-Error-Message") or "").split())[:300]
    return f": {said}" if said else ""
