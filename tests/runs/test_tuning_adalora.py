"""AdaLoRA: ranks that really go, a regulariser that enters once, and an output that anybody can load."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import merge
from finetune_trainer.errors import TrainerError
from finetune_trainer.heads import CAUSAL
from finetune_trainer.tuning import adalora
from finetune_trainer.tuning import apply as tunings
from support.taste import taste_model
from support.tiny_models import pairs, tokenizer_for, write_jsonl

BLOCK = {"initialRank": 6, "targetRank": 2, "targets": ["q_proj", "v_proj", "up_proj"]}
MODULES = 6


def adapted(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    tuning = Tuning.model_validate({"type": "AdaLoRA", "adalora": BLOCK})
    torch.manual_seed(1)
    return tunings.apply(base, tuning, "s3://b/base", CAUSAL, checkpointing=False)


def test_the_regulariser_is_pefts_own_with_a_batch_in_one_pass(model_folder: Path) -> None:
    ours = adapted(model_folder)
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_folder),
        AdaLoraConfig(
            init_r=6, target_r=2, total_step=9, orth_reg_weight=adalora.ORTHOGONALITY,
            lora_alpha=32, target_modules=BLOCK["targets"], task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    ids = torch.arange(5, 29).view(2, 12)
    theirs(input_ids=ids, labels=ids).loss.backward()
    adalora.Pruning(ours, 9).add_gradients()
    ours(input_ids=ids, labels=ids).loss.backward()
    wanted = {name: each.grad for name, each in theirs.named_parameters() if each.requires_grad}
    assert len(wanted) == 3 * MODULES
    for name, each in ours.named_parameters():
        if each.requires_grad:
            torch.testing.assert_close(each.grad, wanted[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_three_factors_are_trained_and_nothing_else(
    model_folder: Path, dtype: torch.dtype
) -> None:
    model = adapted(model_folder, dtype)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert {name.split(".")[-2] for name in trained} == {"lora_A", "lora_B", "lora_E"}
    assert {each.dtype for each in trained.values()} == {torch.float32}
    assert len(trained) == 3 * MODULES


@pytest.mark.parametrize(("updates", "before"), [(1, 1), (2, 1), (3, 2), (7, 4), (40, 20)])
def test_ranks_come_down_to_the_target_with_any_number_of_updates(
    model_folder: Path, updates: int, before: int
) -> None:
    model = adapted(model_folder)
    pruning = adalora.Pruning(model, updates)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.arange(5, 29).view(2, 12)
    values = []
    for _ in range(updates):
        pruning.add_gradients()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        pruning.updated()
        optimizer.zero_grad()
        values.append(_left(model))
    assert values[-1] == 2 * MODULES
    # No rank comes back once they are fixed.
    assert values[before - 1 :] == [2 * MODULES] * (updates - before + 1)
    (told,) = pruning.end()
    assert (told.field, told.value) == ("tuning.adalora.targetRank", "2.00")


def _left(model: Any) -> int:
    singular = [each for name, each in model.named_parameters() if ".lora_E." in name]
    return sum(int((each != 0).sum()) for each in singular)


def test_nothing_is_pruned_where_the_target_is_the_start(model_folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    tuning = Tuning.model_validate(
        {"type": "AdaLoRA", "adalora": {**BLOCK, "targetRank": 6, "initialRank": 6}}
    )
    model = tunings.apply(base, tuning, "s3://b/base", CAUSAL, checkpointing=False)
    pruning = adalora.Pruning(model, 3)
    pruning.updated()
    assert pruning.end() == []
    (told,) = adalora.told(tuning, 3)
    assert "nothing is pruned" in told.why


def test_ranks_that_did_not_come_down_are_told(model_folder: Path) -> None:
    model = adapted(model_folder)
    pruning = adalora.Pruning(model, 4)
    model.peft_config["default"].rank_pattern = {"a": [True] * 6, "b": [True, False]}
    with pytest.raises(TrainerError, match=r"rank 3\.50 on average, not 2") as caught:
        pruning.end()
    assert caught.value.reason is Reason.SANITY_CHECK_FAILED


@pytest.fixture
def run(laptop: Any, model_folder: Path) -> Any:
    write_jsonl(laptop.folder / "train.jsonl", pairs(48))

    def run(output: str, **changes: Any) -> tuple[Any, Path]:
        outcome = laptop.run({
            "model.source": f"file://{model_folder}",
            "data.train": [{"source": f"file://{laptop.folder}/train.jsonl"}],
            "data.evaluation": {"fraction": 0.1},
            "tuning": {"type": "AdaLoRA", "adalora": BLOCK},
            "training": {"learningRate": 4e-2, "maxSteps": 20, "batchSize": 4, **changes},
            "output.uri": f"file://{laptop.folder}/{output}",
        })  # fmt: skip
        assert outcome.report.outcome == "Complete", outcome.report.message
        manifest = json.loads((laptop.folder / output / "manifest.json").read_text())
        return outcome.report, Path(manifest["prefix"].removeprefix("file://"))

    return run


def test_a_run_publishes_pruned_ranks(run: Any, model_folder: Path) -> None:
    report, folder = run("out")
    assert float(report.evaluation.loss_after) < 0.8 * float(report.evaluation.loss_before)
    resolved = {choice.field: choice for choice in report.resolved}
    assert resolved["tuning.adalora.schedule"].value == "rank 6 to 2"
    assert "20 updates, 2 with all ranks" in resolved["tuning.adalora.schedule"].why
    assert resolved["tuning.adalora.targetRank"].value == "2.00"

    # The ranks are gone from the file, not only masked.
    tensors = load_file(folder / "adapter_model.safetensors")
    ranks = {name: len(each) for name, each in tensors.items() if ".lora_E" in name}
    assert len(ranks) == MODULES
    assert sum(ranks.values()) == 2 * MODULES
    for name, rank in ranks.items():
        assert tensors[name.replace("lora_E", "lora_A")].shape[0] == rank
        assert tensors[name.replace("lora_E", "lora_B")].shape[1] == rank
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["total_step"], config["tinit"], config["tfinal"]) == (20, 2, 10)

    # What a module adds, by hand: alpha / initial rank · P Λ Q x.
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    model = PeftModel.from_pretrained(base, str(folder)).eval()
    inner = model.base_model.model.model.layers[0].mlp.up_proj
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_"
    p, singular, q = (tensors[f"{key}{part}"] for part in "BEA")
    x = torch.randn(3, 64)
    added = 32 / (6 + 1e-5) * x @ (p @ (singular * q)).T
    torch.testing.assert_close(inner(x), inner.base_layer(x) + added)

    # Labels are no trouble for an adapter that is opened again.
    reopened = merge.attach(
        AutoModelForCausalLM.from_pretrained(model_folder), folder, "the output"
    )
    ids = torch.arange(5, 29).view(2, 12)
    loss = reopened(input_ids=ids, labels=ids).loss
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    torch.testing.assert_close(
        loss, torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
    )
    merged = merge.merge(AutoModelForCausalLM.from_pretrained(model_folder), folder, "the output")
    torch.testing.assert_close(merged(input_ids=ids).logits, model(input_ids=ids).logits)


def test_the_split_of_a_batch_changes_nothing(run: Any) -> None:
    adapters = []
    for size in (4, 1):
        _, folder = run(f"split-{size}", microBatchSize=size, maxSteps=3, learningRate=1e-3)
        adapters.append(load_file(folder / "adapter_model.safetensors"))
    assert adapters[0].keys() == adapters[1].keys()
    for name, each in adapters[0].items():
        torch.testing.assert_close(each, adapters[1][name], rtol=1e-4, atol=1e-5)


def test_ppo_prunes_by_its_own_updates(laptop: Any, model_folder: Path) -> None:
    write_jsonl(laptop.folder / "train.jsonl", [{"prompt": row["prompt"]} for row in pairs(8)])
    judge = taste_model(laptop.folder / "judge", tokenizer_for("llama"))
    report = laptop.run({
        "model.source": f"file://{model_folder}",
        "data": {"train": [{"source": f"file://{laptop.folder}/train.jsonl"}], "format": "PromptOnly"},
        "method": {"type": "PPO", "ppo": {
            "rewardModel": f"file://{judge}", "epochs": 2, "minibatches": 2,
            "generation": {"maxNewTokens": 6}}},
        "tuning": {"type": "AdaLoRA", "adalora": BLOCK},
        "training": {"learningRate": 1e-3, "maxSteps": 2, "batchSize": 4},
        "output.uri": f"file://{laptop.folder}/out",
    }).report  # fmt: skip
    assert report.outcome == "Complete", report.message
    resolved = {choice.field: choice for choice in report.resolved}
    # Two steps of two epochs of two minibatches.
    assert "of 8 updates" in resolved["tuning.adalora.schedule"].why
    assert resolved["tuning.adalora.targetRank"].value == "2.00"
