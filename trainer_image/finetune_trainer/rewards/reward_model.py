"""A reward model as a judge: a sequence classifier with one label, read by its own tokenizer.

Used by the recipes of PPO, GRPO and RLOO, which load it. The score is the one logit on prompt and
answer together. If its tokenizer is the policy's, it is given the very tokens that were written;
otherwise the conversation is rendered and tokenized anew, in its own words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign, Tokenizer
from finetune_trainer.rewards.answer import Answer

# Where tokenizers differ, most differ here.
_PROBE = " Hello, wörld!\n\n1234 don't  <a>  \t数"


@dataclass(frozen=True)
class Exchange:
    """A prompt with its answer, as tokens of the policy and as text.

    Attributes:
        prompt_ids: Token ids of the prompt.
        answer_ids: Token ids of the answer, the stop token included.
        answer: The answer as text.
        columns: Columns of the prompt's row; `prompt` is a string or a list of messages.
    """

    prompt_ids: Sequence[int]
    answer_ids: Sequence[int]
    answer: Answer
    columns: Mapping[str, Any]


class RewardModel:
    """Scores exchanges.

    Raises:
        TrainerError: UnsupportedModel if the model has not exactly one label, or the two
            vocabularies differ and it cannot be told how to write to this one.
    """

    def __init__(
        self, model: Foreign, tokenizer: Tokenizer, policy_tokenizer: Tokenizer, *, source: str
    ) -> None:
        """Take a loaded model.

        Args:
            model: With a classification head, on its device.
            tokenizer: Its own.
            policy_tokenizer: That of the policy.
            source: URI for messages.
        """
        if model.config.num_labels != 1:
            message = (
                f"{source}: a reward model has one label; this one has {model.config.num_labels}"
            )
            raise TrainerError(Reason.UNSUPPORTED_MODEL, message)
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._policy_tokenizer = policy_tokenizer
        self._source = source
        self._same = same_tokens(tokenizer, policy_tokenizer)
        self._pad_id = _pad_id(model, tokenizer)

    @torch.no_grad()
    def scores(self, exchanges: Sequence[Exchange], *, batch: int) -> list[float]:
        """One score an exchange, in order, whatever the batches."""
        rows = [self._ids(each) for each in exchanges]
        # Rows of like length together: less padding.
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        scores = [0.0] * len(rows)
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            values = self._logits([rows[index] for index in chosen])
            for index, value in zip(chosen, values, strict=True):
                scores[index] = value
        return scores

    def _logits(self, rows: list[list[int]]) -> list[float]:
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [self._pad_id] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        device = self._model.device
        logits = self._model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        return [float(value) for value in logits[:, 0].float()]

    def _ids(self, exchange: Exchange) -> list[int]:
        if self._same:
            return [*exchange.prompt_ids, *exchange.answer_ids]
        prompt, text = exchange.columns.get("prompt"), exchange.answer.text
        if isinstance(prompt, list):
            return self._chat([*prompt, {"role": "assistant", "content": text}])
        if not isinstance(prompt, str):
            prompt = self._policy_tokenizer.decode(exchange.prompt_ids, skip_special_tokens=True)
        ids = list(self._tokenizer(prompt + text)["input_ids"])
        end = self._tokenizer.eos_token_id
        return [*ids, end] if exchange.answer.ended and end is not None else ids

    def _chat(self, messages: list[dict[str, Any]]) -> list[int]:
        if not self._tokenizer.chat_template:
            message = (
                f"{self._source}: the prompts are messages, but the reward model's tokenizer is not "
                "the policy's and has no chat template"
            )
            raise TrainerError(Reason.UNSUPPORTED_MODEL, message)
        text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether token ids of one tokenizer mean the same to another."""
    if one.get_vocab() != other.get_vocab():
        return False
    return bool(one(_PROBE)["input_ids"] == other(_PROBE)["input_ids"])


def _pad_id(model: Foreign, tokenizer: Tokenizer) -> int:
    # Decoders take the logit of the last token that is not this one, so theirs comes first.
    text = model.config.get_text_config()
    candidates = (text.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    chosen: int = next(each for each in candidates if each is not None)
    text.pad_token_id = chosen
    return chosen
