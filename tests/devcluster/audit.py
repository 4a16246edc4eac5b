"""Reads the API server's audit log, so that tests can count what a client asked of the API.

`controlplane` configures the log with `POLICY`; tests use `DevCluster.audit`. It holds who did what
to which object, never the objects. Reads by the control plane itself are not recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

WRITE_VERBS = frozenset({"create", "update", "patch", "delete", "deletecollection"})

POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
rules:
- {level: None, verbs: [watch]}
- {level: None, nonResourceURLs: ["*"]}
- {level: None, verbs: [get, list], userGroups: ["system:serviceaccounts:kube-system"]}
- level: None
  verbs: [get, list]
  users: ["system:kube-controller-manager", "system:kube-scheduler", "system:apiserver"]
- {level: None, userGroups: ["system:nodes"], resources: [{group: coordination.k8s.io}]}
- {level: Metadata}
"""


class Request(NamedTuple):
    """One request to the API server."""

    verb: str
    resource: str
    subresource: str
    name: str


@dataclass(frozen=True)
class Audit:
    """The audit log of one API server; `user` is a full name such as `system:serviceaccount:a:b`."""

    file: Path

    def mark(self) -> int:
        """Returns the present end of the log, to be given as `since` later."""
        return self.file.stat().st_size if self.file.exists() else 0

    def writes(self, user: str, since: int = 0) -> list[Request]:
        """Returns the writes a user asked for, in order, the refused ones included."""
        return [each for each in self.requests(user, since) if each.verb in WRITE_VERBS]

    def requests(self, user: str, since: int = 0) -> list[Request]:
        """Returns all requests of a user but its watches, in order."""
        return [as_request(event) for event in self.events(user, since)]

    def events(self, user: str | None, since: int = 0) -> Iterator[dict[str, Any]]:
        """Yields the raw audit events of a user (None: of all), with response codes and times."""
        if not self.file.exists():
            return
        with self.file.open("rb") as log:
            log.seek(since)
            for line in log:
                event = json.loads(line) if line.endswith(b"\n") else None
                if event and user in (None, event["user"]["username"]):
                    yield event


def as_request(event: dict[str, Any]) -> Request:
    """Returns the short form of an audit event."""
    target = event.get("objectRef", {})
    parts = (target.get(key, "") for key in ("resource", "subresource", "name"))
    return Request(event["verb"], *parts)
