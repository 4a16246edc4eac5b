"""The verification must refuse an output that is not what was trained, however slightly."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.tuning import Tuning
from finetune_trainer import model, save, verify
from finetune_trainer.batches import Collator
from finetune_trainer.data.rows import IGNORED, TokenRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.heads import CAUSAL
from finetune_trainer.model_files import ADAPTER
from finetune_trainer.resolve import Settings
from finetune_trainer.sources import ModelSource
from finetune_trainer.tuning.apply import apply

SOURCE = "s3://b/base"
SETTINGS = Settings(
    device="cpu",
    precision="Float32",
    weights="Float32",
    gradient_checkpointing=False,
    max_length=64,
    batch_size=8,
    micro_batch_size=2,
    total_steps=10,
    learning_rate=1e-3,
    weight_decay=0.0,
    scheduler="Cosine",
    warmup_steps=1,
    max_gradient_norm=1.0,
    seed=7,
    log_every=1,
    evaluate_every=None,
)
ROWS = [TokenRow(list(range(5, 5 + n)), [IGNORED] * n, f"line {n}") for n in (20, 9)]


@pytest.fixture
def published(model_folder: Path, tmp_path: Path) -> tuple[Path, verify.Reference]:
    """An adapter as a run leaves it, and what the trained model said."""
    config = model.load_config(model_folder, SOURCE)
    source = ModelSource.of_folder(model_folder, SOURCE)
    base = model.load_model(source, config, "Float32", "cpu")
    net: Any = apply(base, Tuning(), SOURCE, CAUSAL, checkpointing=False)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.02)
    reference = verify.reference(net, verify.probe_of(ROWS, Collator(0)), SETTINGS)
    tokenizer = model.load_tokenizer(model_folder, SOURCE, None)
    folder = tmp_path / "output"
    save.save_model(net, tokenizer, source, folder, full=False, dtype=torch.float32)
    return folder, reference


def check(folder: Path, base: Path, reference: verify.Reference) -> float:
    source = ModelSource.of_folder(base, SOURCE)
    reopened = verify.reopen(folder, source, SETTINGS, full=False)
    return verify.compare(reopened, reference, SETTINGS).max_logit_difference


def test_what_was_trained_is_accepted(
    published: tuple[Path, verify.Reference], model_folder: Path
) -> None:
    folder, reference = published
    assert reference.logits.shape[:2] == (2, 20)
    assert check(folder, model_folder, reference) < 1e-5


def change_tensor(folder: Path) -> None:
    tensors = load_file(folder / ADAPTER)
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name][0, 0] += 0.05
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / ADAPTER)
    del tensors[next(name for name in tensors if "lora_B" in name)]
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})


def rename_tensors(folder: Path) -> None:
    tensors = {f"other.{name}": each for name, each in load_file(folder / ADAPTER).items()}
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})


def change_scale(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 33}))


@pytest.mark.parametrize("damage", [change_tensor, drop_tensor, rename_tensors, change_scale])
def test_anything_else_is_refused(
    published: tuple[Path, verify.Reference], model_folder: Path, damage: Any
) -> None:
    folder, reference = published
    damage(folder)
    with pytest.raises(TrainerError) as caught:
        check(folder, model_folder, reference)
    assert caught.value.reason is Reason.OUTPUT_VERIFICATION_FAILED


def test_another_base_model_is_noticed(
    published: tuple[Path, verify.Reference], model_folder: Path, tmp_path: Path
) -> None:
    folder, reference = published
    other = Path(shutil.copytree(model_folder, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] *= 1.01
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainerError, match="logits differ by"):
        check(folder, other, reference)


def test_logits_that_are_not_numbers_are_refused(
    published: tuple[Path, verify.Reference], model_folder: Path
) -> None:
    folder, reference = published
    broken = replace(reference, logits=reference.logits * float("nan"))
    with pytest.raises(TrainerError, match="logits differ by nan"):
        check(folder, model_folder, broken)
