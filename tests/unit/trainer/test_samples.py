"""Which questions are asked follows from the rows; answers depend on nothing but the model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from finetune_trainer import samples
from finetune_trainer.answers import Sampling, answer
from finetune_trainer.data.rows import (
    IGNORED,
    ClassRow,
    JudgedRow,
    PreferenceRow,
    PromptRow,
    SequenceRow,
    TokenRow,
)
from support.tiny_models import tiny_model, tiny_tokenizer, tokenizer_for

SHORT = Sampling(max_new_tokens=6)


@pytest.mark.parametrize(
    ("row", "prompt", "reference"),
    [
        (TokenRow([1, 2, 3, 4], [IGNORED, IGNORED, 3, 4], "a"), (1, 2), (3, 4)),
        (TokenRow([1, 2, 3, 4, 5], [IGNORED, 2, 3, 4, 5], "a"), (1, 2, 3), (4, 5)),
        (PreferenceRow([1, 2], [3], [4], "a"), (1, 2), (3,)),
        (JudgedRow([1, 2], [3], True, "a"), (1, 2), (3,)),
        (PromptRow([1, 2], {}, "a"), (1, 2), ()),
        (SequenceRow([1, 2], [3, 4], "a"), (1, 2), (3, 4)),
        (ClassRow([1, 2], 0, "a"), (), ()),
    ],
)
def test_a_question_of_each_kind_of_row(row: Any, prompt: Any, reference: Any) -> None:
    assert samples.question(row) == samples.Question(prompt, reference)


def test_questions_lie_evenly_and_are_few() -> None:
    rows = [PromptRow([number], {}, "a") for number in range(1, 11)]
    assert [each.prompt for each in samples.choose(rows, 3)] == [(1,), (4,), (7,)]
    assert len(samples.choose(rows, 99)) == 10
    assert samples.choose([PromptRow([1] * 513, {}, "a"), ClassRow([1], 0, "a")]) == []


def test_a_batch_says_what_each_says_alone(model_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_folder), tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    prompts = [[5, 6, 7], list(range(5, 60)), [9]]
    together = answer(model.eval(), tokenizer, prompts, SHORT)
    alone = [answer(model, tokenizer, [prompt], SHORT)[0] for prompt in prompts]
    assert together == alone
    assert all(0 < len(each) <= 6 for each in together)

    questions = [samples.Question(tuple(each), (4,)) for each in prompts]
    model.train()
    state = torch.get_rng_state()
    said = samples.ask(model, tokenizer, questions, SHORT)
    assert model.training, "it goes on training"
    assert torch.equal(torch.get_rng_state(), state), "and drawing where it was"
    assert said == [tokenizer.decode(each, skip_special_tokens=True) for each in together]
    samples.write(tmp_path, tokenizer, questions, ["x"] * 3, said)
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["after"] for line in lines] == said
    assert lines[1]["prompt"] == tokenizer.decode(prompts[1])


def test_an_encoder_decoder_answers_too(tmp_path: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny_model(tmp_path, "t5")).eval()
    tokenizer = tokenizer_for("t5")
    prompts = [[5, 6, 7, 1], [9, 1]]
    together = answer(model, tokenizer, prompts, SHORT)
    assert together == [answer(model, tokenizer, [prompt], SHORT)[0] for prompt in prompts]
    assert samples.ask(model, tokenizer, [], SHORT) == []
