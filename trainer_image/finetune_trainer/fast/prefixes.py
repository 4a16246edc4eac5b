"""Rows that begin alike, laid out so that what they share is there once.

A pair of answers to one prompt, or a group of them, becomes `prompt, answer, answer, …` in one long row
without padding. Each token keeps the position that it had; `prefix_attention` lets an answer see its
prompt and itself, and no other answer. Made by `answer_head` for every batch; knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune_trainer.foreign import Foreign

_NO_TOKEN = -1

Families = Sequence[Sequence[int]]
"""Rows that may share a beginning, by their numbers in the batch; each row stands in one family."""


@dataclass(frozen=True)
class Group:
    """One family in the long row.

    Attributes:
        prefix: Tokens that all its rows begin with.
        answers: Further tokens of each of its rows.
    """

    prefix: int
    answers: tuple[int, ...]


class Layout:
    """How the long row is divided; handed to the attention of each layer.

    No dataclass: FSDP may hand each layer a copy of those, and what one layer notes would be lost.

    Attributes:
        groups: In their order.
        layers: How many layers have asked for it.
        documents: What an attention makes of the groups, for the layers after the first.
    """

    def __init__(self, groups: tuple[Group, ...]) -> None:
        self.groups = groups
        self.layers = 0
        self.documents: Foreign = None


@dataclass(frozen=True)
class Packed:
    """A batch as one long row of N tokens.

    Attributes:
        ids: Token ids, shape (1, N).
        positions: Of each token in its own row, shape (1, N).
        places: Where each token of the batch stands in the long row; 0 for padding, shape of the batch.
        layout: How it is divided.
    """

    ids: Tensor
    positions: Tensor
    places: Tensor
    layout: Layout


def pack(ids: Tensor, mask: Tensor, families: Families) -> Packed:
    """One long row of a batch.

    Args:
        ids: Token ids, padded on either side, shape (rows, tokens).
        mask: Not zero at real tokens.
        families: Rows that may share a beginning.
    """
    present = mask.bool()
    firsts, lengths = present.int().argmax(1).tolist(), present.sum(1).tolist()
    width, count = ids.shape[1], 0
    sources: list[Tensor] = []
    positions: list[Tensor] = []
    places = torch.zeros(ids.shape, dtype=torch.long)
    groups = []
    for family in families:
        rows = [(row, firsts[row], lengths[row]) for row in family]
        shared = _shared([ids[row, first : first + length] for row, first, length in rows])
        row, first, _ = rows[0]
        spans = [(row, first, 0, shared)]
        spans += [(row, first, shared, length) for row, first, length in rows]
        for row, first, start, stop in spans:
            sources.append(torch.arange(start, stop) + (row * width + first))
            positions.append(torch.arange(start, stop))
        for row, first, _ in rows:
            places[row, first : first + shared] = torch.arange(count, count + shared)
        count += shared
        for row, first, length in rows:
            span = torch.arange(count, count + length - shared)
            places[row, first + shared : first + length] = span
            count += length - shared
        groups.append(Group(shared, tuple(length - shared for _, _, length in rows)))
    source = torch.cat(sources).to(ids.device)
    return Packed(
        ids.reshape(-1)[source].unsqueeze(0),
        torch.cat(positions).to(ids.device).unsqueeze(0),
        places.to(ids.device),
        Layout(tuple(groups)),
    )


def by_prompt(ids: Tensor, mask: Tensor, answers: Tensor) -> Families:
    """Rows with the same prompt, which is what stands before the first token of their answer.

    Args:
        ids: Token ids, shape (rows, tokens).
        mask: Not zero at real tokens.
        answers: True at tokens of answers.
    """
    prompts = mask.bool() & (answers.cumsum(1) == 0)
    families: dict[tuple[int, ...], list[int]] = {}
    for row, tokens in enumerate(ids.masked_fill(~prompts, _NO_TOKEN).tolist()):
        prompt = tuple(token for token in tokens if token != _NO_TOKEN)
        families.setdefault(prompt, []).append(row)
    return list(families.values())


def _shared(rows: Sequence[Tensor]) -> int:
    """How many tokens all rows begin with; none of one row alone is shared."""
    if len(rows) == 1:
        return 0
    shortest = min(len(row) for row in rows)
    cut = torch.stack([row[:shortest] for row in rows])
    return int((cut == cut[0]).all(0).long().cumprod(0).sum())
