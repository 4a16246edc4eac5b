"""The model with its trainable parameters chosen, by `tuning.type`.

Called by the recipes between loading and training, and on the model's outline in the preflight. What is
particular to a kind of adapter is in its module.
"""

from collections.abc import Callable

import torch
from peft import PeftConfig, get_peft_model

from finetune_api.v1alpha1.tuning import Tuning, TuningType
from finetune_trainer.foreign import Model
from finetune_trainer.heads import Head
from finetune_trainer.tuning import adalora, generation, ia3, lora, other, virtual_tokens

Configure = Callable[[Model, Tuning, Head], PeftConfig]

# Kind of adapter -> what makes PEFT's configuration for a model; raises TrainerError.
CONFIGURATIONS: dict[TuningType, Configure] = {
    "LoRA": lora.config,
    "QLoRA": lora.config,
    "AdaLoRA": adalora.config,
    "IA3": ia3.config,
    "PrefixTuning": virtual_tokens.config,
    "PromptTuning": virtual_tokens.config,
    "PTuning": virtual_tokens.config,
    "Other": other.config,
}


def apply(model: Model, tuning: Tuning, source: str, head: Head, *, checkpointing: bool) -> Model:
    """The model with its trainable parameters chosen.

    Args:
        model: The loaded base model.
        tuning: The block of the spec.
        source: URI of the base model, which the adapter names.
        head: Which head the model carries; PEFT stores one that starts fresh with the adapter.
        checkpointing: Whether activations are recomputed.

    Raises:
        TrainerError: TargetModulesNotFound or InvalidSpec.
    """
    if tuning.type == "Full":
        return model.requires_grad_(True)
    if checkpointing:
        # Without it, no gradient reaches the adapters through the frozen embeddings.
        model.enable_input_require_grads()
    config = CONFIGURATIONS[tuning.type](model, tuning, head)
    if other.needs_values(tuning) and model.device.type == "meta":
        # Arguments and targets are checked; parameters are counted once there are weights.
        return model.requires_grad_(False)
    adapted = _adapted(model, tuning, config)
    if tuning.type == "AdaLoRA":
        adalora.hold_divisors(adapted)
    for parameter in adapted.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            # PEFT does so for its own; in bfloat16, a head would lose small updates.
            parameter.data = parameter.data.float()
    adapted.peft_config["default"].base_model_name_or_path = source
    return generation.install(adapted)


def _adapted(model: Model, tuning: Tuning, config: PeftConfig) -> Model:
    try:
        return get_peft_model(model, config)
    except other.ERRORS as error:
        if tuning.type == "Other" and not isinstance(error, torch.OutOfMemoryError):
            raise other.refused(tuning, error) from error
        raise
