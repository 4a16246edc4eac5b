"""How the API server is reached: address, credentials, certificates.

Made by `handlers.login` from kopf's connection, so that kopf and this client log in alike.
"""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Connection:
    """One way to the API server. Headers hold a token, so they stay out of `repr` and of logs."""

    server: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)


Connect = Callable[[], Connection]
"""Logs in (anew): tokens in a pod are renewed in their file about every hour."""
