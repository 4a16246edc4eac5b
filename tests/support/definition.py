"""Installs the custom resource definition and waits until the API server serves it."""

import time
from pathlib import Path

from devcluster.cluster import DevCluster

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds/finetunejobs.yaml"
SERVED = "/apis/finetune.dev/v1alpha1/finetunejobs"


def install(cluster: DevCluster, seconds: float = 30) -> None:
    """Apply the definition with kubectl; returns once jobs can be listed."""
    cluster.kubectl("apply", "-f", str(CRD))
    deadline = time.monotonic() + seconds
    # Not `kubectl wait`: it gives up on a definition that has no conditions yet.
    while cluster.kubectl("get", "--raw", SERVED, check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the API server does not serve {SERVED} after {seconds:.0f} s")
        time.sleep(0.1)
