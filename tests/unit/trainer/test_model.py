import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import model
from finetune_trainer.errors import TrainerError
from finetune_trainer.sources import ModelSource
from support.tiny_models import tiny_tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def load(folder: Path, precision: str = "Float32") -> Any:
    config = model.load_config(folder, "s3://b/m")
    source = ModelSource.of_folder(folder, "s3://b/m")
    return model.load_model(source, config, precision, "cpu")


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ["Float32", "BFloat16"])
def test_weights_come_in_the_dtype_that_was_asked_for(
    folder: Path, stored: torch.dtype, precision: str
) -> None:
    tensors = {name: each.to(stored) for name, each in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    assert model.stored_dtype(folder) == stored
    assert {p.dtype for p in load(folder, precision).parameters()} == {model.DTYPES[precision]}


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


BROKEN: list[tuple[Callable[[Path], object], Reason, str]] = [
    (truncate, Reason.CORRUPT_MODEL, WEIGHTS),
    (lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 64), Reason.CORRUPT_MODEL, WEIGHTS),
    (drop_tensor, Reason.CORRUPT_MODEL, "model.layers.1.mlp.up_proj.weight"),
    (lambda f: change_config(f, hidden_size=128), Reason.CORRUPT_MODEL, "weights"),
    (lambda f: change_config(f, model_type="novelty"), Reason.UNSUPPORTED_MODEL, "novelty"),
    (
        lambda f: change_config(f, model_type="bert", architectures=["BertForMaskedLM"]),
        Reason.UNSUPPORTED_MODEL,
        "BertForMaskedLM",
    ),
    (
        lambda f: change_config(f, architectures=["LlamaForSequenceClassification"]),
        Reason.UNSUPPORTED_MODEL,
        "LlamaForSequenceClassification",
    ),
]


@pytest.mark.parametrize(("breaks", "reason", "words"), BROKEN)
def test_unusable(
    folder: Path, breaks: Callable[[Path], object], reason: Reason, words: str
) -> None:
    breaks(folder)
    with pytest.raises(TrainerError) as caught:
        load(folder)
    assert caught.value.reason is reason
    assert words in caught.value.message


def test_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(TrainerError) as caught:
        model.load_tokenizer(folder, "s3://b/m", None)
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL


def test_template_of_the_spec_replaces_the_tokenizers(folder: Path) -> None:
    tokenizer = model.load_tokenizer(folder, "s3://b/m", "{{ 'other' }}")
    assert tokenizer.apply_chat_template([{}], tokenize=False) == "other"


def test_tokenizer_with_more_tokens_than_embeddings(folder: Path) -> None:
    tokenizer = model.load_tokenizer(folder, "s3://b/m", None)
    net = load(folder)
    model.check_vocabulary(tokenizer, net, "s3://b/m")
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(TrainerError, match="embeddings") as caught:
        model.check_vocabulary(tokenizer, net, "s3://b/m")
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL


def test_pad_token() -> None:
    plain = tiny_tokenizer()
    (note,) = model.set_pad_token(plain)
    assert plain.pad_token == plain.eos_token == note.value
    spare = tiny_tokenizer()
    spare.add_special_tokens({"additional_special_tokens": ["<|finetune_pad|>"]})
    (note,) = model.set_pad_token(spare)
    assert spare.pad_token == note.value == "<|finetune_pad|>"
    assert model.set_pad_token(spare) == []


def test_position_limit(folder: Path) -> None:
    assert model.position_limit(model.load_config(folder, "s3://b/m")) == 512
