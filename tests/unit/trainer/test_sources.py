"""What a model URI stands for, by manifests alone: no weights are loaded here."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.environment import read
from finetune_trainer.errors import TrainerError
from finetune_trainer.sources import Finder
from finetune_trainer.storage import Storage

ADAPTER = {"adapter_config.json": '{"peft_type": "LORA"}', "adapter_model.safetensors": "weights"}


class Store:
    """Folders that stand for outputs and models of a store."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        shutil.copytree(model, root / "base")

    def uri(self, name: str) -> str:
        return f"file://{self.root / name}"

    def output(
        self, name: str, base: str, files: Mapping[str, str | bytes] = ADAPTER, **changes: Any
    ) -> Path:
        """Writes an output by hand, as the documentation of the manifest describes it."""
        folder = self.root / name / "attempts" / "12345678-1"
        listed = []
        for path, text in files.items():
            content = text if isinstance(text, bytes) else text.encode()
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            listed.append({"path": path, "sizeBytes": len(content), "sha256": digest})
        manifest = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "OutputManifest",
            "job": {"namespace": "team", "name": name, "uid": "12345678-9"},
            "attempt": 1,
            "created": "2030-01-01T00:00:00Z",
            "prefix": "s3://long/ago",
            "baseModel": base,
            "files": listed,
            "resolved": [],
            "plan": {},
            "verification": {"maxLogitDifference": 0.0, "tolerance": 1e-5},
            "versions": {},
            **changes,
        }
        (self.root / name / "manifest.json").write_text(json.dumps(manifest))
        return folder

    def whole(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.root / "base").iterdir()}

    def finder(self, jobs: Mapping[str, str] | None = None, *, local: bool = True) -> Finder:
        storage = Storage(None, read({}, self.root / "scratch"))
        return Finder(storage, jobs or {}, local=local)


@pytest.fixture
def store(tmp_path: Path, model_folder: Path) -> Store:
    return Store(tmp_path / "store", model_folder)


def refusal(finder: Finder, uri: str) -> TrainerError:
    with pytest.raises(TrainerError) as caught:
        finder.model(uri)
    return caught.value


def test_a_plain_model_is_itself(store: Store) -> None:
    found = store.finder().model(store.uri("base"))
    assert (found.identity, found.adapters, found.output) == (store.uri("base"), (), None)
    assert found.resolved("model.source") == []
    source = found.fetch(store.root / "scratch")
    assert source.folder == source.tokenizer == store.root / "base"


@pytest.mark.parametrize("named", ["root", "root with a slash", "attempt"])
def test_an_adapter_brings_its_base(store: Store, named: str) -> None:
    folder = store.output("sft", store.uri("base"))
    tail = {"root": "", "root with a slash": "/", "attempt": "/attempts/12345678-1"}[named]
    found = store.finder().model(store.uri("sft") + tail)
    source = found.fetch(store.root / "scratch")
    assert source.folder == store.root / "base"
    assert source.adapters == (folder,)
    assert source.tokenizer == folder
    assert source.identity == store.uri("sft")
    content = (store.root / "sft" / "manifest.json").read_bytes()
    assert source.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    choice = found.resolved("model.source")
    if named == "attempt":
        assert (choice[0].field, choice[0].value) == ("model.source", store.uri("sft"))
        assert "job team/sft, an adapter on" in choice[0].why


def test_adapters_stack_in_the_order_of_training(store: Store) -> None:
    first = store.output("sft", store.uri("base"))
    second = store.output("dpo", store.uri("sft"))
    jobs = {"job://dpo": store.uri("dpo")}
    found = store.finder(jobs).model("job://dpo")
    source = found.fetch(store.root / "scratch")
    assert source.adapters == (first, second)
    assert (source.uri, source.identity) == ("job://dpo", store.uri("dpo"))
    assert found.resolved("model.source")[0].value == store.uri("dpo")


def test_a_tuned_whole_model_needs_no_base(store: Store) -> None:
    folder = store.output("full", "s3://gone/base", store.whole())
    source = store.finder().model(store.uri("full")).fetch(store.root / "scratch")
    assert (source.folder, source.adapters) == (folder, ())


def test_merged_weights_spare_the_base(store: Store) -> None:
    merged = {f"merged/{name}": content for name, content in store.whole().items()}
    folder = store.output("lora", "s3://gone/base", {**ADAPTER, **merged})
    source = store.finder().model(store.uri("lora")).fetch(store.root / "scratch")
    assert (source.folder, source.adapters) == (folder / "merged", ())


def test_what_the_manifest_does_not_list_is_not_there(store: Store) -> None:
    folder = store.output("sft", store.uri("base"))
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "tokenizer.json").write_text("{}")
    found = store.finder().model(store.uri("sft"))
    assert [file.name for file in found.adapters[0].files] == sorted(ADAPTER)


def replaced(store: Store) -> str:
    folder = store.output("sft", store.uri("base"))
    (folder / "adapter_model.safetensors").write_text("WEIGHTS")
    return "adapter_model.safetensors does not have the SHA-256"


def shortened(store: Store) -> str:
    folder = store.output("sft", store.uri("base"))
    (folder / "adapter_model.safetensors").write_text("w")
    return "adapter_model.safetensors is missing or not as the manifest says"


def lost(store: Store) -> str:
    folder = store.output("sft", store.uri("base"))
    (folder / "adapter_config.json").unlink()
    return "adapter_config.json is missing"


def other_version(store: Store) -> str:
    store.output("sft", store.uri("base"), apiVersion="finetune.dev/v9")
    return "not a manifest of this version"


def outside(store: Store) -> str:
    store.output("sft", store.uri("base"), {**ADAPTER, "../escape.json": "{}"})
    return "../escape.json is missing or not as the manifest says"


def circle(store: Store) -> str:
    store.output("sft", store.uri("dpo"))
    store.output("dpo", store.uri("sft"))
    return "the chain of adapters leads back to itself"


def endless(store: Store) -> str:
    store.output("sft", store.uri("x1"))
    for number in range(1, 12):
        store.output(f"x{number}", store.uri(f"x{number + 1}"))
    return "is longer than 8"


def another_base(store: Store) -> str:
    store.output("first", store.uri("base"))
    store.output("sft", store.uri("first"), baseManifestDigest=f"sha256:{'0' * 64}")
    return "was trained on another model"


def neither(store: Store) -> str:
    store.output("sft", store.uri("base"), {"README.md": "hello"})
    return "neither a model"


@pytest.mark.parametrize(
    "damage",
    [replaced, shortened, lost, other_version, outside, circle, endless, another_base, neither],
)
def test_an_output_that_is_not_whole_is_refused(store: Store, damage: Any) -> None:
    words = damage(store)
    with pytest.raises(TrainerError) as caught:
        store.finder().model(store.uri("sft")).fetch(store.root / "scratch")
    assert caught.value.reason in (Reason.CORRUPT_MODEL, Reason.UNSUPPORTED_MODEL)
    assert words in caught.value.message


def test_a_job_has_no_place_on_a_laptop(store: Store) -> None:
    error = refusal(store.finder(), "job://sft")
    assert error.reason is Reason.INVALID_SPEC
    assert "output.uri" in (error.hint or "")


def test_a_job_without_an_output(store: Store) -> None:
    jobs = {"job://sft": store.uri("base")}
    error = refusal(store.finder(jobs), "job://sft")
    assert error.reason is Reason.MODEL_NOT_FOUND
    assert "no manifest" in error.message


def test_a_base_on_another_machine(store: Store) -> None:
    store.output("sft", store.uri("base"))
    error = refusal(store.finder(local=False), store.uri("sft"))
    assert error.reason is Reason.MODEL_NOT_FOUND
    assert "another machine" in error.message


def test_a_file_of_that_name_makes_no_output(store: Store) -> None:
    (store.root / "base" / "manifest.json").write_text('{"kind": "Something"}')
    assert store.finder().model(store.uri("base")).output is None
