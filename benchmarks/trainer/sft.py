"""The case SFT: LoRA on prompts with answers of uneven lengths, against TRL's SFTTrainer."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from finetune_trainer.foreign import Foreign
from trainer.case import LORA, OURS, Case, adapted, library_arguments, run_job, write_job
from trainer.workplace import Workplace, answers, take_our_order

# Without bfloat16, and each activation computed once: what is fastest on a CPU.
BEST: dict[str, Any] = {"bf16": False, "gradient_checkpointing": False}


def _data(place: Workplace) -> Path:
    return place.data("SFT", answers(place.rows))


def job(place: Workplace) -> Path:
    """Our manifest."""
    return write_job(place, "SFT", _data(place), {"method": {"type": "SFT"}, "tuning": LORA})


def ours(place: Workplace) -> None:
    """Our run."""
    run_job(place, job(place))


def stock(place: Workplace, **settings: Foreign) -> None:
    """TRL's run."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=adapted(place),
        args=SFTConfig(**library_arguments(place), **settings),
        train_dataset=Dataset.from_list(answers(place.rows)),
        processing_class=AutoTokenizer.from_pretrained(place.model()),
    )
    take_our_order(trainer)
    trainer.train()
    trainer.save_model()


def command(place: Workplace) -> list[str]:
    """The same as a command of TRL."""
    arguments = {
        "model_name_or_path": place.model(),
        "dtype": "float32",
        "dataset_name": _data(place).parent,
        "bf16": False,
        "gradient_checkpointing": False,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_modules": "all-linear",
        **library_arguments(place),
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    return [str(Path(sys.executable).with_name("trl")), "sft", "--use_peft", *words]


CASE = Case(
    name="SFT",
    contestants={
        OURS: ours,
        "stock": stock,
        "stock, Float32": partial(stock, bf16=False),
        "stock, Float32, no checkpointing": partial(stock, **BEST),
        "stock, Float32, no checkpointing, padding-free": partial(stock, **BEST, padding_free=True),
    },
    best=(
        "stock, Float32, no checkpointing",
        "stock, Float32, no checkpointing, padding-free",
    ),
    speedup=1.5,
    # bfloat16 rounds to three digits.
    tolerances={"stock": 0.03},
    job=job,
    command=command,
)
