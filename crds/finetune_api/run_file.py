"""The run file: what the operator tells the trainer, and the pod contract around it.

The operator writes it into an annotation of the pod template, the kubelet projects it as a file,
and `finetune-trainer run FILE` reads it. It holds no secret and no path: secrets and volumes are
mounted at the places named here, which the pod template repeats in environment variables so that
a node without mount namespaces can move them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from finetune_api.meta import API_VERSION, ApiModel, OutputUri, SourceUri
from finetune_api.v1alpha1.job import FineTuneJob, FineTuneJobSpec

RUN_FILE_ANNOTATION = "finetune.dev/run-file"
RUN_FILE_PATH = "/etc/finetune/run/run.json"

# Variable of the pod's environment -> where the thing is mounted in the container.
STORAGE_CREDENTIALS = "FINETUNE_STORAGE_CREDENTIALS"
HUB_MODEL_CREDENTIALS = "FINETUNE_HUB_MODEL_CREDENTIALS"
HUB_DATA_CREDENTIALS = "FINETUNE_HUB_DATA_CREDENTIALS"
CA_BUNDLE = "FINETUNE_CA_BUNDLE"
SCRATCH = "FINETUNE_SCRATCH"
TERMINATION_LOG = "FINETUNE_TERMINATION_LOG"
# `host:port` where the pods of a job with several nodes meet: that of rank 0.
RENDEZVOUS = "FINETUNE_RENDEZVOUS"
MOUNT_PATHS = {
    STORAGE_CREDENTIALS: "/etc/finetune/credentials/storage",
    HUB_MODEL_CREDENTIALS: "/etc/finetune/credentials/hub-model",
    HUB_DATA_CREDENTIALS: "/etc/finetune/credentials/hub-data",
    CA_BUNDLE: "/etc/finetune/ca",
    SCRATCH: "/scratch",
    TERMINATION_LOG: "/dev/termination-log",
}
CA_BUNDLE_FILE = "ca.crt"
HUB_TOKEN_FILE = "HF_TOKEN"  # noqa: S105 - the name of a file, not a token
# The hub's address, in the hub's own variable; absent for the public hub.
HUB_ENDPOINT = "HF_ENDPOINT"


def volume_variable(claim: str) -> str:
    """Environment variable that holds the mount path of a persistent volume claim.

    >>> volume_variable("team-data.v2")
    'FINETUNE_VOLUME_TEAM_DATA_DOT_V2'
    """
    return "FINETUNE_VOLUME_" + claim.upper().replace("-", "_").replace(".", "_DOT_")


def volume_mount_path(claim: str) -> str:
    """Where a persistent volume claim is mounted in the trainer's container."""
    return f"/volumes/{claim}"


class JobIdentity(ApiModel):
    """Which job a run belongs to."""

    namespace: str
    name: str
    uid: str


class RunFile(ApiModel):
    """One attempt of one job, with the installation's defaults filled in."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION
    kind: Literal["RunFile"] = "RunFile"
    job: JobIdentity
    attempt: Annotated[int, Field(ge=1)] = 1
    spec: FineTuneJobSpec
    sources: dict[SourceUri, OutputUri] = Field(default={})
    """Where the output of each other job lies that the spec names: `job://name` -> its `output.uri`."""

    micro_batch_divisor: Annotated[int, Field(ge=1, le=16)] = 1
    """By how much the micro-batch is made smaller than resolved, after memory ran out; the rows of an
    optimiser step stay the same."""

    grace_seconds: Annotated[int, Field(ge=0, le=86400)] = 30
    """Time between SIGTERM and SIGKILL."""

    progress_interval_seconds: Annotated[float, Field(gt=0, le=600)] = 5
    """Shortest time between two progress records on stdout."""

    @classmethod
    def of_manifest(cls, job: FineTuneJob, uid: str) -> Self:
        """The run file of a manifest that is run without Kubernetes."""
        identity = JobIdentity(namespace=job.metadata.namespace, name=job.metadata.name, uid=uid)
        return cls(job=identity, spec=job.spec)

    def manifest(self) -> dict[str, Any]:
        """The FineTuneJob that this run carries out, as it can be applied again."""
        metadata = {"name": self.job.name, "namespace": self.job.namespace}
        head = {"apiVersion": API_VERSION, "kind": "FineTuneJob", "metadata": metadata}
        return {**head, "spec": self.spec.to_dict()}
