"""The same trainings by the trainers of TRL and transformers as they come, from raw rows.

Nothing of ours is used here but the draws, so that both sides see the same rows in the same order:
models, tokenizers, adapters and arguments are spelled out as a user of the libraries would write them,
with the values that `ours` gives in our words.
"""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PrinterCallback,
    set_seed,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from finetune_trainer.resume.sampling import EpochSeeded
from invariant.parity.curves import Curve
from invariant.parity.workplace import SEED, Row, Workplace, shuffled

STEPS = 20


def sft(place: Workplace, rows: Sequence[Row]) -> Curve:
    """TRL's SFTTrainer; two passes a step."""
    arguments = {
        **common(place),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "train_sampling_strategy": "random",
    }
    trainer = SFTTrainer(
        model=adapted(place),
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer(place),
    )
    return curve(trainer)


def reward(place: Workplace, rows: Sequence[Row]) -> Curve:
    """TRL's RewardTrainer."""
    set_seed(SEED)
    folder = place.model("llama")
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.float32
    )
    words = tokenizer(place)
    # The score shall be read at the end token, so something else must be the padding.
    words.pad_token = "<|endoftext|>"
    trainer = RewardTrainer(
        model=get_peft_model(model, lora("SEQ_CLS")),
        args=RewardConfig(
            **common(place), center_rewards_coefficient=0.01, remove_unused_columns=False
        ),
        train_dataset=Dataset.from_list(with_lengths(rows, words)),
        processing_class=words,
    )
    return curve(trainer)


def dpo(place: Workplace, rows: Sequence[Row], **block: Any) -> Curve:
    """TRL's DPOTrainer, which keeps a copy of the adapter as its reference."""
    words = tokenizer(place)
    trainer = DPOTrainer(
        model=adapted(place),
        args=DPOConfig(**common(place), remove_unused_columns=False, **block),
        train_dataset=Dataset.from_list(with_lengths(rows, words)),
        processing_class=words,
    )
    return curve(trainer)


def kto(place: Workplace, rows: Sequence[Row]) -> Curve:
    """TRL's KTOTrainer, whose rows stay in their order."""
    arguments = {**common(place), "train_sampling_strategy": "sequential"}
    trainer = KTOTrainer(
        model=adapted(place),
        args=KTOConfig(**arguments, beta=0.3, desirable_weight=0.9, undesirable_weight=1.4),
        train_dataset=Dataset.from_list(shuffled(rows)),
        processing_class=tokenizer(place),
    )
    return curve(trainer)


def orpo(place: Workplace, rows: Sequence[Row]) -> Curve:
    """ORPOTrainer of TRL's experimental part."""
    words = tokenizer(place)
    trainer = ORPOTrainer(
        model=adapted(place),
        args=ORPOConfig(**common(place), beta=0.5),
        train_dataset=Dataset.from_list(with_lengths(rows, words)),
        processing_class=words,
    )
    return curve(trainer)


def cpo(place: Workplace, rows: Sequence[Row], **block: Any) -> Curve:
    """CPOTrainer of TRL's experimental part, which has SimPO as one of its losses."""
    words = tokenizer(place)
    trainer = CPOTrainer(
        model=adapted(place),
        args=CPOConfig(**common(place), **block),
        train_dataset=Dataset.from_list(with_lengths(rows, words)),
        processing_class=words,
    )
    return curve(trainer)


def common(place: Workplace) -> dict[str, Any]:
    """Arguments of all."""
    return {
        "output_dir": str(place.folder / "stock"),
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_steps": STEPS,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": SEED,
        "optim": "adamw_torch",
        "train_sampling_strategy": "group_by_length",
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def lora(task: str) -> LoraConfig:
    """The adapter of all."""
    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type=task)


def adapted(place: Workplace, name: str = "llama") -> Any:
    """A language model with its adapter, drawn by the seed."""
    set_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(place.model(name), dtype=torch.float32)
    return get_peft_model(model, lora("CAUSAL_LM"))


def tokenizer(place: Workplace) -> Any:
    """Padding is the end token, as the libraries do it."""
    found = AutoTokenizer.from_pretrained(place.model("llama"))
    found.pad_token = found.eos_token
    return found


def with_lengths(rows: Sequence[Row], words: Any) -> list[Row]:
    """Pairs with the column by which the sampler groups: tokens of the longer side, its end token too."""
    return [
        {
            **row,
            "length": max(
                len(words(row["prompt"] + row[side])["input_ids"]) + 1
                for side in ("chosen", "rejected")
            ),
        }
        for row in rows
    ]


def curve(trainer: Any) -> Curve:
    """What it logs, step by step."""
    trainer.remove_callback(PrinterCallback)
    _take_our_order(trainer)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Curve([entry["loss"] for entry in log], [entry["grad_norm"] for entry in log])


def _take_our_order(trainer: Any) -> None:
    """Give the peer's sampler our draws: what is compared is what is learnt from the same rows.

    Its own are those of the global generator, which cannot be resumed.
    """
    theirs = trainer._get_train_sampler

    def ours(*arguments: Any, **named: Any) -> EpochSeeded:
        sampler = theirs(*arguments, **named)
        return EpochSeeded(sampler, SEED, lambda: round(trainer.state.epoch or 0))

    trainer._get_train_sampler = ours
