"""Models with virtual tokens, made to write as they were trained.

Installed on PEFT's wrapper by `apply` and by `merge.attach`. PEFT's own `generate` puts virtual tokens
before the padding of a batch, where training has them right before the text, and looks for the cache of
keys and values under a name that transformers 5 gave up; both write other tokens than the logits say.
Here the base model's library generates, and is given embeddings, or a cache that holds the prefix.
"""

from types import MethodType
from typing import Any

import torch
from peft import PeftType
from torch import Tensor

from finetune_trainer.foreign import Foreign, Model

_IGNORED = -100


def install(model: Model) -> Model:
    """Give a model with virtual tokens its `generate`; any other stays as it is."""
    config = model.peft_config["default"]
    if not config.is_prompt_learning:
        return model
    if config.task_type == "CAUSAL_LM":
        model.register_forward_pre_hook(_ignore_first_label, with_kwargs=True)
        model.generate = MethodType(generate, model)
    elif config.task_type == "SEQ_2_SEQ_LM":
        model.generate = MethodType(generate, model)
    return model


def generate(
    model: Model, *, input_ids: Tensor, attention_mask: Tensor, **named: Foreign
) -> Tensor:
    """Texts that go on from prompts, or answer inputs.

    Args:
        model: With virtual tokens.
        input_ids: Of shape (rows, tokens), padded on either side.
        attention_mask: The same shape, 0 at padding.
        named: What transformers' `generate` takes.

    Returns:
        As transformers: prompts with what was written, or for an encoder-decoder its decoder's tokens.
    """
    size = model.active_peft_config.num_virtual_tokens
    if model.active_peft_config.peft_type == PeftType.PREFIX_TUNING:
        return _after_prefix(model, input_ids, attention_mask, size, named)
    base, rows = model.get_base_model(), len(input_ids)
    mask = torch.cat([attention_mask.new_ones(rows, size), attention_mask], dim=1)
    embeddings = model.word_embeddings(input_ids)
    virtual = model.get_prompt(rows)[:, :size].to(embeddings.dtype)
    inputs = _padding_first(torch.cat([virtual, embeddings], dim=1), mask)
    written = base.generate(**inputs, **named)
    encoder_decoder = base.config.is_encoder_decoder
    return torch.as_tensor(written if encoder_decoder else torch.cat([input_ids, written], dim=1))


def _after_prefix(
    model: Model, ids: Tensor, mask: Tensor, size: int, named: dict[str, Foreign]
) -> Tensor:
    base, rows = model.get_base_model(), len(ids)
    prefix = model.get_prompt(rows)
    if base.config.is_encoder_decoder:
        named |= {"input_ids": ids, "attention_mask": mask}
        return torch.as_tensor(base.generate(past_key_values=prefix, **named))
    # The library takes what the cache holds for the first tokens of the prompt; those that stand for
    # the prefix are never looked at, and cut off again.
    named |= {
        "input_ids": torch.cat([ids.new_zeros(rows, size), ids], dim=1),
        "attention_mask": torch.cat([mask.new_ones(rows, size), mask], dim=1),
    }
    return torch.as_tensor(base.generate(past_key_values=prefix, **named)[:, size:])


def _padding_first(embeddings: Tensor, mask: Tensor) -> dict[str, Tensor]:
    # False before true, else in order.
    order = mask.argsort(dim=1, stable=True)
    return {
        "inputs_embeds": embeddings.gather(1, order.unsqueeze(2).expand_as(embeddings)),
        "attention_mask": mask.gather(1, order),
    }


def _ignore_first_label(
    _: Model, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # Virtual tokens would predict the first token of a text. Nothing does so in the base model, so
    # losses before and after could not be compared, and no trainer counts that token.
    labels = named.get("labels")
    if labels is None:
        return arguments, named
    labels = labels.clone()
    labels[:, 0] = _IGNORED
    return arguments, {**named, "labels": labels}
