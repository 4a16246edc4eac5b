"""Preference data in which the better answer names the right colour, tiny rows of token ids, and settings
of short runs on them."""

import random
from typing import Any

from finetune_trainer.resolve import Settings
from support.tiny_models import COLOURS, pairs

SETTINGS = Settings(
    device="cpu",
    precision="Float32",
    weights="Float32",
    gradient_checkpointing=False,
    max_length=64,
    batch_size=4,
    micro_batch_size=2,
    total_steps=3,
    learning_rate=1e-3,
    weight_decay=0.0,
    scheduler="Constant",
    warmup_steps=0,
    max_gradient_norm=1.0,
    seed=7,
    log_every=1,
    evaluate_every=None,
)


def preferences(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts with a right answer and one that names another colour."""
    draw = random.Random(seed)  # noqa: S311
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": f"The colour of the thing is {_other(row['completion'], draw)}.",
        }
        for row in pairs(count, seed=seed)
    ]


def manners(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts with an answer and a refusal, which even a score of the last tokens tells apart."""
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": f"{row['completion']} But why would I know?",
        }
        for row in pairs(count, seed=seed)
    ]


def judgements(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """The same answers one at a time, every second one wrong."""
    rows = preferences(count, seed=seed)
    return [
        {
            "prompt": row["prompt"],
            "completion": row["rejected" if number % 2 else "chosen"],
            "label": number % 2 == 0,
        }
        for number, row in enumerate(rows)
    ]


def ids(draw: random.Random, least: int = 2, most: int = 9) -> list[int]:
    """A few token ids that every tiny tokenizer has."""
    return [draw.randrange(3, 200) for _ in range(draw.randrange(least, most))]


def _other(completion: str, draw: random.Random) -> str:
    return draw.choice([colour for colour in COLOURS if colour not in completion])
