"""What is taken beside passes of training, where a model answers prompts meanwhile, by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from finetune_trainer import heads, memory, model, resolve, writing
from finetune_trainer.writing import Answering, Beside
from support.jobs import manifest
from support.tiny_models import tiny_model


@pytest.mark.parametrize(
    ("answers", "group", "held_out", "rows", "prompts"),
    [
        (16, 1, 0, 16, 16),
        # Both ends of the rows that are written together may belong to groups that are cut.
        (64, 8, 0, 32, 5),
        (8, 8, 0, 8, 2),
        (8, 8, 20, 20, 20),
        (64, 8, 100, 32, 32),
    ],
)
def test_answers_that_are_written_side_by_side(
    answers: int, group: int, held_out: int, rows: int, prompts: int
) -> None:
    how = Answering(answers, group, held_out, prompt=10, answer=5)
    assert (how.rows, how.prompts) == (rows, prompts)


def test_keys_and_values_and_what_draws(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model(tmp_path, hidden=64, layers=2))
    outline = model.outline(config, heads.CAUSAL).requires_grad_(False)
    changes = {"resources.gpusPerNode": 1, "method.type": "SFT"}
    spec: Any = resolve.FineTuneJobSpec.model_validate(manifest("demo", changes)["spec"])
    settings, _ = resolve.resolve(spec, resolve.Machine("cuda", bfloat16=True), 100, 15)
    how = Answering(answers=32, group=8, held_out=4, prompt=10, answer=5)
    # In bfloat16: keys and values of 32 numbers, of two layers and one that is copied, and repeated for
    # the 64 of the queries; those of five prompts, before they are handed out.
    cache = 32 * 15 * (3 * 2 * 32 * 2 + 2 * 64 * 2) + 5 * 10 * 2 * 2 * 32 * 2
    # Or five prompts read: residual stream twice, a norm, and four tensors of the feed-forward block.
    assert 36 * 32 * config.vocab_size > 50 * (2 * 2 * 64 + 12 * 64 + 4 * 2 * 128)
    assert writing.written(outline, config, settings, how) == cache + 36 * 32 * config.vocab_size
    compared = writing.compared(config, settings, how)
    assert compared == 20 * min(4, settings.micro_batch_size) * 6 * config.vocab_size
    count = sum(each.numel() for each in outline.parameters())
    assert writing.weights(outline, settings) == 2 * count
    # What is over before a pass counts where it is larger than that.
    plain = memory.estimate(outline, config, spec, settings)
    room = plain.activations + plain.logits
    beside = Beside(judges=7, answers=room + 11)
    assert memory.estimate(outline, config, spec, settings, None, beside) == replace(
        plain, judges=7, answers=11
    )
    assert memory.estimate(outline, config, spec, settings, None, Beside(answers=room)) == plain
    read = memory.estimate(outline, config, spec, settings, None, Beside(reading=5))
    assert read.logits == plain.logits + 5
