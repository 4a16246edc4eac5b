"""transformers' trainers for the supervised tasks, with a loss a label and a first step that is known.

Used by the recipes of these tasks. The loop is the library's; the mean is taken over the labels of a
whole step, however it is split into batches.
"""

import torch
from transformers import Seq2SeqTrainer, Trainer

from finetune_trainer.batches import Batch
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.resolve import Settings
from finetune_trainer.resume.trainer import Resumable
from finetune_trainer.sanity import before_first_step
from finetune_trainer.supervised.loss import Mean, judged, label_logits, summed


class LabelTrainer(Resumable, Trainer):
    """Trains on batches with `labels`: encoders, and decoders that classify.

    Attributes:
        unchanged: The loss of the model before training, on the rows of the first step.
    """

    def __init__(self, *, settings: Settings, **arguments: Foreign) -> None:
        self._settings = settings
        self.unchanged = Mean()
        super().__init__(**arguments)
        # Has the labels of a whole step counted; `compute_loss` divides by that number.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: Model,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Foreign = None,
    ) -> Foreign:
        """The share of one forward pass in the loss of its step."""
        if self.state.global_step == 0:
            self._look_at_unchanged(model, inputs)
        loss = summed(label_logits(model, inputs), inputs["labels"]) / num_items_in_batch
        # The number is that of all processes, whose gradients are averaged.
        return loss * self.accelerator.num_processes

    def _look_at_unchanged(self, model: Model, inputs: Batch) -> None:
        # With the same draws of dropout as the pass that follows, so that both losses are the same.
        with torch.random.fork_rng(), before_first_step(model):
            model.train()
            self.unchanged.add(judged(model, inputs, self._settings), inputs["labels"])


class SequenceTrainer(LabelTrainer, Seq2SeqTrainer):
    """The same for encoder-decoder models."""
