"""Writes kubeconfig files that verify the server's certificate.

Used by `controlplane` for its own users and by `cluster` for service accounts. The files are JSON,
which is YAML too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(
    file: Path, server: str, certificate: bytes, token: str, namespace: str = "default"
) -> Path:
    """Writes a kubeconfig for one bearer token at a server whose certificate is known."""
    authority = base64.b64encode(certificate).decode()
    cluster = {"server": server, "certificate-authority-data": authority}
    return write_like(file, cluster, token, namespace)


def write_like(file: Path, cluster: Mapping[str, Any], token: str, namespace: str) -> Path:
    """Writes a kubeconfig for one bearer token at a cluster known from another kubeconfig."""
    context = {"cluster": "devcluster", "user": "user", "namespace": namespace}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "devcluster",
        "clusters": [{"name": "devcluster", "cluster": cluster}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "devcluster", "context": context}],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(json.dumps(content, indent=1))
    return file
