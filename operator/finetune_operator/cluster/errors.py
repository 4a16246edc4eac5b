"""What a request to the API server can end with, beside an answer."""


class ApiError(Exception):
    """The API server refused a request.

    Attributes:
        status: HTTP status.
        reason: Kubernetes' word for it, such as `AlreadyExists`.
        message: Its sentence.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{message or reason} (HTTP {status})")
        self.status = status
        self.reason = reason
        self.message = message


class NotFoundError(ApiError):
    """There is no such object (any more)."""


class ConflictError(ApiError):
    """The object exists already, or has changed since it was read."""


class ExpiredError(ApiError):
    """A list took so long that its beginning is no longer known."""


class UnavailableError(ApiError):
    """The API server could not be reached, or could not answer; trying again may help."""


_CLASSES: dict[int, type[ApiError]] = {
    404: NotFoundError,
    409: ConflictError,
    410: ExpiredError,
    429: UnavailableError,
}


def refusal(status: int, reason: str, message: str) -> ApiError:
    """The error for an HTTP status."""
    kind = UnavailableError if status >= 500 else _CLASSES.get(status, ApiError)
    return kind(status, reason, message)
