"""Base of the trainers whose losses are formulas of ours on log-probabilities of whole answers.

Extended by `judged_trainer` and `pair_trainer`. The loop is that of transformers, and so is everything
about optimisers; the log-probabilities come from TRL's fused head, which keeps no logits.
"""

from collections import defaultdict
from typing import Any

import torch
from peft import PeftModel
from transformers import Trainer
from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model

from finetune_trainer.batches import Batch
from finetune_trainer.foreign import Foreign
from finetune_trainer.preference.step import WholeStep
from finetune_trainer.resolve import Settings
from finetune_trainer.resume.trainer import Resumable


class AnswerTrainer(Resumable, WholeStep, Trainer):
    """Trains on log-probabilities; a subclass gives `size` and `compute_loss`.

    Args:
        settings: Of the run.
        arguments: Those of transformers' trainer.
    """

    train_dataset: Foreign
    eval_dataset: Foreign

    def __init__(self, *, settings: Settings, **arguments: Foreign) -> None:
        super().__init__(**arguments)
        self._settings = settings
        self._noted: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._tokens = 0
        # A loss is the share of a pass in its step, times the passes: transformers divides by them.
        self.model_accepts_loss_kwargs = False
        # What is compared must be a function of the weights alone.
        disable_dropout_in_model(self.model)
        net = self.model
        add_fused_lm_head(net.get_base_model() if isinstance(net, PeftModel) else net)

    def batch(self, rows: list[dict[str, Any]]) -> Batch:
        """Rows as tensors on the device."""
        batch: Batch = self.data_collator(rows)
        return {name: tensor.to(self._settings.device) for name, tensor in batch.items()}

    def note(self, **figures: torch.Tensor) -> None:
        """Remember figures of rows, of shape (rows,), whose mean over the step is logged."""
        for name, values in figures.items():
            self._noted[name].append(values.detach())

    def count(self, batch: Batch) -> None:
        """Count the tokens of a pass."""
        self._tokens += int(batch["attention_mask"].sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step with its figures."""
        rows = {name: torch.cat(values) for name, values in self._noted.items()}
        means = {name: float(each.mean()) for name, each in rows.items() if len(each)}
        self._noted.clear()
        super().log({**logs, **means, "num_tokens": self._tokens}, start_time)
