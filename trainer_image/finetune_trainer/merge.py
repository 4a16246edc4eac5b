"""Adapters that were trained before: attached to their base, or merged into it.

Used by `model` for a base that is itself an adapter of another job, by `verify` and by the commands.
An adapter whose tensors do not all find their place would answer like the base, without an error;
here it is one.
"""

from pathlib import Path

from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from safetensors import safe_open

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model
from finetune_trainer.model_files import ADAPTER
from finetune_trainer.tuning import generation


def attach(base: Model, folder: Path, uri: str, config: PeftConfig | None = None) -> Model:
    """The base with an adapter on it, as PEFT loads it.

    Args:
        base: The model that the adapter was trained on.
        folder: Local folder of the adapter.
        uri: What it is called, for messages.
        config: The adapter's configuration, in place of the one that lies in the folder.

    Raises:
        TrainerError: CorruptModel if tensors are missing or left over.
    """
    try:
        model = PeftModel.from_pretrained(base, str(folder), config=config)
    except (ValueError, RuntimeError, OSError, KeyError, TypeError, AttributeError) as error:
        message = f"{uri}: the adapter cannot be loaded: {type(error).__name__}: {error}"
        raise TrainerError(Reason.CORRUPT_MODEL, message[:1900]) from error
    if model.peft_config["default"].peft_type == PeftType.ADALORA:
        # PEFT looks for it wherever a loss is asked for, and sets it only for training.
        model.base_model.trainable_adapter_name = "default"
    generation.install(model)
    with safe_open(folder / ADAPTER, framework="pt") as file:
        stored = set(file.keys())
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if stored != expected:
        names = ", ".join(sorted(stored ^ expected)[:3])
        message = (
            f"{uri}: {len(stored ^ expected)} adapter tensors are missing or left over: {names}"
        )
        raise TrainerError(Reason.CORRUPT_MODEL, message)
    return model


def merge(base: Model, folder: Path, uri: str) -> Model:
    """The base with an adapter added into its weights, in the dtype that they have.

    Raises:
        TrainerError: UnsupportedModel for an adapter that lives in the prompt and not in the weights,
            CorruptModel as for `attach`, or if the sum is not finite.
    """
    config = PeftConfig.from_pretrained(str(folder))
    hint = "Tune further from its base model, or from an adapter of the LoRA family."
    if config.is_prompt_learning:
        message = (
            f"{uri} is a {config.peft_type.value} adapter, which cannot be merged into weights"
        )
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message, hint)
    # A language model's adapter may go on under another head, whose model cannot generate.
    config.task_type = None
    try:
        model = attach(base, folder, uri, config)
        _put_back_whole_modules(model)
        return model.merge_and_unload(safe_merge=True)
    except (NotImplementedError, AttributeError, ValueError) as error:
        message = f"{uri}: the {config.peft_type.value} adapter cannot be merged: {error}"[:1900]
        if "NaN" in message:
            raise TrainerError(Reason.CORRUPT_MODEL, message) from error
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message, hint) from error


def _put_back_whole_modules(model: Model) -> None:
    """Put the modules that were trained whole in the place of the base's.

    PEFT does so itself, but for most kinds of adapters only where such a module is a single layer.
    """
    wrapped = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    ]
    for name, module in wrapped:
        model.set_submodule(name, module.modules_to_save["default"])
