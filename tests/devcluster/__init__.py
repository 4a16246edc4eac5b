"""A real Kubernetes control plane, process nodes and a real S3 server, with no Docker and no root.

`DevCluster` is the way in: `make demo` (through `__main__`) and the cluster and e2e tests use it.
What it is not: a kubelet. Pods run as plain processes of this machine, and `pods.py` says what
that leaves out.
"""

from devcluster.cluster import DevCluster
from devcluster.errors import DevClusterError
from devcluster.s3 import S3Server

__all__ = ["DevCluster", "DevClusterError", "S3Server"]
