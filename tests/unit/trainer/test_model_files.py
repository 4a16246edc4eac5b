import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import model_files
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.local import LocalPlace


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def choose(folder: Path) -> list[str]:
    place = LocalPlace("s3://b/model", folder, None, Reason.MODEL_NOT_FOUND)
    return [file.name for file in model_files.choose(place, place.files())]


def change(folder: Path, name: str, **fields: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def shard(folder: Path, *, names: tuple[str, ...], present: tuple[str, ...]) -> None:
    (folder / "model.safetensors").rename(folder / present[0])
    for name in present[1:]:
        shutil.copy(folder / present[0], folder / name)
    index = {"weight_map": {f"tensor{i}": name for i, name in enumerate(names)}}
    (folder / model_files.INDEX).write_text(json.dumps(index))


def test_only_what_is_needed_is_fetched(folder: Path) -> None:
    for name in ("pytorch_model.bin", "model.gguf", "logo.png", "consolidated.safetensors"):
        (folder / name).write_bytes(b"x")
    assert choose(folder) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_shards_of_the_index(folder: Path) -> None:
    names = ("a-1.safetensors", "a-2.safetensors")
    shard(folder, names=names, present=(*names, "a-3.safetensors"))
    chosen = choose(folder)
    assert {name for name in chosen if name.endswith(".safetensors")} == set(names)
    assert [path.name for path in model_files.weight_files(folder)] == list(names)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def missing_shard(folder: Path) -> None:
    shard(folder, names=("a-1.safetensors", "a-2.safetensors"), present=("a-1.safetensors",))


def shard_elsewhere(folder: Path) -> None:
    shard(folder, names=("../a.bin",), present=("a-1.safetensors",))


BROKEN: list[tuple[Callable[[Path], object], Reason, str]] = [
    (pickled, Reason.UNSAFE_WEIGHTS, "pytorch_model.bin"),
    (lambda f: (f / "model.safetensors").unlink(), Reason.CORRUPT_MODEL, "no weights"),
    (missing_shard, Reason.CORRUPT_MODEL, "a-2.safetensors"),
    (shard_elsewhere, Reason.CORRUPT_MODEL, "weight_map"),
    (lambda f: (f / "modeling_x.py").write_text(""), Reason.REMOTE_CODE_REFUSED, "modeling_x.py"),
    (
        lambda f: change(f, "config.json", auto_map={"AutoModel": "x.Y"}),
        Reason.REMOTE_CODE_REFUSED,
        "config.json: `auto_map`",
    ),
    (
        lambda f: change(f, "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}),
        Reason.REMOTE_CODE_REFUSED,
        "tokenizer_config.json: `auto_map`",
    ),
    (
        lambda f: change(f, "config.json", attn_implementation="org/kernel"),
        Reason.REMOTE_CODE_REFUSED,
        "attn_implementation",
    ),
    (
        lambda f: change(f, "config.json", quantization_config={"bits": 4}),
        Reason.UNSUPPORTED_MODEL,
        "quantized",
    ),
    (lambda f: change(f, "config.json", model_type=None), Reason.UNSUPPORTED_MODEL, "model_type"),
    (lambda f: (f / "config.json").write_text("{"), Reason.CORRUPT_MODEL, "not valid JSON"),
    (
        lambda f: (f / "config.json").rename(f / "adapter_config.json"),
        Reason.UNSUPPORTED_MODEL,
        "is an adapter",
    ),
    (lambda f: (f / "tokenizer.json").unlink(), Reason.UNSUPPORTED_MODEL, "no tokenizer"),
]


@pytest.mark.parametrize(("breaks", "reason", "words"), BROKEN)
def test_unusable(
    folder: Path, breaks: Callable[[Path], object], reason: Reason, words: str
) -> None:
    breaks(folder)
    with pytest.raises(TrainerError) as caught:
        choose(folder)
    assert caught.value.reason is reason
    assert words in caught.value.message
    assert caught.value.message.startswith("s3://b/model")
