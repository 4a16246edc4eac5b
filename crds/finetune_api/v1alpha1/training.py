"""`spec.training`: how long, how fast, how exact."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetune_api.meta import AUTO, ApiModel, AutoOrCount, Rule, auto_or_between

Steps = Annotated[int, Field(ge=1, le=100_000_000)]


class Scheduler(ApiModel):
    """The learning rate over time."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.warmupRatio) && has(self.warmupSteps))",
            message="give at most one of `warmupRatio` and `warmupSteps`",
            check=lambda s: s.warmup_ratio is None or s.warmup_steps is None,
        ),
    )

    type: Literal["Cosine", "Linear", "Constant", "WarmupStableDecay"] = "Cosine"
    """Shape of the schedule."""

    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of all steps in which the rate rises from zero. Without this and without
    `warmupSteps`: 0.1, or 0 for `Constant`."""

    warmup_steps: Annotated[int, Field(ge=0, le=100_000_000)] | None = None
    """Number of steps in which the rate rises from zero."""


class EarlyStopping(ApiModel):
    """Stop when the evaluation loss no longer falls, or the reward no longer rises (PPO, GRPO, RLOO).

    The weights of the best evaluation are then published.
    """

    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations without improvement before the job stops."""

    threshold: Annotated[float, Field(ge=0, le=100)] = 0
    """Smallest fall that counts as improvement."""


class Training(ApiModel):
    """Optimisation settings. What is left out is resolved and shown in `status.resolved`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.epochs) && has(self.maxSteps))",
            message="give at most one of `epochs` and `maxSteps`",
            check=lambda t: t.epochs is None or t.max_steps is None,
        ),
        Rule(
            cel="!has(self.earlyStopping) || has(self.evaluateEverySteps)",
            message="`earlyStopping` looks at evaluations, so it needs `evaluateEverySteps`",
            check=lambda t: t.early_stopping is None or t.evaluate_every_steps is not None,
        ),
        auto_or_between("batch_size", 1, 1048576),
        auto_or_between("micro_batch_size", 1, 65536),
    )

    epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """Passes over the data. Without this and without `maxSteps`: resolved by the row count."""

    max_steps: Steps | None = None
    """Optimiser steps, in place of `epochs`."""

    batch_size: AutoOrCount = AUTO
    """Rows an optimiser step over all GPUs; micro-batch and accumulation follow from it."""

    micro_batch_size: AutoOrCount = AUTO
    """Rows a forward pass on one GPU. It changes memory and speed, never the result."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate. Without it: resolved by method and tuning."""

    weight_decay: Annotated[float, Field(ge=0, le=1)] | None = None
    """AdamW weight decay. Without it: 0 for adapters, 0.01 for full tuning."""

    max_gradient_norm: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""

    optimizer: Literal["Auto", "AdamW", "AdamW8bit", "PagedAdamW8bit", "Adafactor"] = "Auto"
    """The optimiser."""

    scheduler: Scheduler = Scheduler()
    """The learning rate over time."""

    precision: Literal["Auto", "Float32", "BFloat16", "Float16"] = "Auto"
    """Arithmetic of the forward and backward pass."""

    gradient_checkpointing: Literal["Auto", "Enabled", "Offload", "Disabled"] = "Auto"
    """Recompute activations in the backward pass: less memory, more time. `Auto` does so for as few layers
    as the memory allows; with `Offload`, the inputs of all layers wait in the pod's own memory."""

    kernels: Literal["Auto", "Triton", "Torch"] = "Auto"
    """Kernels of the layers: `Triton` demands ours, which need a GPU; `Torch` takes those of PyTorch."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 42
    """Seed of everything that is drawn."""

    log_every_steps: Steps | None = None
    """Steps between log entries. Without it: about a hundred entries a run."""

    evaluate_every_steps: Steps | None = None
    """Steps between evaluations. Without it: before the first and after the last step."""

    early_stopping: EarlyStopping | None = None
    """Stop when the evaluation loss no longer falls."""

    extra: Annotated[dict[str, Any], Field(max_length=32)] | None = None
    """Further arguments of the trainer class by its own names; unknown ones are refused."""
