"""Our translation tables against the classes that are installed."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from transformers import Seq2SeqTrainingArguments, TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from finetune_api.v1alpha1.training import Scheduler, Training
from finetune_trainer import arguments, memory
from finetune_trainer.resolve import Settings

SETTINGS = Settings(
    device="cpu",
    precision="Float32",
    weights="Float32",
    gradient_checkpointing=False,
    max_length=64,
    batch_size=8,
    micro_batch_size=2,
    total_steps=10,
    learning_rate=1e-3,
    weight_decay=0.01,
    scheduler="Cosine",
    warmup_steps=1,
    max_gradient_norm=1.0,
    seed=7,
    log_every=1,
    evaluate_every=None,
)


def test_every_argument_of_the_trainer_exists(tmp_path: Path) -> None:
    known = {field.name for field in fields(SFTConfig)}
    given = arguments.sft_arguments(SETTINGS, tmp_path)
    assert set(given) <= known
    config = SFTConfig(**given)
    assert config.train_batch_size * config.gradient_accumulation_steps == 8
    assert (config.seed, config.warmup_steps, config.max_steps) == (7, 1, 10)
    assert not config.bf16
    assert not config.gradient_checkpointing


def test_every_argument_of_the_trainers_of_labels_exists(tmp_path: Path) -> None:
    given = arguments.label_arguments(SETTINGS, tmp_path)
    for kind in (TrainingArguments, Seq2SeqTrainingArguments):
        assert set(given) <= {field.name for field in fields(kind)}
        assert kind(**given).train_batch_size == 2


def test_every_optimizer_has_a_name() -> None:
    ours = set(Training.model_fields["optimizer"].annotation.__args__) - {"Auto"}
    assert set(arguments.OPTIMIZERS) == set(memory.OPTIMIZER_BYTES) == ours
    assert set(arguments.OPTIMIZERS.values()) <= {each.value for each in OptimizerNames}


def test_a_stable_rate_falls_in_the_last_fifth() -> None:
    settings = replace(
        SETTINGS, scheduler="WarmupStableDecay", total_steps=50, warmup_steps=5, learning_rate=1.0
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(
        arguments.SCHEDULERS[settings.scheduler], optimizer, 5, 50,
        arguments.scheduler_arguments(settings),
    )  # fmt: skip
    rates = []
    for _ in range(51):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:5] == [0, 0.2, 0.4, 0.6, 0.8]
    assert set(rates[5:41]) == {1.0}
    assert rates[40:] == pytest.approx([1 - (n / 10) ** 0.5 for n in range(11)])


def test_every_supported_schedule_has_a_name() -> None:
    ours = set(Scheduler.model_fields["type"].annotation.__args__)
    assert set(arguments.SCHEDULERS) == ours
    assert set(arguments.SCHEDULERS.values()) <= {each.value for each in SchedulerType}
