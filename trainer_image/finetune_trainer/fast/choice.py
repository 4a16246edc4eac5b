"""Which fast paths supervised fine-tuning takes: each is tried on real rows of the loaded model first.

Called by the recipe of SFT once the model is loaded. What is taken, and what is left alone and why, is told
in `status.resolved`, beside the kernels of the layers (`fast.kernels`).
"""

from dataclasses import replace
from itertools import islice

from finetune_api.v1alpha1.status import Resolved
from finetune_api.v1alpha1.tuning import VIRTUAL_TOKENS
from finetune_trainer import isolation
from finetune_trainer.batches import Collator
from finetune_trainer.data.packed_row import PackedRow
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.fast import head, loss, prefix_attention
from finetune_trainer.fast.flat import FlatCollator
from finetune_trainer.fast.told import LOSS, PADDING
from finetune_trainer.foreign import Model
from finetune_trainer.recipes.recipe import Ready

_LOOKED_AT = 64
# Rows that must not see each other, in the proof.
_TOGETHER = 3
# Of each of them: what is proved does not depend on how long they are, and no step waits for more.
_TOKENS = 32


def settle(ready: Ready, net: Model) -> Ready:
    """Prepare the model for its fast paths, and tell which they are.

    Args:
        ready: The run.
        net: The model that is trained, not yet wrapped for several processes.
    """
    notes = []
    shortest = sorted(islice(ready.data.train, _LOOKED_AT), key=lambda row: row.length)
    rows = [row.excerpt(_TOKENS) for row in shortest[:_TOGETHER]]
    against = _against_loss(ready, net, rows)
    why = against or "read from hidden states of supervised tokens; no logits are kept"
    notes.append(Resolved(field=LOSS, value="library" if against else "fused", why=why))
    against = _against_flat(ready, net, rows) if head.installed(net) else against
    why = (
        against
        or "the rows of a forward pass stand in one row, and were proved not to see each other"
    )
    notes.append(Resolved(field=PADDING, value="padded" if against else "none", why=why))
    return replace(ready, flat=not against, resolved=[*ready.resolved, *notes])


def against_flat(ready: Ready, net: Model) -> str | None:
    """Why rows are padded, as far as a model's outline tells; None if they need not be."""
    if ready.spec.tuning.type in VIRTUAL_TOKENS:
        return "virtual tokens stand once before each row"
    if ready.data.stream is not None and ready.settings.processes > 1:
        return "streamed rows are sent from process to process as tensors"
    return prefix_attention.why_not(head.base_of(net), ready.settings.max_length)


def _against_loss(ready: Ready, net: Model, rows: list[TokenRow]) -> str | None:
    """Install the loss without logits, or say why it is left alone."""
    if against := head.why_not(net):
        return against
    head.install(net)
    batch = Collator(ready.tokenizer.pad_token_id).of_rows(rows[:1], ready.settings.device)
    found, allowed = loss.difference(net, batch), loss.tolerance(ready.settings.precision)
    if found <= allowed:
        return None
    head.remove(net)
    return f"it differs by {found:.2g} of the loss from logits (tolerance {allowed:.2g})"


def _against_flat(ready: Ready, net: Model, rows: list[TokenRow]) -> str | None:
    """Let the model take rows in one row, or say why not."""
    settings, base = ready.settings, head.base_of(net)
    if against := against_flat(ready, net):
        return against
    before = base.config._attn_implementation
    prefix_attention.install(base)
    padded, flat = (kind(ready.tokenizer.pad_token_id) for kind in (Collator, FlatCollator))
    found = isolation.prove(net, [PackedRow(tuple(rows))], flat, settings, alone=padded)
    if found.holds:
        return None
    base.set_attn_implementation(before)
    return str(found)
