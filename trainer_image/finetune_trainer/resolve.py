"""Every `Auto` becomes a value here, with the reason: a pure function of the spec and of facts.

Used by the recipes; the result is shown in `status.resolved` and kept in the manifest. Nothing is
measured here and no library is asked.
"""

from dataclasses import dataclass, replace
from math import ceil

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_api.v1alpha1.training import Training
from finetune_trainer.errors import TrainerError
from finetune_trainer.learning_rates import learning_rate
from finetune_trainer.recomputation import Recomputation
from finetune_trainer.strategies import ONE_PROCESS, Strategy

# Rows a step; larger batches cost LoRA quality, smaller ones speed.
BATCH_CAP = 16
STEPS_AN_EPOCH = 10
MICRO_BATCH_CAP = 8
# Tokens of one forward pass; activations grow with them. A few hundred keep the cores of a CPU busy.
TOKENS_A_PASS = {"cuda": 16384, "cpu": 512}
MANY_ROWS = 10_000
LOG_ENTRIES = 100
_MICRO_BATCH = "training.microBatchSize"
FULL_WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Machine:
    """What the run finds.

    Attributes:
        device: `cuda` or `cpu`.
        name: Name of the GPU; empty on the CPU.
        bfloat16: Whether the GPU computes in bfloat16.
        laptop: Whether the CPU may stand in for a GPU that is not there; in a pod it may not.
        processes: How many train together, one a GPU.
        memory: Bytes of the GPU, if that is known.
    """

    device: str
    name: str = ""
    bfloat16: bool = False
    laptop: bool = False
    processes: int = 1
    memory: int | None = None


@dataclass(frozen=True)
class Settings:
    """All settings of a run, with nothing left open.

    Attributes:
        precision: `Float32` or `BFloat16`: arithmetic of forward and backward pass.
        weights: The same words: how the trained model's base weights are held.
        scheduler: As in the spec.
        warmup_steps: Steps in which the rate rises from zero.
        log_every: Steps between log entries.
        evaluate_every: Steps between evaluations in training; None for before and after only.
        optimizer: As in the spec, but never `Auto`.
        processes: How many train together, each on its part of every batch.
        strategy: How the model is spread over them; decided when its memory is known.
        recomputation: Which layers compute their activations again, where not all of them do or their
            inputs are offloaded; decided when the model's memory is known.
    """

    device: str
    precision: str
    weights: str
    gradient_checkpointing: bool
    max_length: int
    batch_size: int
    micro_batch_size: int
    total_steps: int
    learning_rate: float
    weight_decay: float
    scheduler: str
    warmup_steps: int
    max_gradient_norm: float
    seed: int
    log_every: int
    evaluate_every: int | None
    optimizer: str = "AdamW"
    processes: int = 1
    strategy: Strategy = ONE_PROCESS
    recomputation: Recomputation | None = None

    @property
    def accumulation(self) -> int:
        """Forward passes a step, of each process."""
        return self.batch_size // (self.micro_batch_size * self.processes)


class _Notes:
    """Collects what was chosen."""

    def __init__(self) -> None:
        self.list: list[Resolved] = []

    def add(self, field: str, value: object, why: str) -> None:
        self.list.append(Resolved(field=field, value=str(value), why=why))


def resolve(
    spec: FineTuneJobSpec, machine: Machine, rows: int, max_length: int
) -> tuple[Settings, list[Resolved]]:
    """The settings of a run.

    Args:
        spec: What is wanted.
        machine: What there is.
        rows: Training rows.
        max_length: Longest row in tokens, from `data.length`.

    Raises:
        TrainerError: InvalidSpec for settings that contradict each other.
    """
    notes = _Notes()
    training = spec.training
    device = _device(spec, machine, notes)
    precision = _precision(training, machine, device, notes)
    batch = _batch_size(training, rows, machine.processes, notes)
    total = _total_steps(training, rows, batch, notes)
    settings = Settings(
        device=device,
        precision=precision,
        weights=_weights(spec, precision, notes),
        gradient_checkpointing=_checkpointing(spec, device, notes),
        max_length=max_length,
        batch_size=batch,
        micro_batch_size=_micro_batch_size(
            training, (batch, machine.processes), (TOKENS_A_PASS[device], max_length), notes
        ),
        total_steps=total,
        learning_rate=_learning_rate(spec, notes),
        weight_decay=_weight_decay(spec, notes),
        scheduler=training.scheduler.type,
        warmup_steps=_warmup_steps(training, total, notes),
        max_gradient_norm=training.max_gradient_norm,
        seed=training.seed,
        log_every=_log_every(training, total, notes),
        evaluate_every=training.evaluate_every_steps,
        optimizer=_optimizer(training, notes),
        processes=machine.processes,
    )
    return settings, notes.list


def divided(
    settings: Settings, resolved: list[Resolved], divisor: int
) -> tuple[Settings, list[Resolved]]:
    """The same steps in smaller passes, after memory ran out in an earlier attempt.

    Args:
        settings: As they were resolved.
        resolved: What was chosen.
        divisor: Of the micro-batch; the rows of a step stay what they are.
    """
    whole = settings.micro_batch_size
    if divisor == 1:
        return settings, resolved
    micro = max(size for size in range(1, max(1, whole // divisor) + 1) if whole % size == 0)
    why = f"of {whole}, because memory ran out in an earlier attempt; the rows of a step stay"
    if micro == whole:
        why = "memory ran out in an earlier attempt, but a pass cannot be smaller"
    kept = [each for each in resolved if each.field != _MICRO_BATCH]
    note = Resolved(field=_MICRO_BATCH, value=str(micro), why=why)
    return replace(settings, micro_batch_size=micro), [*kept, note]


def _device(spec: FineTuneJobSpec, machine: Machine, notes: _Notes) -> str:
    wanted = spec.resources.gpus_per_node > 0
    if wanted and machine.device == "cuda":
        notes.add("resources.gpusPerNode", machine.name, "the GPU that was found")
        return "cuda"
    if wanted and not machine.laptop:
        wish = f"{spec.resources.gpus_per_node} {spec.resources.gpu_resource}"
        raise TrainerError(Reason.GPU_NOT_FOUND, f"the job asks for {wish}, but torch sees no GPU")
    if wanted:
        notes.add("resources.gpusPerNode", 0, "no GPU is visible here: training on the CPU")
    return "cpu"


def _precision(training: Training, machine: Machine, device: str, notes: _Notes) -> str:
    if training.precision != AUTO:
        return training.precision
    if device == "cuda" and machine.bfloat16:
        notes.add("training.precision", "BFloat16", "the GPU computes in bfloat16")
        return "BFloat16"
    why = "on the CPU" if device == "cpu" else "this GPU has no bfloat16"
    notes.add("training.precision", "Float32", why)
    return "Float32"


def _weights(spec: FineTuneJobSpec, precision: str, notes: _Notes) -> str:
    if spec.tuning.type == "Full" and precision == "BFloat16":
        why = "bfloat16 weights would round small updates away; the arithmetic is bfloat16"
        notes.add("tuning.type", "Full, weights in Float32", why)
        return "Float32"
    return precision


def _checkpointing(spec: FineTuneJobSpec, device: str, notes: _Notes) -> bool:
    wanted = spec.training.gradient_checkpointing
    if wanted != AUTO:
        return wanted != "Disabled"
    prefix = spec.tuning.type == "PrefixTuning"
    enabled = device == "cuda" and not prefix
    why = "saves GPU memory" if enabled else "on the CPU, time is scarcer than memory"
    if prefix:
        why = "a second forward pass would find the prefix in the cache already"
    notes.add("training.gradientCheckpointing", "Enabled" if enabled else "Disabled", why)
    return enabled


def _batch_size(training: Training, rows: int, processes: int, notes: _Notes) -> int:
    if isinstance(training.batch_size, int):
        if training.batch_size % processes:
            message = f"`training.batchSize` {training.batch_size} is not a multiple of {processes}"
            hint = "Each process takes the same number of rows of every batch."
            raise TrainerError(Reason.INVALID_SPEC, f"{message}, the number of processes", hint)
        return training.batch_size
    limit = max(1, min(BATCH_CAP, rows // STEPS_AN_EPOCH))
    batch = _power_of_two_up_to(limit)
    why = "the usual size" if batch == BATCH_CAP else f"about ten steps an epoch from {rows} rows"
    if batch % processes:
        batch = processes * max(1, batch // processes)
        why = f"a multiple of {processes} processes"
    notes.add("training.batchSize", batch, why)
    return batch


def _micro_batch_size(
    training: Training, among: tuple[int, int], room: tuple[int, int], notes: _Notes
) -> int:
    """Rows a pass, of the rows of a step among processes, and the tokens of a pass by those of a row."""
    (batch, processes), (tokens, max_length) = among, room
    wanted, own = training.micro_batch_size, batch // processes
    if isinstance(wanted, int):
        if own % wanted:
            message = f"`training.microBatchSize` {wanted} does not divide the batch size {batch}"
            if processes > 1:
                message += f" over {processes} processes, which is {own} each"
            raise TrainerError(Reason.INVALID_SPEC, message)
        return wanted
    limit = max(1, min(MICRO_BATCH_CAP, tokens // max_length))
    micro = max(size for size in range(1, limit + 1) if own % size == 0)
    why = f"passes a step: {own // micro}; at most {limit} rows of {max_length} tokens a pass"
    notes.add(_MICRO_BATCH, micro, why)
    return micro


def _total_steps(training: Training, rows: int, batch: int, notes: _Notes) -> int:
    if training.max_steps is not None:
        return training.max_steps
    epochs = training.epochs
    if epochs is None:
        epochs = 1 if rows > MANY_ROWS else 3
        more = "more" if rows > MANY_ROWS else "no more"
        notes.add("training.epochs", epochs, f"{rows} rows are {more} than {MANY_ROWS}")
    steps = max(1, ceil(epochs * ceil(rows / batch)))
    notes.add("training.maxSteps", steps, f"{epochs:g} epochs of {rows} rows in batches of {batch}")
    return steps


def _optimizer(training: Training, notes: _Notes) -> str:
    if training.optimizer != AUTO:
        return training.optimizer
    notes.add("training.optimizer", "AdamW", "exact; the others save memory")
    return "AdamW"


def _learning_rate(spec: FineTuneJobSpec, notes: _Notes) -> float:
    if spec.training.learning_rate is not None:
        return spec.training.learning_rate
    rate, why = learning_rate(spec.method.type, spec.tuning.type, spec.model.task)
    notes.add("training.learningRate", f"{rate:g}", why)
    return rate


def _weight_decay(spec: FineTuneJobSpec, notes: _Notes) -> float:
    if spec.training.weight_decay is not None:
        return spec.training.weight_decay
    decay = FULL_WEIGHT_DECAY if spec.tuning.type == "Full" else 0.0
    notes.add("training.weightDecay", f"{decay:g}", f"usual for {spec.tuning.type}")
    return decay


def _warmup_steps(training: Training, total: int, notes: _Notes) -> int:
    scheduler = training.scheduler
    if scheduler.warmup_steps is not None:
        if scheduler.warmup_steps >= total:
            message = (
                f"`training.scheduler.warmupSteps` is {scheduler.warmup_steps}, "
                f"but there are only {total} steps"
            )
            raise TrainerError(Reason.INVALID_SPEC, message)
        return scheduler.warmup_steps
    ratio = scheduler.warmup_ratio
    why = f"{ratio} of {total} steps"
    if ratio is None:
        ratio = 0.0 if scheduler.type == "Constant" else 0.1
        why = f"{ratio:g} of {total} steps, usual for {scheduler.type}"
    # The rate is zero in the first step of a warm-up, so one step must remain that learns.
    steps = min(round(ratio * total), total - 1)
    notes.add("training.scheduler.warmupSteps", steps, why)
    return steps


def _log_every(training: Training, total: int, notes: _Notes) -> int:
    if training.log_every_steps is not None:
        return training.log_every_steps
    every = max(1, total // LOG_ENTRIES)
    notes.add("training.logEverySteps", every, f"about {LOG_ENTRIES} entries in {total} steps")
    return every


def _power_of_two_up_to(limit: int) -> int:
    return 1 << (limit.bit_length() - 1)
