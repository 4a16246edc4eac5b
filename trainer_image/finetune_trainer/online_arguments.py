"""Our names for the settings of the group methods and of distillation, translated to TRL's.

As `arguments` is for the settings of all methods: the only place that knows these names, compared with
the installed classes by a test.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.method import GRPO, RLOO, Distillation, Generation, GroupSampling
from finetune_trainer.arguments import trainer_arguments
from finetune_trainer.resolve import Settings

GRPO_LOSSES = {"DAPO": "dapo", "GRPO": "grpo", "DrGRPO": "dr_grpo", "BNPO": "bnpo"}

# Argument of every class that generates -> its value.
FROM_GENERATION: dict[str, Callable[[Generation], Any]] = {
    "max_completion_length": lambda g: g.max_new_tokens,
    "temperature": lambda g: g.temperature,
    "top_p": lambda g: g.top_p,
}
# Argument of GRPOConfig and RLOOConfig -> its value.
FROM_GROUP: dict[str, Callable[[GroupSampling], Any]] = {
    "num_generations": lambda g: g.answers_per_prompt,
    "epsilon": lambda g: g.clip_range,
}
ONLINE_FIXED: dict[str, Any] = {
    # Our rows carry more than the prompt, for the rewards.
    "remove_unused_columns": False,
    "disable_dropout": True,
    # Batches are of prompts, not of rows by length.
    "train_sampling_strategy": "random",
    # The whole distribution; a model's own file may say otherwise.
    "top_k": 0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "use_vllm": False,
}
# The penalty is switched on after the trainer was made: see `recipes.group`.
GROUP_FIXED: dict[str, Any] = {"beta": 0.0}


def grpo_arguments(
    block: GRPO, settings: Settings, weights: list[float], folder: Path
) -> dict[str, Any]:
    """Keyword arguments of `trl.GRPOConfig`.

    Args:
        block: `method.grpo` of the spec.
        settings: Of the run; its batch is of prompts.
        weights: Of the rewards, in their order.
        folder: Where the trainer may write.
    """
    return {
        **_group_arguments(block, settings, weights, folder),
        "loss_type": GRPO_LOSSES[block.loss],
        "scale_rewards": "none" if block.loss == "DrGRPO" else "group",
    }


def rloo_arguments(
    block: RLOO, settings: Settings, weights: list[float], folder: Path
) -> dict[str, Any]:
    """Keyword arguments of `trl.RLOOConfig`; see `grpo_arguments`."""
    return _group_arguments(block, settings, weights, folder)


def distillation_arguments(block: Distillation, settings: Settings, folder: Path) -> dict[str, Any]:
    """Keyword arguments of `trl.DistillationConfig`; see `grpo_arguments`."""
    own = {"beta": block.beta}
    return {**trainer_arguments(settings, folder), **ONLINE_FIXED, **_generation(block), **own}


def _group_arguments(
    block: GroupSampling, settings: Settings, weights: list[float], folder: Path
) -> dict[str, Any]:
    answers = settings.batch_size * block.answers_per_prompt
    return {
        **trainer_arguments(settings, folder),
        **ONLINE_FIXED,
        **GROUP_FIXED,
        **_generation(block),
        **{name: value(block) for name, value in FROM_GROUP.items()},
        "reward_weights": weights,
        # All answers of a step are written at once, and learned from in passes.
        "gradient_accumulation_steps": answers // (settings.micro_batch_size * settings.processes),
    }


def _generation(block: GroupSampling | Distillation) -> dict[str, Any]:
    return {name: value(block.generation) for name, value in FROM_GENERATION.items()}
