"""A reward model whose taste is known: it likes letters, and its score has a closed form.

Its weights are set by hand. One attention layer with equal weights takes the mean, over all tokens, of
+1 for a token of letters and -1 for any other; everything else is off. So the score follows from the
share of letters alone, and tests can say what it must be.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HIDDEN = 32


def letters(tokenizer: Any) -> set[int]:
    """Ids of the tokens that are letters (and spaces before them)."""
    words = {id_: tokenizer.decode([id_]) for id_ in range(len(tokenizer))}
    return {id_ for id_, word in words.items() if word.strip().isascii() and word.strip().isalpha()}


def expected_score(ids: Sequence[int], liked: set[int]) -> float:
    """What the model must say: the mean m of ±1, normalised with the constant and the last token."""
    mean = sum(1 if id_ in liked else -1 for id_ in ids) / len(ids)
    return mean * math.sqrt(HIDDEN / (2 + mean**2))


def taste_model(folder: Path, tokenizer: Any) -> Path:
    """Writes the model with a tokenizer; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=512,
        num_labels=1,
        # Never written by a policy, so that no real token is taken for padding.
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        rms_norm_eps=1e-12,
    )
    model = LlamaForSequenceClassification(config)
    liked = letters(tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        embedding = model.model.embed_tokens.weight
        embedding[:, 0] = torch.tensor([1.0 if i in liked else -1.0 for i in range(len(tokenizer))])
        embedding[:, 1] = 1.0
        attention = model.model.layers[0].self_attn
        # The norm before the layer makes 4 of 1: sqrt(32 / 2).
        attention.v_proj.weight[0, 0] = 1 / 4
        attention.o_proj.weight[2, 0] = 1.0
        model.score.weight[0, 2] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
