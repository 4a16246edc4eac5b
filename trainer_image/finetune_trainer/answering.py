"""Answers that a policy writes to a batch of prompts: sampled to learn from, or greedy to measure by.

Used by the recipes of the online methods and by their evaluation. Prompts are padded on the left,
answers on the right; a row is finished by any of its stop tokens, and what follows is masked.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessorList

from finetune_api.v1alpha1.method import Generation
from finetune_trainer.drawing import drawing, row_numbers
from finetune_trainer.fast.shared_prefill import shared_prefill
from finetune_trainer.foreign import CausalLM, Tokenizer
from finetune_trainer.rollout import Rollout
from finetune_trainer.stopping import stop_tokens

# Rows that are generated side by side: without gradients, they cost their cache of keys and values only.
ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Sampling:
    """How answers are written.

    Attributes:
        max_new_tokens: Longest answer.
        temperature: Divides the logits. The policy that is trained is the one at this temperature.
        top_p: Share of the probability that is drawn from.
        stop_ids: Any of these tokens ends an answer.
        pad_id: Fills up rows; what it means to the model does not matter.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    stop_ids: tuple[int, ...]
    pad_id: int


def sampling(spec: Generation, model: CausalLM, tokenizer: Tokenizer) -> Sampling:
    """The block `generation` of a method, with the stop tokens of model and tokenizer."""
    stops = tuple(sorted(stop_ids(model, tokenizer)))
    return Sampling(
        spec.max_new_tokens, spec.temperature, spec.top_p, stops, tokenizer.pad_token_id
    )


def stop_ids(model: CausalLM, tokenizer: Tokenizer) -> set[int]:
    """Every token that ends an answer: the end tokens of tokenizer, model and chat template."""
    declared = model.generation_config.eos_token_id
    known = declared if isinstance(declared, list) else [declared]
    return {*stop_tokens(tokenizer), *(each for each in known if each is not None)}


def write_answers(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    how: Sampling,
    *,
    seed: int | None = None,
    first: int = 0,
) -> Rollout:
    """Answers to prompts.

    Args:
        model: Left in the mode that it was in.
        prompts: Token ids of each prompt, at least one token.
        how: Settings.
        seed: Seeds the draws; None takes the likeliest token.
        first: Number of the first prompt among all of a step. The draws of a row follow from the seed
            and its number alone, so that they are the same however a step is divided.
    """
    inputs, present = _left_padded(prompts, how.pad_id, model.device)
    config = _generation_config(how)
    numbers = None
    if seed is not None:
        rows_of_step = range(first, first + len(prompts))
        numbers = row_numbers(seed, rows_of_step, how.max_new_tokens).to(model.device)
    training = model.training
    model.eval()
    written: dict[int, Tensor] = {}
    with torch.no_grad(), _sole_config(model, config), shared_prefill(model):
        for rows in _chunks(prompts):
            width = len(prompts[rows[-1]])
            answers = model.generate(
                input_ids=inputs[rows, -width:],
                attention_mask=present[rows, -width:].long(),
                generation_config=config,
                logits_processor=_processors(numbers, rows, width, how),
            )[:, width:]
            written |= dict(zip(rows, answers, strict=True))
    model.train(training)
    answers = pad_sequence(
        [written[row] for row in range(len(prompts))], batch_first=True, padding_value=how.pad_id
    )
    return _finished(inputs, present, answers, how)


def _finished(inputs: Tensor, present: Tensor, answers: Tensor, how: Sampling) -> Rollout:
    stops = torch.isin(answers, torch.tensor(how.stop_ids, device=answers.device))
    # True up to and with the first stop token: none was seen before.
    mask = (stops.cumsum(1) - stops.long()) == 0
    ended = stops.any(1)
    return Rollout(inputs, present, torch.where(mask, answers, how.pad_id), mask, ended)


def _left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    present = [[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(present, device=device)


def _processors(
    numbers: Tensor | None, rows: list[int], width: int, how: Sampling
) -> LogitsProcessorList | None:
    if numbers is None:
        return None
    return drawing(numbers[rows], width, temperature=how.temperature, top_p=how.top_p)


def _generation_config(how: Sampling) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=how.max_new_tokens,
        # Draws are ours, see `drawing`.
        do_sample=False,
        use_cache=True,
        eos_token_id=list(how.stop_ids),
        pad_token_id=how.pad_id,
    )


@contextmanager
def _sole_config(model: CausalLM, config: GenerationConfig) -> Iterator[None]:
    # What a call leaves open is taken from the model's own file, such as a repetition penalty or a
    # top-k; answers would then be drawn from another policy than the one that is trained.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, inner.generation_config = inner.generation_config, config
    try:
        yield
    finally:
        inner.generation_config = own


def _chunks(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Rows that are written together: prompts of like length, for less padding; the longest comes last."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for first in range(0, len(order), ROWS_AT_ONCE):
        yield order[first : first + ROWS_AT_ONCE]
