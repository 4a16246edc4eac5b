"""What models that do not write texts say about one: classes, tags, fillings, a score.

Used by the command `generate`. Every function takes one text and gives plain values, likeliest first.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import heads
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Model, Tokenizer
from finetune_trainer.heads import Head

FILLINGS = 5
Prediction = list[dict[str, Any]]


def predictor(head: Head) -> Callable[[Model, Tokenizer, str], Prediction] | None:
    """What answers for a head; None for the heads that generate."""
    known: Mapping[str, Callable[[Model, Tokenizer, str], Prediction]] = {
        heads.SEQUENCE_CLASSIFICATION.auto_class: classes,
        heads.TOKEN_CLASSIFICATION.auto_class: tags,
        heads.MASKED.auto_class: fillings,
    }
    return known.get(head.auto_class)


def classes(model: Model, tokenizer: Tokenizer, text: str) -> Prediction:
    """Every class with its probability; the score itself where there is one class (a reward)."""
    logits = _logits(model, _encoded(tokenizer, text))[0]
    if len(logits) == 1:
        return [{"score": float(logits[0])}]
    scores = logits.softmax(-1)
    order = scores.argsort(descending=True).tolist()
    return [{"label": model.config.id2label[at], "score": float(scores[at])} for at in order]


def tags(model: Model, tokenizer: Tokenizer, text: str) -> Prediction:
    """Every word with the tag of its first token."""
    encoded = _encoded(tokenizer, text, return_offsets_mapping=True)
    offsets, words = encoded.pop("offset_mapping")[0].tolist(), encoded.word_ids(0)
    scores = _logits(model, encoded)[0].softmax(-1)
    found: Prediction = []
    for place, word in enumerate(words):
        if word is None or (place > 0 and words[place - 1] == word):
            continue
        last = max(other for other, each in enumerate(words) if each == word)
        best = int(scores[place].argmax())
        label = model.config.id2label[best]
        text_of_word = text[offsets[place][0] : offsets[last][1]].strip()
        found.append({"text": text_of_word, "label": label, "score": float(scores[place, best])})
    return found


def fillings(model: Model, tokenizer: Tokenizer, text: str) -> Prediction:
    """The likeliest tokens for the mask in a text.

    Raises:
        TrainerError: DataInvalid unless there is exactly one mask.
    """
    encoded = _encoded(tokenizer, text)
    places = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if len(places) != 1:
        message = f"the text has {len(places)} masks; write {tokenizer.mask_token} exactly once"
        raise TrainerError(Reason.DATA_INVALID, message)
    best = _logits(model, encoded)[0, places[0]].softmax(-1).topk(FILLINGS)
    found = []
    for score, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        word = str(tokenizer.decode([token])).strip()
        filled = text.replace(tokenizer.mask_token, word)
        found.append({"token": word, "score": score, "text": filled})
    return found


def _encoded(tokenizer: Tokenizer, text: str, **options: bool) -> Any:  # noqa: ANN401
    return tokenizer(text, return_tensors="pt", truncation=True, **options)


def _logits(model: Model, encoded: Any) -> torch.Tensor:  # noqa: ANN401
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits: torch.Tensor = model(
            **{name: each.to(device) for name, each in encoded.items()}
        ).logits
    return logits.float().cpu()
