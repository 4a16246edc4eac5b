"""Answers of a model to prompts: one batch of token ids in, one list of token ids out.

Used by the commands and by `samples`. Prompts are padded on the left, so that every answer begins
right after its prompt, at the positions that the model would count alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.render import template_error
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign, Model, Tokenizer
from finetune_trainer.stopping import stop_tokens

Messages = list[dict[str, Any]]
Prompt = str | Messages


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        max_new_tokens: Longest answer.
        temperature: 0 takes the likeliest token each time.
        seed: Of the drawing.
        seconds: Longest time for a batch, or None.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    seconds: float | None = None

    def arguments(self) -> dict[str, Any]:
        """The same as arguments of `generate`."""
        given: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "use_cache": True}
        if self.seconds is not None:
            given["max_time"] = self.seconds
        if self.temperature > 0:
            # The base's own defaults for sampling would go on top of what was asked for.
            shape = {"top_k": 0, "top_p": 1.0}
            return {**given, "do_sample": True, "temperature": self.temperature, **shape}
        return {**given, "do_sample": False, "temperature": None, "top_k": None, "top_p": None}


def prompt_text(tokenizer: Tokenizer, prompt: Prompt, origin: str) -> str:
    """The prompt as the model sees it: a chat up to where the answer begins, or the text itself.

    Raises:
        TrainerError: ChatTemplateError if there is no template, or if it fails.
    """
    if isinstance(prompt, str):
        return prompt
    if not tokenizer.chat_template:
        message = f"{origin}: the prompt is a chat, and the model has no chat template"
        raise TrainerError(Reason.CHAT_TEMPLATE_ERROR, message, "Give the prompt as plain text.")
    try:
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # noqa: BLE001
        # A template is a program: it may raise anything.
        raise template_error(error, origin) from None
    return str(text)


def prompt_ids(
    tokenizer: Tokenizer, prompt: Prompt, origin: str, *, encoder: bool = False
) -> list[int]:
    """The prompt's token ids; plain text gets what the tokenizer puts before texts.

    Args:
        tokenizer: Of the model.
        prompt: Text or messages.
        origin: What messages call it.
        encoder: Whether an encoder reads it, which was trained on texts with their end token.

    Raises:
        TrainerError: As for `prompt_text`, or DataInvalid for an empty prompt.
    """
    text = prompt_text(tokenizer, prompt, origin)
    if encoder:
        return list(tokenizer(text)["input_ids"])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if isinstance(prompt, str) and tokenizer.bos_token_id in tokenizer("a")["input_ids"][:1]:
        ids = [tokenizer.bos_token_id, *ids]
    if not ids:
        raise TrainerError(Reason.DATA_INVALID, f"{origin}: the prompt is empty")
    return list(ids)


def answer(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    streamer: Foreign = None,
) -> list[list[int]]:
    """The answers' token ids, the stop token included where one was written.

    Args:
        model: In evaluation mode; a decoder, or an encoder-decoder.
        tokenizer: With a pad token.
        prompts: Token ids, at least one prompt, none empty.
        sampling: How answers are drawn.
        streamer: Told each token of a single prompt as it comes.
    """
    batch = _padded(prompts, tokenizer.pad_token_id, _device(model))
    stops = _stops(model, tokenizer)
    # A run that is asked in between goes on drawing where it was.
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(sampling.seed)
        written = model.generate(
            **batch,
            **sampling.arguments(),
            eos_token_id=stops,
            pad_token_id=tokenizer.pad_token_id,
            streamer=streamer,
        )
    # A decoder repeats its prompt; an encoder-decoder begins with its start token.
    begin = 1 if model.config.is_encoder_decoder else batch["input_ids"].shape[1]
    return [_until_stop(row, stops) for row in written[:, begin:].tolist()]


def _padded(
    prompts: Sequence[Sequence[int]], fill: int, device: torch.device
) -> dict[str, torch.Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = [[fill] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def _device(model: Model) -> torch.device:
    return next(model.parameters()).device


def _stops(model: Model, tokenizer: Tokenizer) -> list[int]:
    configured = model.generation_config.eos_token_id
    known = configured if isinstance(configured, list) else [configured]
    return sorted({*stop_tokens(tokenizer), *(token for token in known if token is not None)})


def _until_stop(row: list[int], stops: Sequence[int]) -> list[int]:
    ends = [position for position, token in enumerate(row) if token in stops]
    return row[: ends[0] + 1] if ends else row
