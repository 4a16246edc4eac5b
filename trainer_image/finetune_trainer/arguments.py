"""Our names for settings, translated to those of transformers and TRL.

The only place that knows theirs; PEFT's are in `tuning`. A test compares every name with the fields of
the installed classes, because they are renamed from release to release and an unknown one fails only
when the pod has its GPU.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_trainer import strategies
from finetune_trainer.resolve import Settings

SCHEDULERS = {
    "Cosine": "cosine",
    "Linear": "linear",
    "Constant": "constant_with_warmup",
    "WarmupStableDecay": "warmup_stable_decay",
}
OPTIMIZERS = {
    "AdamW": "adamw_torch",
    "AdamW8bit": "adamw_8bit",
    "PagedAdamW8bit": "paged_adamw_8bit",
    "Adafactor": "adafactor",
}
# Hägele et al. 2024 (arXiv 2405.18392): a fifth of the steps, by one minus a square root.
_DECAY_SHARE, _DECAY = 0.2, "1-sqrt"


def scheduler_arguments(settings: Settings) -> dict[str, Any]:
    """What a schedule needs beyond the warm-up and all steps."""
    if settings.scheduler != "WarmupStableDecay":
        return {}
    decay = max(1, round(_DECAY_SHARE * settings.total_steps))
    room = settings.total_steps - settings.warmup_steps
    return {"num_decay_steps": min(decay, room), "decay_type": _DECAY}


# Argument of TrainingArguments, which every trainer's own class extends -> its value.
FROM_SETTINGS: dict[str, Callable[[Settings], Any]] = {
    "per_device_train_batch_size": lambda s: s.micro_batch_size,
    "gradient_accumulation_steps": lambda s: s.accumulation,
    "max_steps": lambda s: s.total_steps,
    "learning_rate": lambda s: s.learning_rate,
    "weight_decay": lambda s: s.weight_decay,
    "optim": lambda s: OPTIMIZERS[s.optimizer],
    "lr_scheduler_type": lambda s: SCHEDULERS[s.scheduler],
    "lr_scheduler_kwargs": scheduler_arguments,
    "warmup_steps": lambda s: s.warmup_steps,
    "max_grad_norm": lambda s: s.max_gradient_norm,
    "seed": lambda s: s.seed,
    "bf16": lambda s: s.precision == "BFloat16",
    "use_cpu": lambda s: s.device == "cpu",
    "dataloader_pin_memory": lambda s: s.device != "cpu",
    "gradient_checkpointing": lambda s: s.gradient_checkpointing,
}

# Arguments that are the same for every run.
FIXED: dict[str, Any] = {
    # Rows of like length share a batch: less padding.
    "train_sampling_strategy": "group_by_length",
    "fp16": False,
    # The other kind loses gradients of adapters.
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    # Each step is looked at by our callback, which decides what is logged.
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}

# Arguments of SFTConfig that are the same for every run.
SFT_FIXED: dict[str, Any] = {
    # Rows come tokenized, masked and cut.
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "max_length": None,
    "packing": False,
    "loss_type": "nll",
    # Steps of rows of like length would each learn from short rows or from long ones; where there is
    # padding to save, `fast.order` sorts within a step.
    "train_sampling_strategy": "random",
}

# Arguments of transformers' own trainers that are the same for every run.
LABEL_FIXED: dict[str, Any] = {
    # Collators take the columns that they know; the model's `forward` does not name them all.
    "remove_unused_columns": False,
    "include_num_input_tokens_seen": "non_padding",
}


def trainer_arguments(settings: Settings, folder: Path) -> dict[str, Any]:
    """Keyword arguments of `transformers.TrainingArguments` and of every class that extends it.

    Args:
        settings: Of the run.
        folder: Where the trainer may write.
    """
    chosen = {name: value(settings) for name, value in FROM_SETTINGS.items()}
    if settings.processes > 1:
        chosen |= strategies.arguments(settings.strategy, settings.device, settings.precision)
    return {**FIXED, **chosen, "output_dir": str(folder)}


def sft_arguments(settings: Settings, folder: Path) -> dict[str, Any]:
    """Keyword arguments of `trl.SFTConfig`."""
    return {**trainer_arguments(settings, folder), **SFT_FIXED}


def label_arguments(settings: Settings, folder: Path) -> dict[str, Any]:
    """Keyword arguments of `transformers.TrainingArguments` and `Seq2SeqTrainingArguments`."""
    return {**trainer_arguments(settings, folder), **LABEL_FIXED}
