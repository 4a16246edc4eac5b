"""The kind FineTuneJob: its spec put together, the rules across blocks, and its print columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetune_api.meta import IMMUTABLE, ApiModel, DnsLabel, Rule, unchanged
from finetune_api.v1alpha1.compatibility import rules as compatibility_rules
from finetune_api.v1alpha1.data import (
    Data,
    DataSource,
    format_rules,
    packing_rules,
    streaming_rules,
)
from finetune_api.v1alpha1.method import Method
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.output import Checkpoints, Output, Storage, Tracking
from finetune_api.v1alpha1.resources import Distributed, Resources
from finetune_api.v1alpha1.scheduling import RunPolicy, Scheduling
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_api.v1alpha1.training import Training
from finetune_api.v1alpha1.tuning import Tuning

# A Job's pods are named <job>-<index>-<suffix>, and the attempt adds its number; 50 leaves room in
# the 63 characters of a DNS label.
MAX_NAME_LENGTH = 50


class FineTuneJobSpec(ApiModel):
    """What is wanted. Only `suspend`, the priority and retention may change after creation."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *format_rules(),
        *packing_rules(),
        *streaming_rules(),
        *compatibility_rules(),
        Rule(
            cel="self.resources.nodes * (self.resources.gpusPerNode > 0 ? self.resources.gpusPerNode : 1)"
            " > 1 || self.distributed.strategy in ['Auto', 'DDP'] || self.distributed.offload != 'None'",
            message="sharding (FSDP, ZeRO) over one GPU does nothing; set `distributed.offload`, "
            "more `resources.gpusPerNode` or more `resources.nodes`",
            check=lambda s: (
                s.resources.nodes * max(s.resources.gpus_per_node, 1) > 1
                or s.distributed.strategy in ("Auto", "DDP")
                or s.distributed.offload != "None"
            ),
        ),
        Rule(
            cel="self.tuning.type != 'QLoRA' || self.distributed.strategy != 'ZeRO3'",
            message="QLoRA cannot be combined with ZeRO3: the quantised base cannot be sharded by it; "
            "use ZeRO2 or FSDP",
            check=lambda s: s.tuning.type != "QLoRA" or s.distributed.strategy != "ZeRO3",
        ),
        Rule(
            cel="!has(self.training.earlyStopping) || has(self.data.evaluation)",
            message="`training.earlyStopping` needs held-out rows; give `data.evaluation`",
            check=lambda s: s.training.early_stopping is None or s.data.evaluation is not None,
        ),
        Rule(
            cel="!has(self.training.earlyStopping) || self.tuning.type != 'AdaLoRA'",
            message="`training.earlyStopping` would publish ranks that AdaLoRA has not pruned yet",
            check=lambda s: s.training.early_stopping is None or s.tuning.type != "AdaLoRA",
        ),
        *unchanged("storage", "tracking"),
    )

    model: Annotated[Model, IMMUTABLE]
    """The base model."""

    data: Annotated[Data, IMMUTABLE]
    """What it learns from."""

    method: Annotated[Method, IMMUTABLE] = Method()
    """The training objective."""

    tuning: Annotated[Tuning, IMMUTABLE] = Tuning()
    """Which parameters move."""

    training: Annotated[Training, IMMUTABLE] = Training()
    """Optimisation settings."""

    resources: Annotated[Resources, IMMUTABLE] = Resources()
    """What each trainer pod asks for."""

    distributed: Annotated[Distributed, IMMUTABLE] = Distributed()
    """How work is spread over GPUs."""

    checkpoints: Checkpoints = Checkpoints()
    """How often the run is saved."""

    output: Annotated[Output, IMMUTABLE]
    """Where the result goes."""

    storage: Annotated[Storage, IMMUTABLE] | None = None
    """The S3-compatible store; without it, the default of the installation."""

    scheduling: Scheduling = Scheduling()
    """Where the pods may run."""

    run_policy: RunPolicy = RunPolicy()
    """What happens around the run."""

    tracking: Annotated[Tracking, IMMUTABLE] | None = None
    """Where metrics go, beside the status."""

    suspend: bool = False
    """Hold no resources: pods save a checkpoint and end; `false` goes on from there in a new attempt."""

    def data_sources(self) -> Iterator[tuple[str, DataSource]]:
        """Every source of rows, with its path below `spec`."""
        for index, source in enumerate(self.data.train):
            yield f"data.train[{index}]", source
        evaluation = self.data.evaluation
        for index, source in enumerate(evaluation.sources or () if evaluation else ()):
            yield f"data.evaluation.sources[{index}]", source

    def input_uris(self) -> Iterator[tuple[str, str]]:
        """Every URI that is read, with its path below `spec`."""
        yield from self.model_uris()
        for path, source in self.data_sources():
            yield f"{path}.source", source.source

    def model_uris(self) -> Iterator[tuple[str, str]]:
        """Every model that is read, the one that is tuned first, with its path below `spec`."""
        yield "model.source", self.model.source
        for path, uri in self.method.model_uris():
            yield f"method.{path}", uri

    def source_jobs(self) -> dict[str, str]:
        """Every job of this namespace whose output is read, with the first path that names it."""
        found: dict[str, str] = {}
        for path, uri in self.input_uris():
            scheme, _, name = uri.partition("://")
            if scheme == "job":
                found.setdefault(name, path)
        return found


class ObjectMeta(ApiModel):
    """The metadata that a manifest on a laptop carries; the API server has its own, larger kind."""

    model_config = {**ApiModel.model_config, "extra": "ignore"}

    name: Annotated[DnsLabel, Field(max_length=MAX_NAME_LENGTH)]
    """Name of the job."""

    namespace: DnsLabel = "default"
    """Namespace of the job."""

    uid: Annotated[str, Field(max_length=64)] | None = None
    """Set by the API server."""

    generation: int | None = None
    """Set by the API server."""


class FineTuneJob(ApiModel):
    """One fine-tuning run of a language model."""

    model_config = {**ApiModel.model_config, "title": "FineTuneJob"}

    api_version: Literal["finetune.dev/v1alpha1"] = "finetune.dev/v1alpha1"
    kind: Literal["FineTuneJob"] = "FineTuneJob"
    metadata: ObjectMeta
    spec: FineTuneJobSpec
    """What is wanted."""
    status: FineTuneJobStatus | None = None
    """What was observed; written by the operator only."""


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get finetunejobs`; `wide` ones show with `-o wide` only."""

    name: str
    path: str
    kind: str = "string"
    wide: bool = False


COLUMNS = (
    Column("Method", ".spec.method.type"),
    Column("Tuning", ".spec.tuning.type"),
    Column("Model", ".spec.model.source"),
    Column("State", ".status.state"),
    Column("Progress", ".status.progress.percent", "integer"),
    Column("Loss", ".status.progress.loss"),
    Column("ETA", ".status.progress.eta"),
    Column("Age", ".metadata.creationTimestamp", "date"),
    Column("Nodes", ".spec.resources.nodes", "integer", wide=True),
    Column("GPUs", ".spec.resources.gpusPerNode", "integer", wide=True),
    Column("Output", ".status.output.uri", wide=True),
    Column("Reason", ".status.failure.reason", wide=True),
)

NAMES: dict[str, Any] = {
    "plural": "finetunejobs",
    "singular": "finetunejob",
    "kind": "FineTuneJob",
    "listKind": "FineTuneJobList",
    "shortNames": ["ftj"],
    "categories": ["finetune"],
}
