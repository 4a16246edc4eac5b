"""Logging in: the service account of the pod, else KUBECONFIG; the same for kopf and for our client.

Called by kopf at the start and when credentials are refused, and by `cluster.transport`.
"""

import kopf

from finetune_operator.cluster.connection import Connection
from finetune_operator.cluster.errors import ApiError


def login(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    """The connection that kopf uses.

    Raises:
        kopf.LoginError: There are no credentials.
    """
    found = kopf.login_with_service_account(settings=settings) or _from_kubeconfig(settings)
    if found is None:
        raise kopf.LoginError("no credentials: neither in a pod, nor is KUBECONFIG set")
    return found


def _from_kubeconfig(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo | None:
    try:
        return kopf.login_with_kubeconfig(settings=settings)
    except (OSError, KeyError, AttributeError, ValueError) as error:
        raise kopf.LoginError(f"KUBECONFIG cannot be used: {error}") from error


def connect() -> Connection:
    """Our client's connection, with credentials as they are now.

    Raises:
        ApiError: There are no credentials.
    """
    try:
        found = login(kopf.OperatorSettings())
    except kopf.LoginError as error:
        raise ApiError(401, "Unauthorized", str(error)) from error
    tls = found.as_ssl_context() if found.server.startswith("https") else None
    return Connection(found.server, found.as_http_headers(), tls)
