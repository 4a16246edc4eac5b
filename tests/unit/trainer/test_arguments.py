"""Our translation tables against the classes that are installed."""

from dataclasses import fields
from pathlib import Path

from transformers import Seq2SeqTrainingArguments, TrainingArguments
from transformers.trainer_utils import SchedulerType
from trl import SFTConfig

from finetune_api.v1alpha1.training import Scheduler
from finetune_trainer import arguments
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


def test_every_supported_schedule_has_a_name() -> None:
    ours = set(Scheduler.model_fields["type"].annotation.__args__) - {"WarmupStableDecay"}
    assert set(arguments.SCHEDULERS) == ours
    assert set(arguments.SCHEDULERS.values()) <= {each.value for each in SchedulerType}
