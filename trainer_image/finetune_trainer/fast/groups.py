"""Answers to one prompt in one forward pass, where `answer_head` computes what they share once.

Called by `recipes.group`: before training for how many answers a pass takes, and in each step for which.
It changes neither what is learned from nor when weights are updated: passes of a step are summed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import split_tensor_dict

from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.fast import head, prefix_attention
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.resolve import MICRO_BATCH_CAP

FIELD = "training.microBatchSize"
Pass = Mapping[str, Any]
"""Inputs of a forward pass: tensors and lists with a row for each answer, and single values."""


@dataclass(frozen=True)
class Step:
    """The answers of a step, of one process.

    Attributes:
        rows: How many.
        group: Answers to each prompt.
        prompt: Tokens of the longest prompt.
        answer: Tokens of the longest answer.
    """

    rows: int
    group: int
    prompt: int
    answer: int

    def largest_pass(self, room: int) -> int:
        """The most answers whose tokens fit into a pass: whole groups, or an even part of one.

        Args:
            room: Tokens of a pass. At least one answer is taken.
        """
        sizes = [
            size
            for size in range(2, MICRO_BATCH_CAP + 1)
            if not (self.rows % size or (size % self.group and self.group % size))
            and ceil(size / self.group) * self.prompt + size * self.answer <= room
        ]
        return max(sizes, default=1)


def settle(ready: Ready, net: Model, group: int, answer: int) -> Ready:
    """The run with passes of as many answers as take no more tokens than they did with prompts of their own.

    Args:
        ready: The run.
        net: The model that is trained.
        group: Answers to each prompt.
        answer: Tokens of the longest answer.
    """
    settings, free = ready.settings, ready.spec.training.micro_batch_size == "Auto"
    smaller = ready.context.run.micro_batch_divisor > 1
    if smaller or not free or prefix_attention.why_not(head.base_of(net), settings.max_length):
        return ready
    rows = settings.batch_size * group // settings.processes
    step = Step(rows, group, settings.max_length - answer, answer)
    size = step.largest_pass(settings.micro_batch_size * settings.max_length)
    if size <= settings.micro_batch_size:
        return ready
    why = f"answers in {rows // size} passes a step: those to one prompt share its tokens"
    kept = [each for each in ready.resolved if each.field != FIELD]
    note = Resolved(field=FIELD, value=str(size), why=why)
    return replace(ready, settings=replace(settings, micro_batch_size=size), resolved=[*kept, note])


def together(passes: Sequence[Pass]) -> list[Pass]:
    """The same answers in as many passes, those to one prompt beside each other.

    Args:
        passes: As TRL has drawn them by lot, with `prompt_ids` and `prompt_mask` of shape (rows, tokens).
    """
    if len(passes) == 1:
        return list(passes)
    joined = {name: _joined([each[name] for each in passes]) for name in passes[0]}
    masked = joined["prompt_ids"].masked_fill(joined["prompt_mask"] == 0, -1)
    first: dict[tuple[int, ...], int] = {}
    ranks = [first.setdefault(tuple(row), len(first)) for row in masked.tolist()]
    order = torch.tensor(ranks).argsort(stable=True)
    ordered = {name: _ordered(value, order) for name, value in joined.items()}
    found: list[Pass] = split_tensor_dict(ordered, len(passes))
    return found


def _joined(parts: Sequence[Foreign]) -> Foreign:
    if isinstance(parts[0], Tensor) and parts[0].dim():
        return torch.cat(list(parts))
    if isinstance(parts[0], list):
        return [each for part in parts for each in part]
    return parts[0]


def _ordered(value: Foreign, order: Tensor) -> Foreign:
    if isinstance(value, Tensor) and value.dim():
        return value[order.to(value.device)]
    if isinstance(value, list):
        return [value[row] for row in order.tolist()]
    return value
