"""Which fast paths a run takes, decided once the model is loaded: each is tried on a real row first.

Called by the recipe of SFT. What runs is told as `training.kernels` in `status.resolved`, with what was
left alone and why.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.batches import Collator
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.fast import head, loss
from finetune_trainer.foreign import Model
from finetune_trainer.recipes.recipe import Ready

FIELD = "training.kernels"
_LOOKED_AT = 64
LOSS = "loss from hidden states of supervised tokens, without logits"


def settle(ready: Ready, net: Model, collator: Collator) -> Ready:
    """Prepare the model for its fast paths, and tell which they are.

    Args:
        ready: The run.
        net: The model that is trained, not yet wrapped for several processes.
        collator: Makes padded batches.
    """
    against = _against_loss(ready, net, collator)
    why = f"left alone: {LOSS}: {against}" if against else LOSS
    note = Resolved(field=FIELD, value="Torch", why=why)
    return replace(ready, resolved=[*ready.resolved, note])


def _against_loss(ready: Ready, net: Model, collator: Collator) -> str | None:
    """Install the loss without logits, or say why it is left alone."""
    if ready.settings.strategy.name == "ZeRO3":
        return "ZeRO3 gathers the output layer's weight only while that layer is called"
    if against := head.why_not(net):
        return against
    head.install(net)
    batch = collator.of_rows([_short(ready.data.train)], ready.settings.device)
    found, allowed = loss.difference(net, batch), loss.tolerance(net)
    if found <= allowed:
        return None
    head.remove(net)
    return f"it differs by {found:.2g} of the loss from logits (tolerance {allowed:.2g})"


def _short(rows: Sequence[TokenRow]) -> TokenRow:
    return min(islice(rows, _LOOKED_AT), key=lambda row: row.length)
