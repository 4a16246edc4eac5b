"""IA³: activations rescaled by learned vectors that start at 1 (Liu et al. 2022, arXiv 2205.05638).

A vector l scales the output of keys and values, l ⊙ (W x), and the input of the feed-forward block's
last layer, W (l ⊙ x). Which modules these are is PEFT's knowledge of each architecture.
"""

from collections.abc import Sequence

from peft import IA3Config
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD,
)
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import IA3, Tuning
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model
from finetune_trainer.heads import Head
from finetune_trainer.tuning.targets import choose_targets, linear_modules, whole_modules

_FIELD = "tuning.ia3.targets"


def config(model: Model, tuning: Tuning, head: Head) -> IA3Config:
    """PEFT's configuration for a model.

    Args:
        model: The base model, or its outline.
        tuning: The block of the spec.
        head: Which head the model carries.

    Raises:
        TrainerError: TargetModulesNotFound for a target that is not there, or for an architecture that
            PEFT does not know if no targets are given.
    """
    family = model.config.model_type
    wanted = (tuning.ia3 or IA3()).targets or TARGETS.get(family)
    if wanted is None:
        raise _unknown(model, head)
    targets = choose_targets(model, wanted, head, field=_FIELD)
    return IA3Config(
        task_type=head.peft_task,
        target_modules=targets,
        feedforward_modules=_rescaled_at_input(targets, FEEDFORWARD.get(family, [])),
        modules_to_save=whole_modules(model, head) or None,
    )


def _rescaled_at_input(targets: Sequence[str], known: Sequence[str]) -> list[str]:
    # PEFT asks for a part of the targets, by the same names.
    return [each for each in targets if any(_ends(each, name) for name in known)]


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _unknown(model: Model, head: Head) -> TrainerError:
    names = ", ".join(sorted({name.rpartition(".")[2] for name in linear_modules(model, head)}))
    message = f"`{_FIELD}`: PEFT knows no modules to rescale in {model.config.model_type}; there are {names}"
    hint = "Name those of keys, values and the last layer of the feed-forward block."
    return TrainerError(Reason.TARGET_MODULES_NOT_FOUND, message[:1900], hint)
