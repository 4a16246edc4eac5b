"""Preference rows as data sets and batches, and the figures that all methods on pairs report.

Used by the trainers and recipes of these methods. Chosen answers are the first half of a batch,
rejected ones the second, as TRL's collator puts them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from finetune_trainer.batches import Batch, mapped_dataset
from finetune_trainer.data.mapped import MappedRows
from finetune_trainer.data.rows import IGNORED, PreferenceRow
from finetune_trainer.evaluation import autocast
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.resolve import Settings
from finetune_trainer.watch import Measures

# Nats by which log-probabilities of the same model may differ: less is rounding, and no preference.
ROUNDING = 1e-3
# TRL's names in its logs -> ours.
LOGGED = {
    "rewards/margins": "rewardMargin",
    "rewards/accuracies": "rewardAccuracy",
    "rewards/chosen": "chosenReward",
    "rewards/rejected": "rejectedReward",
    "logps/chosen": "chosenLogProbability",
    "logps/rejected": "rejectedLogProbability",
}


@dataclass(frozen=True)
class PairFigures:
    """What is known about each pair of a batch; tensors of shape (pairs,).

    Attributes:
        loss: The loss of the pair alone, in nats.
        chosen: Reward of the better answer.
        rejected: Reward of the worse one.
        tie: Margins up to this size are no preference.
    """

    loss: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor
    tie: float


def dataset(rows: Sequence[PreferenceRow]) -> Dataset:
    """The rows as TRL takes them; `length` serves the sampler that groups by it."""
    if isinstance(rows, MappedRows):
        return mapped_dataset(rows, ["prompt_ids", "chosen_ids", "rejected_ids", "length"])
    return Dataset.from_dict(
        {
            "prompt_ids": [row.prompt_ids for row in rows],
            "chosen_ids": [row.chosen_ids for row in rows],
            "rejected_ids": [row.rejected_ids for row in rows],
            "length": [row.length for row in rows],
        }
    )


def chunks(rows: Dataset, size: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of a data set in batches, in order."""
    for first in range(0, len(rows), size):
        yield rows.select(range(first, min(first + size, len(rows)))).to_list()


def answer_labels(batch: Batch) -> torch.Tensor:
    """The ids of answers, -100 elsewhere."""
    return batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)


def forward(
    model: Model,
    batch: Batch,
    settings: Settings,
    labels: torch.Tensor | None = None,
    **asked: bool,
) -> Foreign:
    """Log-probabilities of answer tokens, by the fused head that TRL gives a model.

    Args:
        model: With that head.
        batch: Ids with masks, of shape (sequences, tokens).
        settings: For the precision.
        labels: The ids of other tokens than the answers', -100 elsewhere.
        asked: What else `answer_head` is to give, if the model has it: `reference`.

    Returns:
        TRL's `FusedCausalLMOutput`; its `log_probs` are of shape (sequences, tokens - 1), with zeros
        where there is no label.
    """
    with autocast(settings):
        return model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=answer_labels(batch) if labels is None else labels,
            fused_lm_head=True,
            **asked,
        )


def ordered(margins: torch.Tensor, tie: float) -> torch.Tensor:
    """1 for each pair that is ordered rightly; a tie counts half, as a coin would."""
    return (margins > tie).float() + 0.5 * (margins.abs() <= tie).float()


def accuracy(margins: torch.Tensor, tie: float) -> float:
    """Share of pairs that are ordered rightly.

    >>> accuracy(torch.tensor([0.5, 0.0, -0.2, 0.1]), tie=1e-3)
    0.625
    """
    return float(ordered(margins, tie).mean())


def measures(found: Sequence[PairFigures]) -> Measures:
    """Means over all pairs, whatever the batches."""
    loss, chosen, rejected = (
        torch.cat([getattr(each, name).double().cpu() for each in found])
        for name in ("loss", "chosen", "rejected")
    )
    margins = chosen - rejected
    return {
        "loss": float(loss.mean()),
        "rewardAccuracy": accuracy(margins, found[0].tie),
        "rewardMargin": float(margins.mean()),
        "chosenReward": float(chosen.mean()),
        "rejectedReward": float(rejected.mean()),
    }


def figures(logs: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a step, by our names."""
    return {ours: float(logs[name]) for name, ours in LOGGED.items() if name in logs}
