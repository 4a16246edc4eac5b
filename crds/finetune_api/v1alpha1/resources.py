"""`spec.resources` and `spec.distributed`: the machines, and how work is spread over them."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import ApiModel, LabelKey, Quantity


class Resources(ApiModel):
    """What each trainer pod asks for."""

    nodes: Annotated[int, Field(ge=1, le=512)] = 1
    """Trainer pods, one a node."""

    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs a pod; 0 trains on the CPU."""

    gpu_resource: LabelKey = "nvidia.com/gpu"
    """Name of the GPU resource on the nodes."""

    cpu: Quantity | None = None
    """CPU request of a pod."""

    memory: Quantity | None = None
    """Memory request and limit of a pod."""

    shared_memory: Quantity | None = None
    """Size of /dev/shm; counts towards `memory`."""

    scratch: Quantity | None = None
    """Size limit of the scratch volume that holds model, data and checkpoints of the run."""


class Distributed(ApiModel):
    """How the model is spread over several GPUs."""

    strategy: Literal["Auto", "DDP", "FSDP", "ZeRO1", "ZeRO2", "ZeRO3"] = "Auto"
    """Which state is sharded: none (DDP) up to parameters (FSDP, ZeRO3)."""

    offload: Literal["None", "Optimizer", "All"] = "None"
    """What is kept in CPU memory."""
