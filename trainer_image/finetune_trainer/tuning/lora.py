"""LoRA and QLoRA: our names translated to PEFT's configuration.

Variants that only start elsewhere are in `starts`, the quantised base in `base`.
"""

from collections.abc import Callable
from typing import Any

from peft import LoraConfig

from finetune_api.v1alpha1.tuning import LoRA, Tuning
from finetune_trainer.foreign import Model
from finetune_trainer.heads import Head
from finetune_trainer.tuning.targets import choose_targets, whole_modules

# Argument of LoraConfig -> its value.
FROM_SPEC: dict[str, Callable[[LoRA], Any]] = {
    "r": lambda lora: lora.rank,
    "lora_alpha": lambda lora: lora.alpha,
    "lora_dropout": lambda lora: lora.dropout,
    # alpha / √rank (Kalajdzievski 2023, arXiv 2312.03732).
    "use_rslora": lambda lora: lora.variant == "RsLoRA",
    # Size and direction of the weights apart (Liu et al. 2024, arXiv 2402.09353).
    "use_dora": lambda lora: lora.variant == "DoRA",
}


def config(model: Model, tuning: Tuning, head: Head) -> LoraConfig:
    """PEFT's configuration for a model.

    Args:
        model: The base model, or its outline.
        tuning: The block of the spec.
        head: Which head the model carries.

    Raises:
        TrainerError: TargetModulesNotFound or InvalidSpec.
    """
    lora = tuning.lora or LoRA()
    return LoraConfig(
        **{name: value(lora) for name, value in FROM_SPEC.items()},
        task_type=head.peft_task,
        bias="none",
        target_modules=choose_targets(model, lora.targets, head, field="tuning.lora.targets"),
        modules_to_save=whole_modules(model, head) or None,
    )
