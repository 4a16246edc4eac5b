"""Which modules get an adapter, and which are trained whole.

Used by the modules of the kinds of adapters. Names are checked against the model, so that a misspelt
target is answered with the list of the right ones.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers.pytorch_utils import Conv1D

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model
from finetune_trainer.heads import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Head

ALL_LINEAR = "all-linear"


def choose_targets(model: Model, wanted: Sequence[str], head: Head, *, field: str) -> list[str]:
    """The targets in PEFT's terms: names, each of which matches at least one linear module.

    Args:
        model: The base model, or its outline.
        wanted: Names, endings of names or patterns; or `all-linear`.
        head: Which head the model carries.
        field: Path of the field below `spec`, for messages.

    Raises:
        TrainerError: TargetModulesNotFound listing the names there are, or InvalidSpec.
    """
    linear = linear_modules(model, head)
    if ALL_LINEAR in wanted:
        if len(wanted) > 1:
            message = f"`{field}`: {ALL_LINEAR} stands alone, or not at all"
            raise TrainerError(Reason.INVALID_SPEC, message)
        return _all_linear(model, linear)
    chosen: list[str] = []
    for target in wanted:
        matches = [name for name in linear if _matches(name, target)]
        if not matches:
            raise _not_found(field, target, linear)
        chosen += matches if "*" in target else [target]
    return chosen


def linear_modules(model: Model, head: Head) -> list[str]:
    """Full names of the modules that can get an adapter: linear ones but those of the head."""
    output, whole = model.get_output_embeddings(), whole_modules(model, head)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not output
        and not any(f".{part}." in f".{name}." for part in whole)
    ]


def whole_modules(model: Model, head: Head) -> list[str]:
    """Short names of the modules that are trained whole and stored with the adapter.

    They are the classifier and what belongs to it, whether it starts fresh or not: it may be new, and
    then it must be learned and stored. BERT's pooler is one of them.
    """
    if head not in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION):
        return []
    known = {part.strip(".") for part in head.fresh}
    return sorted({_leaf(name) for name, _ in model.named_modules()} & known)


def count_parameters(model: Model) -> tuple[int, int]:
    """Trainable and all parameters, each tied tensor once, however many bits it has."""
    parameters = list(model.parameters())
    trainable = sum(each.numel() for each in parameters if each.requires_grad)
    return trainable, sum(_numbers(each) for each in parameters)


def _numbers(parameter: nn.Parameter) -> int:
    # Two weights of four bits share a byte; bitsandbytes remembers their shape.
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else int(packed.shape.numel())


def _all_linear(model: Model, linear: Sequence[str]) -> list[str]:
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


def _not_found(field: str, target: str, linear: Sequence[str]) -> TrainerError:
    known = ", ".join(sorted({_leaf(name) for name in linear}))
    message = f"`{field}`: {target} matches no linear module; there are {known}"
    return TrainerError(Reason.TARGET_MODULES_NOT_FOUND, message[:1900])
