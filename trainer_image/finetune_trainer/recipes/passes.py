"""The largest forward pass of a run, as far as its data and the outline of its model tell.

Called by `recipes.foresight` and `recipes.sparing`: what fast paths spare is counted before they are taken.
That rows in one row do not see each other is proved on the loaded model; `recipes.sparing` looks again then.
"""

from collections.abc import Iterable
from heapq import nlargest
from typing import Any

from finetune_kernels import patch
from finetune_trainer import heads, model, writing
from finetune_trainer.fast import answer_head, choice, head, recompute
from finetune_trainer.foreign import Model, ModelConfig
from finetune_trainer.layer_shape import Pass
from finetune_trainer.memory import PAIRED, padded
from finetune_trainer.opening import config_of
from finetune_trainer.recipes.recipe import Ready
from finetune_trainer.tuning import virtual_tokens
from finetune_trainer.writing import NOTHING, ONLINE, Answering, Beside

_JUDGES = (
    "method.ppo.rewardModel",
    "method.grpo.rewardModel",
    "method.rloo.rewardModel",
    "method.distillation.teacher",
)


def foreseen(ready: Ready, outline: Model) -> Pass:
    """The largest forward pass.

    Args:
        ready: The run, with its strategy.
        outline: The model with its adapter, on the meta device.
    """
    spec, whole = ready.spec, padded(ready.spec, ready.settings)
    chunked, flat = whole.chunked, False
    if spec.model.task == "text-generation" and spec.method.type == "SFT":
        chunked = head.why_not(outline) is None
        flat = chunked and choice.against_flat(ready, outline) is None
    elif spec.method.type in ONLINE:
        fitting = answer_head.fits(outline, ready.settings.max_length)
        chunked = fitting.against_head is None and _reads_hidden_states(ready, outline)
        flat = chunked and fitting.against_packing is None and spec.method.type != "Distillation"
        return Pass(whole.tokens, chunked, flat, lora_blocks=_lora_blocks(ready, outline))
    elif spec.method.type in PAIRED and spec.method.type != "Reward":
        fitting = answer_head.fits(outline, ready.settings.max_length)
        chunked = fitting.against_head is None
        flat = chunked and fitting.against_packing is None
    tokens = _tokens(ready, whole.tokens) if flat else whole.tokens
    return Pass(tokens, chunked, flat, lora_blocks=_lora_blocks(ready, outline))


def beside(ready: Ready, outline: Model, largest: Pass) -> Beside:
    """What a method takes that writes answers while it trains; nothing for the others.

    Args:
        ready: The run, with its strategy.
        outline: The model with its adapter, on the meta device.
        largest: Of `foreseen`.
    """
    spec, settings, config = ready.spec, ready.settings, ready.config
    if spec.method.type not in ONLINE:
        return NOTHING
    how = _answering(ready)
    answers = writing.written(outline, config, settings, how)
    answers = max(answers, writing.compared(config, settings, how))
    judges = [_outlined(ready, path) for path in ready.context.models if path in _JUDGES]
    read = [writing.read(*each, settings, largest.tokens) for each in judges]
    reading = 0
    if spec.method.type == "PPO":
        # Its first pass is kept while the others and the reference are read.
        reading = writing.read(outline, config, settings, largest.tokens)
    elif spec.method.type == "Distillation":
        reading = max(read)
    weights = sum(writing.weights(each, settings) for each, _ in judges)
    return Beside(weights, max([answers, *read]), reading)


def _answering(ready: Ready) -> Answering:
    spec, settings = ready.spec, ready.settings
    block = getattr(spec.method, spec.method.type.lower())
    answer, group = block.generation.max_new_tokens, getattr(block, "answers_per_prompt", 1)
    virtual = virtual_tokens.count(spec.tuning)
    return Answering(
        answers=settings.batch_size * group // settings.processes,
        group=group,
        held_out=len(ready.data.evaluation or ()),
        prompt=settings.max_length - answer + virtual,
        answer=answer,
    )


def _outlined(ready: Ready, path: str) -> tuple[Model, ModelConfig]:
    """A model that judges or teaches."""
    kind = heads.CAUSAL if path.endswith("teacher") else heads.SEQUENCE_CLASSIFICATION
    config = config_of(ready.context.models[path], kind)
    return model.outline(config, kind), config


def _reads_hidden_states(ready: Ready, outline: Model) -> bool:
    """Whether the head is read a few rows at a time."""
    return ready.spec.method.type != "PPO" or answer_head.head_is_frozen(outline)


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
