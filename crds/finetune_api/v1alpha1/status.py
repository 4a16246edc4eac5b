"""The status of a FineTuneJob: written by the operator only, and rebuilt from the cluster.

Numbers that were measured are strings, as in other training APIs, so that no client rounds them.
Every list is bounded: the whole stays under 16 KiB.
"""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import ApiModel, Kubernetes

Text = Annotated[str, Field(max_length=2048)]
Word = Annotated[str, Field(max_length=256)]
Number = Annotated[str, Field(max_length=32)]
Time = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
Name = Annotated[str, Field(max_length=64)]


class Condition(ApiModel):
    """One condition, as in every Kubernetes API."""

    type: Annotated[str, Field(max_length=64)]
    """What is stated."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    reason: Annotated[str, Field(max_length=64)]
    """One word that says why; see the list of reasons."""

    message: Text
    """A sentence for people."""

    last_transition_time: Time
    """When the status last changed."""

    observed_generation: int | None = None
    """Generation of the spec that this speaks of."""


class Progress(ApiModel):
    """How far the current attempt is, by its own report."""

    phase: Word
    """What it does: LoadingModel, PreparingData, Training, Evaluating, Saving, Publishing, Verifying."""

    step: int = 0
    """Optimiser steps done."""

    total_steps: int | None = None
    """Optimiser steps in all."""

    percent: int = 0
    """Share of the steps that are done."""

    epoch: Number | None = None
    """Passes over the data so far."""

    loss: Number | None = None
    """Training loss of the last log entry, a mean over supervised tokens (nats)."""

    evaluation_loss: Number | None = None
    """Loss on the held-out rows at the last evaluation."""

    metrics: Annotated[dict[Name, Number], Field(max_length=16)] | None = None
    """What the method measures besides the loss, such as `rewardMargin`, at the last log entry."""

    learning_rate: Number | None = None
    """Learning rate of the last step."""

    tokens_per_second: Number | None = None
    """Tokens trained in a second, padding left out."""

    eta_seconds: int | None = None
    """Estimated seconds to the end of training."""

    eta: Number | None = None
    """The same for people, such as `4m10s`."""

    straggler: Text | None = None
    """Which process the others wait for at every step, on which node, and how slow it is."""

    update_time: Time | None = None
    """When the trainer reported this."""


class Resolved(ApiModel):
    """One `Auto` or unset value, with what was chosen."""

    field: Word
    """Path below `spec`."""

    value: Word
    """What was chosen."""

    why: Text
    """The reason for the choice."""


class Plan(ApiModel):
    """What was found out about the data and the memory before training."""

    rows: int | None = None
    """Training rows."""

    evaluation_rows: int | None = None
    """Held-out rows."""

    supervised_tokens: int | None = None
    """Tokens that carry loss in one pass over the data."""

    truncated_rows: int | None = None
    """Rows that were longer than the limit."""

    skipped_rows: int | None = None
    """Rows left out because no token carries loss after truncation."""

    duplicate_rows: int | None = None
    """Rows that equal an earlier one."""

    identical_pairs: int | None = None
    """Preference rows whose chosen and rejected answers are the same."""

    leaked_rows: int | None = None
    """Held-out rows that stand among the training rows too."""

    rows_without_stop_token: int | None = None
    """Rows that do not teach the model to end its answer."""

    longest_row: int | None = None
    """Tokens of the longest row, before it is cut."""

    class_counts: Annotated[dict[Name, int], Field(max_length=32)] | None = None
    """Training rows (or tokens) of each class; the rarest are left out where there are many."""

    trainable_parameters: int | None = None
    """Parameters that are trained."""

    total_parameters: int | None = None
    """Parameters of the model, the adapter included."""

    estimated_memory_bytes: int | None = None
    """Memory that a GPU needs, by the planner's estimate."""


class Attempt(ApiModel):
    """One attempt: one Job."""

    number: int
    """Counted from 1."""

    job: Word
    """Name of the attempt's Job."""

    state: Literal["Pending", "Running", "Succeeded", "Failed", "Stopped"]
    """How it stands. `Stopped`: ended because the job was suspended; it counts against no budget."""

    reason: Word | None = None
    """Why it ended."""

    exit_code: int | None = None
    """Exit code of the first container that failed."""

    node: Word | None = None
    """Node of that pod."""

    start_step: int | None = None
    """Step that it began at."""

    end_step: int | None = None
    """Last step that it reported."""

    checkpoint: Text | None = None
    """Checkpoint that it began from."""

    start_time: Time | None = None
    """When its Job was created."""

    end_time: Time | None = None
    """When it ended."""


class RetryCounts(ApiModel):
    """How many attempts failed in a way that may pass, by what they are counted against."""

    disruption: int = 0
    """Preempted, evicted, deleted or lost with their node: free."""

    infrastructure: int = 0
    """Failed by the machine or the network, or hung: `runPolicy.retries.infrastructure`."""

    out_of_memory: int = 0
    """Out of memory: `runPolicy.retries.outOfMemory`."""

    without_progress: int = 0
    """The last ones of these in a row that ended before a training step was done."""


class CheckpointStatus(ApiModel):
    """The newest valid checkpoint."""

    step: int
    """Step it was taken at."""

    uri: Text
    """Where it lies."""

    size_bytes: int | None = None
    """Sum of its file sizes."""

    save_seconds: Number | None = None
    """Time from the end of its step until it was published."""


class OutputStatus(ApiModel):
    """The published output."""

    uri: Text
    """Folder that holds the files of this output; loadable as it is."""

    manifest: Text
    """URI of the manifest that lists them with their SHA-256."""

    manifest_digest: Word
    """SHA-256 of the manifest."""

    size_bytes: int
    """Sum of the file sizes."""


class Metric(ApiModel):
    """One number that was measured on the held-out rows."""

    name: Name
    """What was measured, such as `accuracy`."""

    before: Number | None = None
    """Of the base model."""

    after: Number | None = None
    """Of the trained model."""


class Evaluation(ApiModel):
    """What was measured on the held-out rows before and after training."""

    loss_before: Number | None = None
    """Loss of the base model (nats a supervised token), where the method has one."""

    loss_after: Number | None = None
    """The same of the trained model."""

    metrics: Annotated[
        list[Metric] | None, Field(max_length=32), Kubernetes("map", list_keys=("name",))
    ] = None
    """What else the method measures."""


class Failure(ApiModel):
    """Why the job failed."""

    reason: Word
    """One word; see the list of reasons."""

    message: Text
    """What went wrong, and where."""

    hint: Text | None = None
    """What to do about it."""

    log_tail: Annotated[str, Field(max_length=4096)] | None = None
    """Last lines of the first pod that failed."""


class FineTuneJobStatus(ApiModel):
    """What was observed of a job."""

    state: Word | None = None
    """One word for people, derived from the conditions. Not to be read by programs."""

    observed_generation: int | None = None
    """Generation of the spec that this status speaks of."""

    conditions: Annotated[
        list[Condition] | None, Field(max_length=16), Kubernetes("map", list_keys=("type",))
    ] = None
    """The conditions, by type."""

    progress: Progress | None = None
    """How far the current attempt is, its preflight included."""

    resolved: Annotated[
        list[Resolved] | None, Field(max_length=64), Kubernetes("map", list_keys=("field",))
    ] = None
    """Every value that was left to us, with the reason."""

    plan: Plan | None = None
    """Findings about data and memory."""

    attempts: Annotated[
        list[Attempt] | None, Field(max_length=16), Kubernetes("map", list_keys=("number",))
    ] = None
    """The newest 16 attempts, the newest last."""

    retries: RetryCounts | None = None
    """Counts of all failed attempts, those included that `attempts` no longer lists."""

    progress_time: Time | None = None
    """When the operator last saw the progress change, by its own clock."""

    checkpoint: CheckpointStatus | None = None
    """The newest valid checkpoint."""

    output: OutputStatus | None = None
    """The published output."""

    evaluation: Evaluation | None = None
    """What was measured on the held-out rows."""

    failure: Failure | None = None
    """Why the job failed."""

    spec_digest: Word | None = None
    """SHA-256 of the spec that the attempts were made from."""

    start_time: Time | None = None
    """When the first attempt was created."""

    completion_time: Time | None = None
    """When the job ended."""
