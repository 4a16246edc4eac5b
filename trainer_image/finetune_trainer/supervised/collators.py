"""Rows of classes, and rows with hidden tokens, as tensors. Used by the recipes of these tasks.

The other supervised tasks take `batches.Collator`. Padding is masked by position: attention 0 and label
-100, whatever the pad token is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling

from finetune_trainer.batches import Batch, mapped_dataset, padded
from finetune_trainer.data.mapped import MappedRows
from finetune_trainer.data.rows import IGNORED, ClassRow, TokenRow
from finetune_trainer.foreign import ModelConfig, Tokenizer
from finetune_trainer.resume.randomness import seed_of

# Share of the tokens that are hidden: Devlin et al. 2019 (arXiv 1810.04805).
HIDDEN = 0.15


@dataclass(frozen=True)
class ClassCollator:
    """Makes batches of texts with one class each.

    Attributes:
        pad_token_id: Fills up shorter rows.
        segments: Whether the model asks which of two texts a token belongs to.
    """

    pad_token_id: int
    segments: bool

    @classmethod
    def of(cls, tokenizer: Tokenizer, config: ModelConfig) -> "ClassCollator":
        """For a model with this tokenizer and configuration."""
        segments = (getattr(config, "type_vocab_size", None) or 0) > 1
        return cls(tokenizer.pad_token_id, segments)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """`input_ids` and `attention_mask` of shape (rows, longest row), `labels` of shape (rows,)."""
        ids = [list(example["input_ids"]) for example in examples]
        batch = {
            "input_ids": padded(ids, self.pad_token_id),
            "attention_mask": padded([[1] * len(row) for row in ids], 0),
            "labels": torch.tensor([example["labels"] for example in examples]),
        }
        segments = [list(example["segment_ids"]) for example in examples]
        if not self.segments or not any(segments):
            return batch
        filled = [own or [0] * len(row) for own, row in zip(segments, ids, strict=True)]
        return {**batch, "token_type_ids": padded(filled, 0)}

    def of_rows(self, rows: Sequence[ClassRow], device: str) -> Batch:
        """The same of class rows, on a device."""
        return {name: tensor.to(device) for name, tensor in self(_columns(rows)).items()}


def class_dataset(rows: Sequence[ClassRow]) -> Dataset:
    """The rows as trainers take them; `length` serves the sampler that groups by it."""
    if isinstance(rows, MappedRows):
        found = mapped_dataset(rows, ["input_ids", "segment_ids", "label", "length"])
        return found.rename_column("label", "labels")
    return Dataset.from_list(_columns(rows))


def _columns(rows: Sequence[ClassRow]) -> list[dict[str, Any]]:
    return [
        {
            "input_ids": row.input_ids,
            "segment_ids": row.segment_ids,
            "labels": row.label,
            "length": row.length,
        }
        for row in rows
    ]


class MaskingCollator:
    """Makes batches in which some tokens are hidden, drawn anew for each batch.

    Of the tokens that a row's labels name, 15 % are chosen; of these 80 % are replaced by the mask
    token, 10 % by any token, and 10 % stay. At least one token of a batch is chosen.

    Args:
        tokenizer: With a mask token and a pad token.
        seed: Of the drawing. A new collator with the same seed draws the same again.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._draw = DataCollatorForLanguageModeling(
            tokenizer, mlm_probability=HIDDEN, seed=seed, return_tensors="pt"
        )
        self._seed, self._batches = seed, 0

    def go_on_from(self, batches: int) -> None:
        """Draw as after so many batches, of which not one need be made again."""
        self._batches = batches

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """`input_ids`, `labels` and `attention_mask`, each of shape (rows, longest row)."""
        columns = [
            {
                "input_ids": list(example["input_ids"]),
                # Also what must not be hidden.
                "special_tokens_mask": [int(label == IGNORED) for label in example["labels"]],
                "attention_mask": [1] * len(example["input_ids"]),
            }
            for example in examples
        ]
        # Of each batch alone, so that a run can go on from any of them.
        self._draw.seed, self._draw.generator = seed_of(self._seed, self._batches), None
        self._batches += 1
        while True:
            batch: Batch = dict(self._draw(columns))
            # Of few short rows, now and then none is drawn; such a step would divide by zero.
            if (batch["labels"] != IGNORED).any():
                return batch

    def of_rows(self, rows: Sequence[TokenRow], device: str) -> Batch:
        """The same of token rows, on a device."""
        batch = self([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
        return {name: tensor.to(device) for name, tensor in batch.items()}
