"""The case GRPO: groups of answers to prompts longer than they, against TRL's GRPOTrainer.

TRL's generation is given our draws, so that both sides write the same answers and learn from them. Where a
rounding of bfloat16 would draw other tokens nothing could be compared, so there is no such contestant.
"""

from functools import partial
from pathlib import Path

from finetune_trainer.foreign import Foreign
from trainer.case import LORA, OURS, Case, adapted, library_arguments, run_job, write_job
from trainer.workplace import Workplace, prompts, take_our_order

_FAST = {"bf16": False, "gradient_checkpointing": False}
ANSWERS, TOKENS, BETA = 4, 32, 0.05
# Some answers have a comma in them, and some have none.
PATTERN = ","


def job(place: Workplace) -> Path:
    """Our manifest."""
    block = {
        "answersPerPrompt": ANSWERS,
        "beta": BETA,
        "rewards": [{"type": "Regex", "pattern": PATTERN}],
        "generation": {"maxNewTokens": TOKENS},
    }
    method = {"type": "GRPO", "grpo": block}
    data = place.data("GRPO", prompts(place.rows))
    return write_job(place, "GRPO", data, {"method": method, "tuning": LORA})


def ours(place: Workplace) -> None:
    """Our run."""
    run_job(place, job(place))


def stock(place: Workplace, **settings: Foreign) -> None:
    """TRL's run."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from invariant.parity.stock_online import with_draws

    answers = {
        "per_device_train_batch_size": place.batch * ANSWERS,
        "num_generations": ANSWERS,
        "max_completion_length": TOKENS,
        "beta": BETA,
        "loss_type": "dapo",
        "train_sampling_strategy": "random",
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "disable_dropout": True,
    }
    trainer = with_draws(GRPOTrainer)(
        model=adapted(place),
        reward_funcs=_has_pattern,
        args=GRPOConfig(**{**library_arguments(place), **answers, **settings}),
        train_dataset=Dataset.from_list(prompts(place.rows)),
        processing_class=AutoTokenizer.from_pretrained(place.model()),
    )
    take_our_order(trainer)
    trainer.train()
    trainer.save_model()


def _has_pattern(completions: list[str], **_: Foreign) -> list[float]:
    return [float(PATTERN in text) for text in completions]


CASE = Case(
    name="GRPO",
    contestants={
        OURS: ours,
        "stock, Float32": partial(stock, bf16=False),
        "stock, Float32, no checkpointing": partial(stock, **_FAST),
    },
    speeds={
        "stock, Float32": 1.0,
        "stock, Float32, no checkpointing": 1.0,
    },
    batch=2,
    told=f"Two prompts a step with {ANSWERS} answers of {TOKENS} tokens each; the library is given our "
    "draws. Time to write the answers counts.",
)
