"""The methods that answer while they learn, by TRL's trainers as they come; see `stock`.

They are given our draws, which follow from the seed and a row's number, so that both learn from the same
answers.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import (
    DistillationConfig,
    DistillationTrainer,
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
)

from finetune_trainer.drawing import drawing, row_numbers
from finetune_trainer.resume.randomness import seed_of
from invariant.parity.curves import Curve
from invariant.parity.stock import adapted, common, curve, tokenizer
from invariant.parity.workplace import Row, Workplace

LETTER = "e"


def grpo(place: Workplace, rows: Sequence[Row]) -> Curve:
    """TRL's GRPOTrainer with a reward of two lines."""
    trainer = with_draws(GRPOTrainer)(
        model=adapted(place, "terse"),
        reward_funcs=has_letter,
        args=GRPOConfig(**sampling(place), num_generations=4, beta=0.05, loss_type="dapo"),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer(place),
    )
    return curve(trainer)


def rloo(place: Workplace, rows: Sequence[Row]) -> Curve:
    """TRL's RLOOTrainer with the same reward."""
    trainer = with_draws(RLOOTrainer)(
        model=adapted(place, "terse"),
        reward_funcs=has_letter,
        args=RLOOConfig(**sampling(place), num_generations=4, beta=0.05),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer(place),
    )
    return curve(trainer)


def distillation(place: Workplace, rows: Sequence[Row]) -> Curve:
    """TRL's DistillationTrainer."""
    teacher = AutoModelForCausalLM.from_pretrained(place.model("teacher"), dtype=torch.float32)
    trainer = with_draws(DistillationTrainer)(
        model=adapted(place, "terse"),
        teacher_model=teacher,
        args=DistillationConfig(**sampling(place), beta=1.0),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer(place),
    )
    return curve(trainer)


def with_draws(trainer: type[Any]) -> type[Any]:
    """A trainer whose generation takes our draws, and is otherwise its own."""

    class Drawing(trainer):  # type: ignore[misc]
        def _generate_single_turn(
            self, prompt_ids: list[list[int]], *rest: Any, **named: Any
        ) -> Any:
            width = max(map(len, prompt_ids))
            numbers = row_numbers(
                seed_of(self.args.seed, self.state.global_step),
                range(len(prompt_ids)),
                self.args.max_completion_length,
            )
            processors = drawing(numbers, width, temperature=1.0, top_p=1.0)
            generate, self.generation_config.do_sample = self.model.generate, False
            self.model.generate = partial(generate, logits_processor=processors)
            try:
                return super()._generate_single_turn(prompt_ids, *rest, **named)
            finally:
                self.model.generate = generate

    return Drawing


def sampling(place: Workplace) -> dict[str, Any]:
    """Arguments of all three."""
    return {
        **common(place),
        "train_sampling_strategy": "random",
        "max_completion_length": 8,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "disable_dropout": True,
    }


def has_letter(completions: list[str], **_: Any) -> list[float]:
    """1 for an answer with this letter in it."""
    return [float(re.search(LETTER, text) is not None) for text in completions]
