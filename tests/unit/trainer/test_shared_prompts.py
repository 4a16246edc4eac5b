"""Answers that share a prompt give the log-probabilities and gradients of rows that do not."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from trl.trainer.utils import add_fused_lm_head

from finetune_trainer.fast import answer_head, packed_attention, prefix_attention, prefixes, told
from finetune_trainer.fast.told import Fitted
from finetune_trainer.ppo import reading
from finetune_trainer.reference import Reference
from finetune_trainer.rollout import Rollout

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4}
CONFIGS = [
    LlamaConfig(**SMALL), Qwen2Config(**SMALL), Qwen3Config(**SMALL), MistralConfig(**SMALL),
    GPT2Config(**GPT2, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0),
]  # fmt: skip
# Two pairs whose answers part after five and after four tokens, and one that shares nothing.
PROMPT = 4
LENGTHS = (12, 9, 7, 10, 12, 5)


def batch(side: str = "right") -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(3, 97, (6, 12))
    ids[3:5, :PROMPT] = ids[:2, :PROMPT]
    ids[3, PROMPT] = ids[0, PROMPT]
    ids[4, PROMPT] = (ids[1, PROMPT] + 1) % 97
    mask = torch.arange(12).expand(6, 12) < torch.tensor(LENGTHS).unsqueeze(1)
    labels = ids.masked_fill(~mask, -100)
    labels[:, :PROMPT] = -100
    given = {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}
    if side == "right":
        return given
    shifts = [12 - length for length in LENGTHS]
    return {
        name: torch.stack([row.roll(by) for row, by in zip(rows, shifts, strict=True)])
        for name, rows in given.items()
    }


def one_by_one(model: Any, given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The log-probabilities of each row's answer, by the model's own logits, a row at a time."""
    found = []
    for ids, mask, labels in zip(*given.values(), strict=True):
        row, answer = ids[mask.bool()].unsqueeze(0), labels[mask.bool()]
        logs = model(input_ids=row).logits[0].log_softmax(1)
        wanted = (answer != -100).nonzero().squeeze(1)
        found.append(logs[wanted - 1, answer[wanted]])
    return found


def asked(model: Any, given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    logs = model(**given, fused_lm_head=True).log_probs
    return [row[keep] for row, keep in zip(logs, given["labels"][:, 1:] != -100, strict=True)]


def gradients(model: Any, logs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    weighted = sum((number + 1) * row.sum() for number, row in enumerate(logs))
    model.zero_grad()
    weighted.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def made(config: Any, *, lora: bool) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("lora", [True, False], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_exact(config: Any, lora: bool) -> None:
    model = made(config, lora=lora)
    given = batch()
    expected = one_by_one(model, given)
    truth = gradients(model, expected)
    inner = model.get_base_model() if lora else model
    add_fused_lm_head(inner)
    assert answer_head.install(model, longest=12).packed
    found = asked(model, given)
    assert torch.allclose(torch.cat(found), torch.cat(expected), atol=1e-5)
    close(gradients(model, found), truth)
    # Layers are run anew in the backward pass, and must be told the layout again.
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    close(gradients(model, asked(model, given)), truth)
    # What the model is, without a layout, and what is published of it, stays.
    assert torch.allclose(torch.cat(one_by_one(model, given)), torch.cat(expected), atol=1e-5)
    assert prefix_attention.NAME not in str(inner.config.to_dict())


def close(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> None:
    assert found.keys() == truth.keys()
    for name, gradient in truth.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("window", [None, 6])
def test_our_attention_takes_the_same_rows(window: int | None) -> None:
    config = MistralConfig(**SMALL, sliding_window=window)
    model = made(config, lora=True)
    given = batch()
    expected = one_by_one(model, given)
    truth = gradients(model, expected)
    inner = model.get_base_model()
    add_fused_lm_head(inner)
    packed_attention.install(inner)
    # It has windows, which `prefix_attention` leaves alone.
    assert answer_head.install(model, longest=12).packed
    assert inner.config._attn_implementation == packed_attention.NAME
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found = asked(model.train(), given)
    assert torch.allclose(torch.cat(found), torch.cat(expected), atol=1e-5)
    close(gradients(model, found), truth)


def test_padding_on_the_left() -> None:
    model = made(CONFIGS[0], lora=True)
    add_fused_lm_head(model.get_base_model())
    answer_head.install(model, longest=12)
    left, right = asked(model, batch("left")), asked(model, batch())
    assert torch.allclose(torch.cat(left), torch.cat(right), atol=1e-6)


def test_answers_do_not_see_each_other() -> None:
    model = made(CONFIGS[0], lora=True)
    add_fused_lm_head(model.get_base_model())
    answer_head.install(model, longest=12)
    given = batch()
    before = asked(model, given)
    given["input_ids"][0, 6:] = 5
    after = asked(model, given)
    assert not torch.allclose(before[0][3:], after[0][3:])
    assert all(torch.equal(before[row], after[row]) for row in range(1, 6))


def test_a_prompt_is_there_once() -> None:
    given = batch()
    answers = given["labels"] != -100
    families = prefixes.by_prompt(given["input_ids"], given["attention_mask"], answers)
    assert sorted(map(sorted, families)) == [[0, 3], [1, 4], [2], [5]]
    packed = prefixes.pack(given["input_ids"], given["attention_mask"], families)
    assert packed.ids.shape[1] == sum(LENGTHS) - (PROMPT + 1) - PROMPT
    present = given["attention_mask"].bool()
    assert torch.equal(packed.ids[0, packed.places[present]], given["input_ids"][present])
    # A token stands where it stood in its own row.
    own = torch.arange(12).expand(6, 12)
    assert torch.equal(packed.positions[0, packed.places[present]], own[present])


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[4]], ids=lambda config: config.model_type)
def test_ppo_reads_the_same_without_logits(config: Any) -> None:
    model = made(config, lora=True)
    prompts, answers = torch.randint(3, 97, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    before, after = (torch.tensor(each).unsqueeze(1) for each in ((3, 0, 1), (5, 2, 4)))
    places = torch.arange(5).expand(3, 5)
    ended = torch.ones(3, dtype=torch.bool)
    rollout = Rollout(prompts, places >= before, answers, places < after, ended)
    by_logits = partial(reading._by_logits, temperature=0.7, precision=torch.float32)
    truth = by_logits(model, rollout)
    expected = gradients(model, list(truth.log_probabilities))
    fitting = reading.way(Reference(model, None), 0.7, torch.float32)
    assert fitting.fitted.packed
    found = fitting.read(model, rollout)
    close(gradients(model, list(found.log_probabilities)), expected)
    torch.testing.assert_close(found.log_probabilities, truth.log_probabilities)
    torch.testing.assert_close(found.entropies, truth.entropies)
    there = rollout.mask
    torch.testing.assert_close(found.hidden[there], truth.hidden[there])
    whole = reading.way(Reference(made(config, lora=False), None), 0.7, torch.float32)
    assert whole.fitted == Fitted(against_head="the output layer is trained")


def test_the_reason_is_told() -> None:
    base = made(CONFIGS[3], lora=False)
    assert prefix_attention.why_not(base, longest=4096) is None
    assert "window" in str(prefix_attention.why_not(base, longest=4097))
    eager = AutoModelForCausalLM.from_config(CONFIGS[0], attn_implementation="eager")
    add_fused_lm_head(eager)
    fitted = answer_head.install(eager, longest=12)
    assert (fitted.head, fitted.packed) == (True, False)
    assert "eager" in fitted.against_packing
    loss, padding = told.answers(fitted)
    assert (loss.value, padding.value, padding.why) == ("fused", "padded", fitted.against_packing)
    expected = torch.cat(one_by_one(eager, batch()))
    assert torch.allclose(torch.cat(asked(eager, batch())), expected, atol=1e-5)
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    virtual = get_peft_model(made(CONFIGS[0], lora=False), prompt)
    fitted = answer_head.install(virtual, longest=12)
    assert "in the prompt" in fitted.against_head
    assert [each.value for each in told.answers(fitted)] == ["library", "padded"]
    # The reference is another model, which may differ.
    loss, padding = told.answers(Fitted(), fitted)
    assert (loss.value, padding.value) == ("fused", "none")
    assert "not so for the reference: the adapter lives in the prompt" in loss.why
    on_head = LoraConfig(r=4, target_modules=["lm_head"])
    adapted = get_peft_model(made(CONFIGS[0], lora=False), on_head)
    assert "adapter of its own" in answer_head.install(adapted, longest=12).against_head


def test_a_layer_that_lost_the_layout_is_told(model_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    add_fused_lm_head(model)
    answer_head.install(model, longest=12)
    model.config._attn_implementation = "sdpa"
    with pytest.raises(RuntimeError, match="layout"):
        asked(model, batch())
