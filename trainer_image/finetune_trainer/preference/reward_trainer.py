"""TRL's trainer for reward models, on finished rows.

Used by `recipes.reward`. The loss is TRL's; ours are means over the whole step, the loss of the model
before training, and figures of each pair alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from finetune_trainer.batches import Batch
from finetune_trainer.evaluation import autocast
from finetune_trainer.fast import score_head
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.preference.pairs import PairFigures
from finetune_trainer.preference.step import MeansOverRows, Recorder, RowFigures, Size, WholeStep
from finetune_trainer.resolve import Settings
from finetune_trainer.resume.trainer import Resumable
from finetune_trainer.sanity import before_first_step


class PairCollator(DataCollatorForPreference):
    """TRL's, for rows whose prompt stands beside the answers: each answer follows it."""

    def torch_call(self, examples: list[dict[str, Any]]) -> Batch:
        """`input_ids` and `attention_mask` of shape (2 × pairs, longest), the better answers first."""
        names = ("chosen_ids", "rejected_ids")
        joined = [{name: each["prompt_ids"] + each[name] for name in names} for each in examples]
        batch: Batch = super().torch_call(joined)
        return batch


class ScoredPairs(Resumable, WholeStep, MeansOverRows, RewardTrainer):
    """Trains a model with one output to score the better answer higher.

    Args:
        settings: Of the run.
        center: Weight of the pull of both scores to zero.
        arguments: Those of TRL's trainer.

    Attributes:
        against_packing: Why rows are padded; None where they are not.
        unchanged: The loss of the model before training on the rows of the first step; with several
            processes, this one's share.
    """

    def __init__(self, *, settings: Settings, center: float, **arguments: Foreign) -> None:
        self._settings, self._center = settings, center
        self.unchanged = 0.0
        self.rows = RowFigures()
        super().__init__(**arguments)
        self.against_packing = score_head.install(self.model, settings.max_length)

    def batch(self, rows: list[dict[str, Any]]) -> Batch:
        """Rows as tensors on the device."""
        batch: Batch = self.data_collator(rows)
        return {name: tensor.to(self._settings.device) for name, tensor in batch.items()}

    def size(self, batch: Batch) -> Size:
        """Pairs."""
        return Size(len(batch["input_ids"]) // 2)

    def compute_loss(self, model: Model, inputs: Batch, *_: Foreign, **__: Foreign) -> torch.Tensor:
        """The share of one forward pass in the loss of its step."""
        share = self.share(inputs).rows
        if self.state.global_step == 0:
            with before_first_step(model):
                loss = float(self.pair_figures(inputs, model).loss.mean())
            self.unchanged += share * loss / len(self._passes)
        recorder = Recorder(self._reading(model))
        # TRL writes into the batch that it is given.
        loss_of_pass: torch.Tensor = super().compute_loss(recorder, dict(inputs))
        self._note(inputs, recorder.outputs.logits.detach().squeeze(-1).float())
        return loss_of_pass * share

    def _reading(self, model: Model) -> Callable[..., Foreign]:
        return model if self.against_packing else partial(model, packed=True)

    def _note(self, batch: Batch, scores: torch.Tensor) -> None:
        chosen, rejected = scores.chunk(2)
        margins = chosen - rejected
        self.rows.note(
            batch,
            accuracy=(margins > 0).float(),
            margin=margins,
            mean_reward=(chosen + rejected) / 2,
        )

    @torch.no_grad()
    def pair_figures(self, batch: Batch, model: Model = None) -> PairFigures:
        """Loss and scores of each pair alone; the model in training unless another is given."""
        net = model if model is not None else self.model
        with autocast(self._settings):
            scores = self._reading(net)(**batch).logits.squeeze(-1).float()
        chosen, rejected = scores.chunk(2)
        loss = -logsigmoid(chosen - rejected) + self._center * (chosen + rejected).square()
        return PairFigures(loss, chosen, rejected, tie=0.0)
