"""Tunings that leave the model as it is and learn what stands before every text: virtual tokens.

Prompt tuning (Lester et al. 2021, arXiv 2104.08691) learns their embeddings, P-tuning (Liu et al. 2021,
arXiv 2103.10385) a small network that makes the embeddings, prefix tuning (Li and Liang 2021, arXiv
2101.00190) their keys and values in every layer. Used by `apply` and the recipes; how texts are written
with them is in `generation`.
"""

from typing import Any

import torch
from peft import PeftConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_api.v1alpha1.tuning import VIRTUAL_TOKENS, Tuning, VirtualTokenTuning
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model, Tokenizer
from finetune_trainer.heads import SEQUENCE_TO_SEQUENCE, Head
from finetune_trainer.tuning.targets import whole_modules

_FIELD = "tuning.virtualTokens"


def count(tuning: Tuning) -> int:
    """Positions that virtual tokens take from a text; 0 for tunings without any."""
    return _block(tuning).virtual_tokens if tuning.type in VIRTUAL_TOKENS else 0


def config(model: Model, tuning: Tuning, head: Head) -> PeftConfig:
    """PEFT's configuration for a model.

    Args:
        model: The base model, or its outline.
        tuning: The block of the spec.
        head: Which head the model carries.
    """
    arguments: dict[str, Any] = {
        "num_virtual_tokens": count(tuning),
        "task_type": head.peft_task,
        "modules_to_save": whole_modules(model, head) or None,
    }
    if tuning.type == "PrefixTuning":
        return PrefixTuningConfig(**arguments)
    if head is SEQUENCE_TO_SEQUENCE:
        # They stand before the input alone. PEFT would make as many for the decoder, and use none.
        arguments["num_transformer_submodules"] = 1
    if tuning.type == "PTuning":
        return PromptEncoderConfig(**arguments)
    # Embeddings of real tokens, drawn at random: numbers of another size are hard to leave.
    return PromptTuningConfig(**arguments, prompt_tuning_init="SAMPLE_VOCAB")


def start(model: Model, tuning: Tuning, tokenizer: Tokenizer) -> Model:
    """Give virtual tokens the embeddings of `initialText`, if there is one.

    By the tokenizer that was loaded: PEFT would look for one by name, and publish that name.
    """
    text = _block(tuning).initial_text
    if tuning.type != "PromptTuning" or text is None:
        return model
    embeddings = model.word_embeddings
    ids = torch.tensor(_filled(_ids(tokenizer, text), count(tuning)))
    with torch.no_grad():
        rows = embeddings(ids.to(embeddings.weight.device))
        model.prompt_encoder["default"].embedding.weight.copy_(rows)
    return model


def told(tuning: Tuning, tokenizer: Tokenizer) -> list[Resolved]:
    """Where virtual tokens start, for the status.

    Raises:
        TrainerError: InvalidSpec if there is no token in the text.
    """
    if tuning.type != "PromptTuning":
        return []
    text, wanted = _block(tuning).initial_text, count(tuning)
    if text is None:
        value, why = "random tokens of the vocabulary", "there is no `initialText`"
    else:
        found = len(_ids(tokenizer, text))
        value = f"the embeddings of {min(found, wanted)} tokens of `initialText`"
        why = f"it has {found} tokens for {wanted} virtual ones"
        why += ", so it is repeated" if found < wanted else ""
        why += ", so its end is cut" if found > wanted else ""
    return [Resolved(field=f"{_FIELD}.initialText", value=value, why=why)]


def room(limit: int | None, tuning: Tuning) -> int | None:
    """Positions that are left for texts.

    Args:
        limit: Positions of the model; None if it names none.
        tuning: The block of the spec.

    Raises:
        TrainerError: InvalidSpec if none are left.
    """
    if limit is None:
        return None
    left = limit - count(tuning)
    if left < 1:
        message = (
            f"`{_FIELD}.virtualTokens` is {count(tuning)}, but the model has {limit} positions"
        )
        raise TrainerError(Reason.INVALID_SPEC, message)
    return left


def _block(tuning: Tuning) -> VirtualTokenTuning:
    return tuning.virtual_tokens or VirtualTokenTuning()


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise TrainerError(Reason.INVALID_SPEC, f"`{_FIELD}.initialText` has no token")
    return ids


def _filled(ids: list[int], wanted: int) -> list[int]:
    """As many as are wanted: cut, or repeated.

    >>> _filled([1, 2, 3], 7), _filled([1, 2, 3], 2)
    ([1, 2, 3, 1, 2, 3, 1], [1, 2])
    """
    return (ids * (wanted // len(ids) + 1))[:wanted]
