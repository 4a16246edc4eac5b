"""The case SFT: LoRA on prompts with answers of uneven lengths, against TRL's SFTTrainer.

TRL's default precision is a case of its own with few rows, because a CPU without instructions for bfloat16
takes minutes for each of them.
"""

import sys
from functools import partial
from pathlib import Path

from finetune_trainer.foreign import Foreign
from trainer.case import LORA, OURS, Case, adapted, library_arguments, run_job, write_job
from trainer.workplace import Workplace, answers, take_our_order

# Without bfloat16, and each activation computed once: what is fastest on a CPU.
_FAST = {"bf16": False, "gradient_checkpointing": False}


def job(place: Workplace) -> Path:
    """Our manifest."""
    data = place.data("SFT", answers(place.rows))
    return write_job(place, "SFT", data, {"method": {"type": "SFT"}, "tuning": LORA})


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
        args=SFTConfig(**{**library_arguments(place), **settings}),
        train_dataset=Dataset.from_list(answers(place.rows)),
        processing_class=AutoTokenizer.from_pretrained(place.model()),
    )
    take_our_order(trainer)
    trainer.train()
    trainer.save_model()


def row_by_row(place: Workplace) -> None:
    """TRL's run with passes of one row: no padding."""
    passes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": place.batch}
    stock(place, **_FAST, **passes)


def command(place: Workplace) -> list[str]:
    """The same as a command of TRL, without recomputed activations and bfloat16."""
    arguments = {
        "model_name_or_path": place.model(),
        "dtype": "float32",
        "dataset_name": place.data("SFT", answers(place.rows)).parent,
        **_FAST,
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
        "stock, Float32": partial(stock, bf16=False),
        "stock, Float32, no checkpointing": partial(stock, **_FAST),
        "stock, Float32, no checkpointing, padding-free": partial(
            # Which must be told that it need not cut.
            stock,
            **_FAST,
            padding_free=True,
            max_length=None,
        ),
        "stock, Float32, no checkpointing, one row a pass": row_by_row,
    },
    speeds={
        "stock, Float32": 1.5,
        "stock, Float32, no checkpointing": 1.0,
        "stock, Float32, no checkpointing, padding-free": 1.0,
        "stock, Float32, no checkpointing, one row a pass": 1.0,
    },
)

BFLOAT16 = Case(
    name="SFT, bfloat16",
    contestants={OURS: ours, "stock": stock},
    speeds={"stock": 1.5},
    # bfloat16 rounds to three digits.
    tolerances={"stock": 0.03},
    batch=1,
    rounds=1,
    told="The library by its defaults, bfloat16 with it, which this CPU emulates: one row a step, once.",
)
