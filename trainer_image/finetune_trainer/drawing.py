"""The next token of each row, drawn so that it follows from the row's own numbers and nothing else.

Used by `answering`. A common generator would give a row other draws as soon as it is written in other
company: by another number of processes, or in smaller parts.
"""

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from finetune_trainer.resume.randomness import seed_of


def drawing(
    numbers: Tensor, prompt_width: int, *, temperature: float, top_p: float
) -> LogitsProcessorList:
    """Has a greedy search draw from the distribution that it would take the likeliest token of.

    Args:
        numbers: Of `row_numbers`, for the rows that are written.
        prompt_width: Tokens that are there before the first answer token.
        temperature: Divides the logits.
        top_p: Share of the probability that is drawn from.
    """
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(temperature)]
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return LogitsProcessorList([*warpers, _Drawn(numbers, prompt_width)])


def row_numbers(seed: int, rows: range, tokens: int) -> Tensor:
    """Numbers in [0, 1), of shape (rows, tokens): each row's follow from the seed and its own number."""
    drawn = [
        torch.rand(
            tokens,
            generator=torch.Generator().manual_seed(seed_of(seed, row)),
            dtype=torch.float64,
        )
        for row in rows
    ]
    return torch.stack(drawn)


class _Drawn(LogitsProcessor):
    """Leaves the one token that a row's number picks, by inverting the distribution function."""

    def __init__(self, numbers: Tensor, prompt_width: int) -> None:
        self._numbers, self._width = numbers, prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores of shape (rows, vocabulary) with one finite value a row."""
        place = input_ids.shape[1] - self._width
        # In double precision, so that other rounding of the logits hardly ever picks another token.
        reached = scores.double().softmax(-1).cumsum(-1)
        wanted = self._numbers[:, place : place + 1] * reached[:, -1:]
        # The first that is passed: never one of probability zero.
        token = torch.searchsorted(reached, wanted, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, float("-inf")).scatter(1, token, 0.0)
