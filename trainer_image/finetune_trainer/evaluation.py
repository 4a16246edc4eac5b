"""Held-out loss: the mean over all supervised tokens, whatever the batches.

Called by the recipe before and after training, and by its callback in between. It keeps no logits: the
loss is read from hidden states (`fast.loss`), or TRL's fused head gives one log-probability a token.
"""

import math
from collections.abc import Sequence

import torch

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.batches import Batch, Collator
from finetune_trainer.data.mapped import longest_first
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.fast.head import installed
from finetune_trainer.fast.loss import summed_loss
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.resolve import Settings


def mean_loss(
    model: Model, rows: Sequence[TokenRow], settings: Settings, collator: Collator
) -> float:
    """Loss in nats a supervised token.

    Args:
        model: As TRL's trainer left it, with the fused head.
        rows: Held-out rows, at least one.
        settings: For batch size, device and precision.
        collator: Makes the batches.

    Raises:
        TrainerError: Diverged if the loss is not a number.
    """
    ordered = longest_first(rows)
    size = settings.micro_batch_size
    training = model.training
    model.eval()
    sums = TokenLoss(settings)
    for first in range(0, len(ordered), size):
        sums.add(model, collator.of_rows(ordered[first : first + size], settings.device))
    model.train(training)
    if not math.isfinite(sums.loss):
        raise TrainerError(Reason.DIVERGED, f"the held-out loss is {sums.loss}")
    return sums.mean


class TokenLoss:
    """Sums the loss over the supervised tokens of batches, without gradients.

    Attributes:
        loss: The sum so far, in nats.
        tokens: How many tokens it is of.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.loss = 0.0
        self.tokens = 0

    @property
    def mean(self) -> float:
        """Loss in nats a token."""
        return self.loss / self.tokens

    def add(self, model: Model, batch: Batch) -> None:
        """Take one batch into account; the model is in evaluation mode."""
        with torch.no_grad(), autocast(self._settings):
            loss, tokens = _summed(model, batch)
        self.loss += float(loss)
        self.tokens += int(tokens)


def _summed(model: Model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    if installed(model):
        found = model(**batch, read=summed_loss)
        return found.loss, found.tokens
    outputs = model(**batch, fused_lm_head=True)
    return -outputs.log_probs.sum(dtype=torch.float64), outputs.label_mask.sum()


def autocast(settings: Settings) -> Foreign:
    """Arithmetic in bfloat16 where that was chosen, as in training."""
    enabled = settings.precision == "BFloat16"
    return torch.autocast(settings.device, dtype=torch.bfloat16, enabled=enabled)
