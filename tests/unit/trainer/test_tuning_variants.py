"""Each variant of LoRA: it starts at the base, learns, and works on the base that everybody has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import save
from finetune_trainer.errors import TrainerError
from finetune_trainer.heads import CAUSAL
from finetune_trainer.tuning import starts
from finetune_trainer.tuning.apply import apply
from finetune_trainer.tuning.optimizer import parameter_groups
from support.tiny_models import tiny_model

IDS = torch.tensor([[7, 21, 33, 48, 52, 60, 71, 80], [9, 11, 13, 17, 19, 23, 29, 31]])
VARIANTS = ("Standard", "RsLoRA", "DoRA", "PiSSA", "OLoRA")


def tuning(**lora: object) -> Tuning:
    return Tuning.model_validate({"type": "LoRA", "lora": {"rank": 4, "alpha": 6, **lora}})


def tuned(base: Any, block: Tuning) -> Any:
    net = apply(base, block, "s3://b/base", CAUSAL, checkpointing=False)
    return starts.start(net, block, lambda: None)


def trained(net: Any, steps: int = 8, rate: float = 1e-2) -> list[float]:
    """Losses of a plain loop."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        loss = net(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def logits(net: Any) -> torch.Tensor:
    return torch.as_tensor(net.eval()(input_ids=IDS).logits)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"), request.param)


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_from_start_to_reload(folder: Path, tmp_path: Path, variant: str) -> None:
    torch.manual_seed(5)
    untrained = logits(load(folder))
    net = tuned(load(folder), tuning(variant=variant))
    assert torch.allclose(logits(net), untrained, atol=2e-5)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    losses = trained(net)
    assert losses[-1] < losses[0] - 0.2
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    with net.disable_adapter():
        assert torch.equal(logits(net), untrained)
    assert sum(p.requires_grad for p in net.parameters()) == sum(
        ".lora_" in name for name in before
    )

    save.save_adapter(net, tmp_path)
    reopened = PeftModel.from_pretrained(load(folder), str(tmp_path))
    assert torch.allclose(logits(reopened), logits(net), atol=2e-5)
    assert (logits(net) - untrained).abs().max() > 0.1
    config = reopened.peft_config["default"]
    doubled = 2 if variant in ("PiSSA", "OLoRA") else 1
    assert (config.r, config.lora_alpha) == (4 * doubled, 6 * doubled)
    assert (config.use_rslora, config.use_dora) == (variant == "RsLoRA", variant == "DoRA")
    merged = reopened.merge_and_unload(safe_merge=True)
    assert torch.allclose(logits(merged), logits(net), atol=5e-5)


@pytest.mark.parametrize(("variant", "theirs"), [("PiSSA", "pissa"), ("OLoRA", "olora")])
def test_training_is_that_of_peft(model_folder: Path, variant: str, theirs: str) -> None:
    """PEFT takes the start away from the base; here it is subtracted: the same curve."""
    ours = tuned(load(model_folder), tuning(variant=variant, targets=["q_proj", "down_proj"]))
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights=theirs,
        task_type="CAUSAL_LM",
    )
    reference = get_peft_model(load(model_folder), config)
    expected = trained(reference, 12)
    assert expected[-1] < expected[0] - 0.2
    assert trained(ours, 12) == pytest.approx(expected, rel=1e-4)


def test_pissa_is_the_best_approximation() -> None:
    torch.manual_seed(2)
    weight, scale = torch.randn(12, 20), 1.5
    a, b = starts.pissa(weight, 5, scale)
    left = torch.linalg.matrix_norm(weight - scale * b @ a)
    # Eckart and Young: what is left are the singular values from the sixth on.
    assert left == pytest.approx(float(torch.linalg.svdvals(weight)[5:].square().sum().sqrt()))


def test_a_start_of_more_ranks_than_the_matrix_has(model_folder: Path) -> None:
    with pytest.raises(TrainerError, match="33 is more than") as caught:
        tuned(load(model_folder), tuning(variant="PiSSA", rank=33))
    assert caught.value.reason is Reason.INVALID_SPEC


def test_lora_plus_has_the_rates_of_peft(model_folder: Path) -> None:
    net = tuned(load(model_folder), tuning(learningRateRatio=16))
    ours = parameter_groups(net, tuning(learningRateRatio=16), 1e-3, 0.0)
    reference = create_loraplus_optimizer(net, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    assert rates(ours) == rates(reference.param_groups)
    assert set(rates(ours).values()) == {1e-3, 16e-3}
    # The first is the one that the log shows.
    assert ours[0]["lr"] == 1e-3
    alike = parameter_groups(net, tuning(), 1e-3, 0.1)
    assert {group["lr"] for group in alike} == {1e-3}


def rates(groups: list[dict[str, Any]]) -> dict[int, float]:
    return {id(each): group["lr"] for group in groups for each in group["params"]}
