"""The case DPO: LoRA on pairs of answers to prompts longer than they, against TRL's DPOTrainer.

Ours asks the reference in each step, in the policy's pass, as TRL does by its defaults in one of its own, so
that no contestant's steps leave out work that another's hold; one of TRL's has done it before the first, and
that time is not counted.
TRL's default precision is left out: products in bfloat16 take ten times as long on a CPU without them.
"""

from functools import partial
from pathlib import Path

from finetune_trainer.foreign import Foreign
from trainer.case import LORA, OURS, Case, adapted, library_arguments, run_job, write_job
from trainer.workplace import SEED, Workplace, preferences

_FAST = {"bf16": False, "gradient_checkpointing": False}


def job(place: Workplace) -> Path:
    """Our manifest."""
    method = {"type": "DPO", "dpo": {"beta": 0.1, "reference": {"precompute": False}}}
    data = place.data("DPO", preferences(place.rows))
    return write_job(place, "DPO", data, {"method": method, "tuning": LORA})


def ours(place: Workplace) -> None:
    """Our run."""
    run_job(place, job(place))


def stock(place: Workplace, **settings: Foreign) -> None:
    """TRL's run."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        model=adapted(place),
        args=DPOConfig(**library_arguments(place), beta=0.1, **settings),
        train_dataset=Dataset.from_list(preferences(place.rows)),
        processing_class=AutoTokenizer.from_pretrained(place.model()),
    )
    _take_our_order(trainer, place)
    trainer.train()
    trainer.save_model()


def _take_our_order(trainer: Foreign, place: Workplace) -> None:
    """Pairs of like length beside each other, in the order that our run draws."""
    from transformers.trainer_pt_utils import LengthGroupedSampler

    from finetune_trainer.resume.sampling import EpochSeeded

    lengths = [
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        for row in trainer.train_dataset
    ]
    grouped = LengthGroupedSampler(place.batch, lengths=lengths)
    sampler = EpochSeeded(grouped, SEED, lambda: int(trainer.state.epoch or 0))
    trainer._get_train_sampler = lambda *_, **__: sampler


CASE = Case(
    name="DPO",
    contestants={
        OURS: ours,
        "stock, Float32": partial(stock, bf16=False),
        "stock, Float32, no checkpointing": partial(stock, **_FAST),
        "stock, Float32, no checkpointing, reference before": partial(
            stock, **_FAST, precompute_ref_log_probs=True
        ),
    },
    speeds={
        "stock, Float32": 1.8,
        "stock, Float32, no checkpointing": 1.0,
        "stock, Float32, no checkpointing, reference before": 1.0,
    },
    batch=2,
    told="Ours asks the reference in each step; `reference before` has asked it before the first, and "
    "that time does not count. The library's padding-free batches are switched off in this version.",
)
