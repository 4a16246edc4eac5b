"""What is trained: all weights, or a LoRA adapter on chosen modules.

Called by the recipes between loading and training. Names of modules are checked here, against the
model, so that a misspelt target is answered with the list of the right ones.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import LoRA, Tuning
from finetune_trainer.arguments import lora_arguments
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import CausalLM

ALL_LINEAR = "all-linear"


def apply(model: CausalLM, tuning: Tuning, source: str, *, checkpointing: bool) -> CausalLM:
    """The model with its trainable parameters chosen.

    Args:
        model: The loaded base model.
        tuning: The block of the spec; type LoRA or Full.
        source: URI of the base model, which the adapter names.
        checkpointing: Whether activations are recomputed.

    Raises:
        TrainerError: TargetModulesNotFound or InvalidSpec.
    """
    if tuning.type == "Full":
        return model.requires_grad_(True)
    if checkpointing:
        # Without it, no gradient reaches the adapters through the frozen embeddings.
        model.enable_input_require_grads()
    lora = tuning.lora or LoRA()
    targets = choose_targets(model, lora.targets)
    config = LoraConfig(**lora_arguments(lora, targets))
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = source
    return adapted


def choose_targets(model: CausalLM, wanted: Sequence[str]) -> list[str]:
    """The targets in PEFT's terms: names, each of which matches at least one linear module.

    Raises:
        TrainerError: TargetModulesNotFound listing the names there are, or InvalidSpec.
    """
    linear = linear_modules(model)
    if ALL_LINEAR in wanted:
        if len(wanted) > 1:
            message = f"`tuning.lora.targets`: {ALL_LINEAR} stands alone, or not at all"
            raise TrainerError(Reason.INVALID_SPEC, message)
        return _all_linear(model, linear)
    chosen: list[str] = []
    for target in wanted:
        matches = [name for name in linear if _matches(name, target)]
        if not matches:
            raise _not_found(target, linear)
        chosen += matches if "*" in target else [target]
    return chosen


def linear_modules(model: CausalLM) -> list[str]:
    """Full names of the modules that can get an adapter: linear ones but the output head."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]


def count_parameters(model: CausalLM) -> tuple[int, int]:
    """Trainable and all parameters, each tied tensor once."""
    parameters = list(model.parameters())
    trainable = sum(each.numel() for each in parameters if each.requires_grad)
    return trainable, sum(each.numel() for each in parameters)


def _all_linear(model: CausalLM, linear: Sequence[str]) -> list[str]:
    # Short names are what inference servers expect, if no other module would answer to them.
    leaves = sorted({_leaf(name) for name in linear})
    answering = {name for name, _ in model.named_modules() if _leaf(name) in leaves}
    return leaves if answering == set(linear) else sorted(linear)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _matches(name: str, target: str) -> bool:
    if "*" in target:
        return fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")
    return name == target or name.endswith(f".{target}")


def _not_found(target: str, linear: Sequence[str]) -> TrainerError:
    known = ", ".join(sorted({_leaf(name) for name in linear}))
    message = f"`tuning.lora.targets`: {target} matches no linear module; there are {known}"
    return TrainerError(Reason.TARGET_MODULES_NOT_FOUND, message[:1900])
