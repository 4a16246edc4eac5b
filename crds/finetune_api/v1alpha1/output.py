"""`spec.checkpoints`, `spec.output`, `spec.storage`, `spec.tracking`: what is written where."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.meta import (
    AUTO,
    ApiModel,
    AutoOrCount,
    ConfigKey,
    DnsName,
    Line,
    OutputUri,
    Rule,
    SecretReference,
    auto_or_between,
    unchanged,
)


class Checkpoints(ApiModel):
    """How often the run is saved, for a resume after a kill."""

    rules: ClassVar[tuple[Rule, ...]] = (
        auto_or_between("every_steps", 1, 100000000),
        *unchanged("everySteps"),
    )

    every_steps: AutoOrCount = AUTO
    """Steps between checkpoints."""

    keep: Annotated[int, Field(ge=1, le=100)] | None = None
    """How many checkpoints are kept. May change while the job runs."""


class Output(ApiModel):
    """Where the result goes."""

    uri: OutputUri
    """Prefix under which the result is published: `s3://bucket/prefix` or `pvc://claim/path`;
    `file:///path` on a laptop only. It exists once its `manifest.json` does."""

    merged: bool = False
    """Publish the merged weights beside the adapter."""


class CaBundle(ApiModel):
    """Certificates that the storage endpoint is verified with."""

    config_map_name: DnsName
    """ConfigMap in the job's namespace."""

    key: ConfigKey = "ca.crt"
    """Key that holds the PEM bundle."""


class Storage(ApiModel):
    """The S3-compatible store behind every `s3://` of this job."""

    endpoint: (
        Annotated[str, Field(max_length=512, pattern=r"^https?://[-A-Za-z0-9.\[\]:]+(:[0-9]+)?/?$")]
        | None
    ) = None
    """URL of the store; without it, AWS."""

    region: Annotated[str, Field(max_length=64, pattern=r"^[-a-z0-9]+$")] | None = None
    """Region; without it, `us-east-1`."""

    credentials: SecretReference | None = None
    """Secret with keys `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and `AWS_SESSION_TOKEN` where
    the credentials are temporary."""

    ca_bundle: CaBundle | None = None
    """Certificates for a private endpoint."""

    checksums: Literal["WhenSupported", "WhenRequired"] = "WhenSupported"
    """Whether uploads carry checksums; some stores refuse them."""


class MLflow(ApiModel):
    """Reporting to an MLflow server."""

    tracking_uri: Annotated[str, Field(max_length=512, pattern=r"^https?://[^\s]+$")]
    """URL of the server."""

    experiment: Line | None = None
    """Experiment name; without it, the job's namespace."""

    credentials: SecretReference | None = None
    """Secret with `MLFLOW_TRACKING_TOKEN`."""


class Wandb(ApiModel):
    """Reporting to Weights & Biases."""

    project: Line
    """Project name."""

    credentials: SecretReference
    """Secret with `WANDB_API_KEY`."""


class Tracking(ApiModel):
    """Where metrics go, beside the status."""

    tensorboard: bool = True
    """Write TensorBoard files to `tensorboard/` of the output."""

    mlflow: MLflow | None = None
    """Report to MLflow."""

    wandb: Wandb | None = None
    """Report to Weights & Biases."""
