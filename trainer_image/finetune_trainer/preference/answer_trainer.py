"""Base of the trainers whose losses are formulas of ours on log-probabilities of whole answers.

Extended by `judged_trainer` and `pair_trainer`. The loop is that of transformers, and so is everything
about optimisers; the log-probabilities come from TRL's fused head, which keeps no logits.
"""

from typing import Any

from peft import PeftModel
from transformers import Trainer
from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model

from finetune_trainer import processes
from finetune_trainer.batches import Batch
from finetune_trainer.fast import answer_head
from finetune_trainer.foreign import Foreign
from finetune_trainer.preference.step import RowFigures, WholeStep
from finetune_trainer.resolve import Settings
from finetune_trainer.resume.trainer import Resumable
from finetune_trainer.spreading import Void


class AnswerTrainer(Resumable, WholeStep, Trainer):
    """Trains on log-probabilities; a subclass gives `size` and `compute_loss`.

    Args:
        settings: Of the run.
        arguments: Those of transformers' trainer.

    Attributes:
        fitted: The fast paths of the model.
    """

    train_dataset: Foreign
    eval_dataset: Foreign

    def __init__(self, *, settings: Settings, **arguments: Foreign) -> None:
        super().__init__(**arguments)
        self._settings = settings
        self.rows = RowFigures()
        self._tokens = 0
        # A loss is the share of a pass in its step, times the passes: transformers divides by them.
        self.model_accepts_loss_kwargs = False
        # What is compared must be a function of the weights alone.
        disable_dropout_in_model(self.model)
        net = self.model
        add_fused_lm_head(net.get_base_model() if isinstance(net, PeftModel) else net)
        self.fitted = answer_head.install(net, settings.max_length)

    def batch(self, rows: list[dict[str, Any]]) -> Batch:
        """Rows as tensors on the device."""
        batch: Batch = self.data_collator(rows)
        return {name: tensor.to(self._settings.device) for name, tensor in batch.items()}

    def count(self, batch: Batch) -> None:
        """Count the tokens of a pass."""
        if not isinstance(batch, Void):
            self._tokens += int(batch["attention_mask"].sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step with its figures."""
        tokens = processes.total(self._tokens)[0]
        super().log({**logs, **self.rows.means(), "num_tokens": tokens}, start_time)
