"""The optimiser where transformers does not make it: LoRA+, whose rates differ, and PPO.

Called by `recipes.course` before training, and by PPO, which has an optimiser of its own. Hayou et al.
2024 (arXiv 2402.12354): B, which starts at zero, may learn much faster than A.
"""

from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter
from transformers import Trainer, TrainingArguments

from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer.arguments import trainer_arguments
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.resolve import Settings

_B_NAMES = (".lora_B.", ".lora_embedding_B.")


def parameter_groups(
    model: Model, tuning: Tuning, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The trainable parameters as groups for an optimiser.

    The first group has the rate that is logged. Biases and norms do not decay, as with transformers.

    Args:
        model: With its trainable parameters chosen.
        tuning: The block of the spec.
        learning_rate: Of everything but B.
        weight_decay: Of matrices.
    """
    trainable = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    ratio = (tuning.lora.learning_rate_ratio if tuning.lora else None) or 1.0
    fast = [each for name, each in trainable if any(part in name for part in _B_NAMES)]
    rest = [each for name, each in trainable if not any(part in name for part in _B_NAMES)]
    groups = [
        _group([each for each in rest if each.dim() > 1], learning_rate, weight_decay),
        _group([each for each in rest if each.dim() <= 1], learning_rate, 0.0),
        _group(fast, learning_rate * ratio, weight_decay),
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    model: Model, tuning: Tuning, settings: Settings, folder: Path
) -> torch.optim.Optimizer:
    """The optimiser that a trainer of transformers would make, for one that is none.

    Args:
        model: With its trainable parameters chosen.
        tuning: The block of the spec.
        settings: Of the run.
        folder: Where a trainer may write.
    """
    arguments = TrainingArguments(**trainer_arguments(settings, folder))
    kind, own = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    groups = parameter_groups(model, tuning, settings.learning_rate, settings.weight_decay)
    optimizer: torch.optim.Optimizer = kind(groups, **own)
    return optimizer


def install(trainer: Foreign, model: Model, tuning: Tuning) -> None:
    """Give a trainer of transformers its optimiser, where it would make one with a single rate.

    Args:
        trainer: A `transformers.Trainer` that has not trained; another trainer has its own optimiser.
        model: What it trains.
        tuning: The block of the spec.
    """
    if not tuning.lora or tuning.lora.learning_rate_ratio is None:
        return
    if not hasattr(trainer, "create_optimizer"):
        return
    arguments = trainer.args
    groups = parameter_groups(model, tuning, arguments.learning_rate, arguments.weight_decay)
    kind, settings = trainer.get_optimizer_cls_and_kwargs(arguments, model)
    trainer.optimizer = kind(groups, **settings)


def _group(parameters: list[Parameter], rate: float, decay: float) -> dict[str, Any]:
    return {"params": parameters, "lr": rate, "weight_decay": decay}
