"""The loss over supervised tokens, without logits: a reader for `fast.head`, and the proof that it is right.

Called by the recipe of SFT and by `evaluation`. The arithmetic is `finetune_kernels.linear_cross_entropy`:
rows with a label are gathered, their logits exist a few rows at a time, and a frozen output layer costs no
gradient of its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.utils import ModelOutput

from finetune_kernels.ops.linear_cross_entropy import linear_cross_entropy
from finetune_trainer.batches import Batch
from finetune_trainer.data.rows import IGNORED
from finetune_trainer.fast.head import OutputLayer, in_one_dtype, shifted
from finetune_trainer.foreign import Model

# Sums of a few hundred terms in another order; bfloat16 rounds each logit to three digits.
_TOLERANCES = {"Float32": 1e-4, "BFloat16": 2e-2}


@dataclass
class SummedLoss(ModelOutput):
    """What `summed_loss` gives.

    Attributes:
        loss: Sum over the supervised tokens, in nats.
        tokens: How many there are.
    """

    loss: Tensor | None = None
    tokens: Tensor | None = None


def summed_loss(hidden: Tensor, labels: Tensor, layer: OutputLayer) -> SummedLoss:
    """Cross entropy summed over all tokens with a label; 0 with gradients of 0 if there is none.

    Args:
        hidden: `(B, T, H)`.
        labels: `(B, T)`, unshifted.
        layer: Of the same model.
    """
    targets = shifted(labels).flatten()
    rows, weight, bias = in_one_dtype(hidden.flatten(0, 1), layer)
    loss = linear_cross_entropy(
        rows,
        weight,
        targets,
        bias,
        ignore_index=IGNORED,
        softcap=layer.softcap,
        reduction="sum",
    )
    return SummedLoss(loss, (targets != IGNORED).sum())


def tolerance(precision: str) -> float:
    """What arithmetic alone may cause in `difference`."""
    return _TOLERANCES[precision]


def difference(model: Model, batch: Batch) -> float:
    """How far this loss is from that of the model's own logits, relative to it, on one batch.

    Args:
        model: With `fast.head` installed.
        batch: With labels, on the model's device; small, because its logits exist.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(**inputs, use_cache=False).logits.float()
            # Virtual tokens have logits too, before those of the row.
            logits = logits[:, -batch["labels"].shape[1] :]
            ours = float(model(**batch, read=summed_loss).loss)
    finally:
        model.train(training)
    targets = shifted(batch["labels"]).flatten()
    theirs = float(
        cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")
    )
    return abs(ours - theirs) / max(1.0, abs(theirs))
