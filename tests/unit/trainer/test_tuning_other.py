"""Adapters by PEFT's own names: which arguments get through, and that the kinds train and come back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.config import PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from finetune_api.v1alpha1.compatibility import Cell, verdict
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import merge, model
from finetune_trainer.errors import TrainerError
from finetune_trainer.heads import CAUSAL, SEQUENCE_CLASSIFICATION, Head
from finetune_trainer.tuning import apply as tunings
from finetune_trainer.tuning import other
from support.tiny_models import tiny_model

# Arguments that fit a model of 64 numbers; the defaults of these kinds are for larger ones.
SMALL: dict[str, dict[str, Any]] = {
    "C3A": {"block_size": 16}, "SHIRA": {"r": 4}, "ROAD": {"group_size": 16}, "VBLORA": {"vector_length": 16},
    "WAVEFT": {"n_frequency": 200}, "TRAINABLE_TOKENS": {"token_indices": [5, 6, 7]},
}  # fmt: skip
IDS = torch.arange(5, 25).view(2, 10)


def adapted(
    base: Any, name: str, arguments: dict[str, Any] | None = None, head: Head = CAUSAL
) -> Any:
    block = {"name": name, "arguments": SMALL.get(name) if arguments is None else arguments}
    tuning = Tuning.model_validate({"type": "Other", "other": block})
    return tunings.apply(base, tuning, "s3://b/base", head, checkpointing=False)


def names() -> list[str]:
    """Every kind of the installed PEFT that neither table nor trainer refuses for a LLaMA."""
    return [
        each.value
        for each, kind in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if each.value not in ("LORA", "ADALORA", "IA3")
        and not issubclass(kind, PromptLearningConfig)
        and verdict(Cell("SFT", "text-generation", "Other", "llama", other=each.value)) is None
    ]


@pytest.mark.parametrize("name", names())
def test_a_kind_learns_on_a_frozen_base_and_plain_peft_opens_it(
    model_folder: Path, tmp_path: Path, name: str
) -> None:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    before = base(input_ids=IDS).logits.detach()
    tuned = adapted(base, name)
    trained = [each for each in tuned.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(4):
        loss = tuned(input_ids=IDS, labels=IDS).loss
        loss.backward()
        assert all(each.grad is not None for each in trained)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    tuned.eval()
    after = tuned(input_ids=IDS).logits.detach()
    with tuned.disable_adapter():
        torch.testing.assert_close(tuned(input_ids=IDS).logits, before, rtol=1e-4, atol=1e-4)
    tuned.save_pretrained(tmp_path, save_embedding_layers=False)
    again = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_folder), str(tmp_path)
    )
    torch.testing.assert_close(again.eval()(input_ids=IDS).logits, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", names())
def test_a_preflight_builds_it_without_weights(model_folder: Path, name: str) -> None:
    config = model.load_config(model_folder, "s3://b/base")
    with model.on_meta():
        outline = adapted(model.outline(config), name)
    assert {each.device.type for each in outline.parameters()} == {"meta"}
    trained = sum(each.numel() for each in outline.parameters() if each.requires_grad)
    real = adapted(AutoModelForCausalLM.from_pretrained(model_folder), name)
    wanted = sum(each.numel() for each in real.parameters() if each.requires_grad)
    assert trained == (0 if name in other.NEEDS_VALUES else wanted)


@pytest.mark.parametrize(
    ("name", "arguments", "words", "hint"),
    [
        ("VERRA", {}, "PEFT has no VERRA", "VERA"),
        ("lora", {}, "PEFT has no lora", ""),
        ("LORA", {}, "`tuning.type: LoRA`", ""),
        ("PREFIX_TUNING", {}, "`tuning.type: PrefixTuning`", ""),
        ("CARTRIDGE", {}, "lives in virtual tokens", "PrefixTuning"),
        ("VERA", {"rank": 8}, "`tuning.other.arguments.rank`: there is no such", "There are"),
        ("VERA", {"d_inital": 8.0}, "there is no such", "d_initial"),
        ("VERA", {"r": "8"}, "'8' is not int", ""),
        ("VERA", {"r": True}, "True is not int", ""),
        ("VERA", {"r": 8.0}, "8.0 is not int", ""),
        ("VERA", {"save_projection": 1}, "1 is not bool", ""),
        ("DEFT", {"decomposition_method": "svd"}, "'svd' is not Literal['relu', 'qr']", ""),
        ("LOHA", {"rank_pattern": []}, "[] is not Optional[dict]", ""),
        ("VERA", {"task_type": "SEQ_CLS"}, "not for a manifest", ""),
        ("VERA", {"base_model_name_or_path": "x/y"}, "not for a manifest", ""),
        ("VERA", {"revision": "main"}, "not for a manifest", ""),
        ("VERA", {"inference_mode": True}, "not for a manifest", ""),
        ("VERA", {"auto_mapping": {"parent_library": "os"}}, "not for a manifest", ""),
        ("VERA", {"peft_type": "LORA"}, "not for a manifest", ""),
        ("VERA", {"modules_to_save": ["lm_head"]}, "not for a manifest", ""),
        ("VERA", {"bias": "all"}, "cannot take back", ""),
        ("VERA", {"target_modules": ".*"}, "is a list of names, or all-linear", ""),
        ("VERA", {"target_modules": []}, "is a list of names", ""),
        ("LN_TUNING", {"target_modules": ["norm"]}, "has targets of its own", ""),
        ("LOHA", {"r": 0}, "PEFT cannot build LOHA for this model: ValueError", ""),
        ("C3A", {"block_size": 7}, "PEFT cannot build C3A for this model", ""),
    ],
)
def test_what_does_not_get_through(
    model_folder: Path, name: str, arguments: dict[str, Any], words: str, hint: str
) -> None:
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    with pytest.raises(TrainerError) as caught:
        adapted(base, name, arguments)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert words in caught.value.message
    assert hint in (caught.value.hint or "")


def test_targets_are_all_linear_modules_unless_they_are_named(model_folder: Path) -> None:
    everywhere = adapted(AutoModelForCausalLM.from_pretrained(model_folder), "LOHA")
    assert len(everywhere.peft_config["default"].target_modules) == 7
    named = adapted(
        AutoModelForCausalLM.from_pretrained(model_folder), "LOHA", {"target_modules": ["q_proj"]}
    )
    trained = [name for name, each in named.named_parameters() if each.requires_grad]
    assert len(trained) == 8
    assert all(".q_proj." in name for name in trained)
    with pytest.raises(
        TrainerError, match=r"arguments.target_modules`: query matches no"
    ) as caught:
        adapted(named.unload(), "LOHA", {"target_modules": ["query"]})
    assert caught.value.reason is Reason.TARGET_MODULES_NOT_FOUND


def test_norms_of_an_encoder_and_its_classifier(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, "bert")
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    tuned = adapted(base, "LN_TUNING", head=SEQUENCE_CLASSIFICATION)
    trained = {name for name, each in tuned.named_parameters() if each.requires_grad}
    norms = {name for name in trained if ".ln_tuning_layers." in name}
    # Two in each of two layers and one after the embeddings, each with weight and bias.
    assert len(norms) == 10
    assert {name.split(".modules_to_save.")[0].split(".")[-1] for name in trained - norms} == {
        "classifier", "pooler",
    }  # fmt: skip
    with pytest.raises(TrainerError, match="PEFT stores no classifier and no pooler with"):
        adapted(tuned.unload(), "TRAINABLE_TOKENS", head=SEQUENCE_CLASSIFICATION)


def test_a_kind_that_cannot_be_merged(model_folder: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    adapted(base, "LILY").save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(TrainerError, match="the LILY adapter cannot be merged") as caught:
        merge.merge(AutoModelForCausalLM.from_pretrained(model_folder), tmp_path, "s3://b/out")
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL
