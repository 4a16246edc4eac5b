"""The largest forward pass of a run, as far as its data and the outline of its model tell.

Called by `recipes.foresight` and `recipes.sparing`: what fast paths spare is counted before they are taken.
That rows in one row do not see each other is proved on the loaded model; `recipes.sparing` looks again then.
"""

from collections.abc import Iterable
from heapq import nlargest
from typing import Any

from finetune_kernels import patch
from finetune_trainer.activations import Pass
from finetune_trainer.fast import answer_head, choice, recompute
from finetune_trainer.foreign import Model
from finetune_trainer.memory import PAIRED, padded
from finetune_trainer.recipes.recipe import Ready


def foreseen(ready: Ready, outline: Model) -> Pass:
    """The largest forward pass.

    Args:
        ready: The run, with its strategy.
        outline: The model with its adapter, on the meta device.
    """
    spec, whole = ready.spec, padded(ready.spec, ready.settings)
    chunked, flat = whole.chunked, False
    if spec.model.task == "text-generation" and spec.method.type == "SFT":
        chunked = choice.against_loss(ready, outline) is None
        flat = chunked and choice.against_flat(ready, outline) is None
    elif spec.method.type in PAIRED and spec.method.type != "Reward":
        fitting = answer_head.fits(outline, ready.settings.max_length)
        chunked = fitting.against_head is None
        flat = chunked and fitting.against_packing is None
    tokens = _tokens(ready, whole.tokens) if flat else whole.tokens
    return Pass(tokens, chunked, flat, lora_blocks=_lora_blocks(ready, outline))


def _tokens(ready: Ready, most: int) -> int:
    """Of the longest rows side by side; only the first rows of a stream are known."""
    if ready.data.stream is not None:
        return most
    rows = _lengths(ready.data.packed or ready.data.train)
    return sum(nlargest(ready.settings.micro_batch_size, rows))


def _lengths(rows: Iterable[Any]) -> Iterable[int]:
    for row in rows:
        if hasattr(row, "chosen_ids"):
            # Both answers follow one prompt.
            yield len(row.prompt_ids) + len(row.chosen_ids) + len(row.rejected_ids)
        else:
            yield row.length


def _lora_blocks(ready: Ready, outline: Model) -> bool:
    """Whether every layer has our block; of a quantised base, the outline does not know."""
    if ready.spec.tuning.type != "LoRA":
        return False
    patched = patch(outline, "Torch")
    patched.undo()
    return patched.layers.get("LoraMLP", 0) >= max(1, len(recompute.layers_of(outline)))
