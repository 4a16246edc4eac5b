"""The loss from hidden states against that of logits, and which models it leaves alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from finetune_trainer.fast import head, loss
from support.tiny_models import tiny_model

FAMILIES = ("llama", "qwen3", "gpt2")


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 90, (3, 11), generator=draw)
    labels = torch.where(torch.rand((3, 11), generator=draw) < 0.4, ids, -100)
    mask = torch.ones_like(ids)
    mask[1, 7:], labels[1, 7:] = 0, -100
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


@pytest.fixture(scope="module", params=FAMILIES)
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_model(tmp_path_factory.mktemp("model"), request.param)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def from_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """By the definition: each token but the first is predicted from those before it."""
    inputs = {name: each for name, each in batch.items() if name != "labels"}
    logs = model(**inputs, use_cache=False).logits.float().log_softmax(-1)
    total = torch.zeros(())
    for row, labels in zip(logs, batch["labels"], strict=True):
        for place in range(1, len(labels)):
            if labels[place] != -100:
                total = total - row[place - 1, labels[place]]
    return total


def gradients(model: Any, summed: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    summed.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("adapted", [True, False])
def test_loss_and_gradients_are_those_of_logits(net: Any, batch: Any, adapted: bool) -> None:
    model = net
    torch.manual_seed(0)
    if adapted:
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(net, config)
    else:
        for each in model.parameters():
            each.requires_grad_(True)
    model.eval()
    expected = from_logits(model, batch)
    wanted = gradients(model, expected)
    assert head.why_not(model) is None
    head.install(model)
    found = model(**batch, read=loss.summed_loss)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(found.tokens) == int((batch["labels"][:, 1:] != -100).sum())
    ours = gradients(model, found.loss)
    assert ours.keys() == wanted.keys()
    for name, gradient in wanted.items():
        # Single entries may cancel; what counts is small beside the whole tensor.
        assert (ours[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name
    head.remove(model)
    assert not head.installed(model)
    if adapted:
        model.unload()


def test_a_final_softcap_is_part_of_the_loss(batch: Any) -> None:
    config = Gemma2Config(
        vocab_size=96, hidden_size=16, intermediate_size=32, num_hidden_layers=1, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, final_logit_softcapping=2.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config).eval()
    model.lm_head.weight.data.mul_(40)
    head.install(model)
    assert loss.difference(model, batch) < 1e-5


def test_a_batch_without_labels_costs_nothing_and_has_gradients(net: Any, batch: Any) -> None:
    head.install(net)
    void = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    for each in net.parameters():
        each.requires_grad_(True)
    found = net(**void, read=loss.summed_loss)
    assert found.loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(net, found.loss).values())
    head.remove(net)


def test_an_adapter_on_the_output_layer_is_left_alone(tmp_path: Path) -> None:
    net = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "m", "qwen2"))
    model = get_peft_model(net, LoraConfig(r=2, target_modules=["lm_head"]))
    assert head.why_not(model) == "the output layer is Linear of peft"
