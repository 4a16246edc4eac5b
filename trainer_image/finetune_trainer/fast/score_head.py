"""Scores of answers without what they do not need: padding, and the prompt of a pair twice.

Put on one model by the trainer of reward models. A classifier computes a score for every position of padded
rows and keeps one a row; here rows that begin alike share their beginning in one long row, and only the
positions that are read go through the score layer.
"""

import torch
from peft import PeftModel
from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from finetune_trainer.fast import head, prefix_attention, prefixes
from finetune_trainer.fast.answer_head import packed_states
from finetune_trainer.foreign import Foreign, Model


def install(model: Model, longest: int) -> str | None:
    """Let a model be called with `packed=True`, on pairs: better answers first, worse ones after them.

    Args:
        model: A classifier of the last token of a row, or PEFT's wrapper of one.
        longest: Tokens of the longest row.

    Returns:
        Why it was left alone; None if it was not.
    """
    base = head.base_of(model)
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return "the adapter lives in the prompt"
    if not hasattr(base, "score"):
        return f"the head of {type(base).__name__} does not read the last token"
    if reason := prefix_attention.why_not(base, longest):
        return reason
    prefix_attention.install(base)
    head.take_over(base, "packed", _scored)
    return None


def _scored(
    model: Model, _: bool, *, input_ids: Tensor, attention_mask: Tensor, **__: Foreign
) -> SequenceClassifierOutputWithPast:
    ids, pairs = input_ids, len(input_ids) // 2
    packed = prefixes.pack(ids, attention_mask, [(row, row + pairs) for row in range(pairs)])
    # As the library's: the last token that is not the pad token, which may be an end token too.
    real = (ids != model.config.get_text_config().pad_token_id).int()
    last = (torch.arange(ids.shape[1], device=ids.device) * real).argmax(1)
    places = packed.places[torch.arange(len(ids), device=ids.device), last]
    return SequenceClassifierOutputWithPast(
        logits=model.score(packed_states(model, packed).index_select(0, places))
    )
