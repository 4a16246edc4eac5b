"""Jobs that build on the output of another: the numbers go on where the former job stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from devcluster.s3 import S3Server
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import heads, model
from finetune_trainer.environment import read
from finetune_trainer.errors import TrainerError
from finetune_trainer.opening import load_source
from finetune_trainer.sources import Finder, ModelSource
from finetune_trainer.storage import Storage
from support.jobs import spec
from support.tiny_models import chats, write_jsonl

STEPS = {"training.maxSteps": 12, "training.learningRate": 3e-3, "training.batchSize": 8}
TOKENS = torch.arange(3, 40).unsqueeze(0)


@pytest.fixture
def first(laptop: Any, model_folder: Path) -> Callable[..., Any]:
    """Runs a job on this machine; its evaluation rows are the same for every job."""
    train = write_jsonl(laptop.folder / "data" / "train.jsonl", chats(48))
    held_out = write_jsonl(laptop.folder / "data" / "test.jsonl", chats(8, seed=5))

    def run(output: str, source: str | None = None, **changes: Any) -> Any:
        return laptop.run(
            {
                **STEPS,
                "model.source": source or f"file://{model_folder}",
                "data.train": [{"source": f"file://{train}"}],
                "data.evaluation": {"sources": [{"source": f"file://{held_out}"}]},
                "output.uri": f"file://{laptop.folder / output}",
                **changes,
            }
        ).report

    return run


def manifest(laptop: Any, output: str) -> dict[str, Any]:
    return dict(json.loads((laptop.folder / output / "manifest.json").read_text()))


def folder(laptop: Any, output: str) -> str:
    return str(manifest(laptop, output)["prefix"]).removeprefix("file://")


def source_of(laptop: Any, output: str) -> ModelSource:
    storage = Storage(None, read({}, laptop.folder))
    found = Finder(storage, {}, local=True).model(f"file://{laptop.folder / output}")
    return found.fetch(laptop.folder / "fetched")


def logits(net: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(net.eval()(TOKENS).logits)


def test_an_adapter_on_an_adapter(first: Any, laptop: Any, model_folder: Path) -> None:
    one = first("sft")
    assert one.outcome == "Complete", one.message
    root = f"file://{laptop.folder / 'sft'}"
    two = first("more", one.output.uri)
    assert two.outcome == "Complete", two.message
    # It starts where the first one stopped, and goes on.
    assert float(two.evaluation.loss_before) == pytest.approx(
        float(one.evaluation.loss_after), abs=2e-4
    )
    assert float(two.evaluation.loss_after) < float(two.evaluation.loss_before)
    # The manifest names the output and its digest, whatever the user has called it.
    written = manifest(laptop, "more")
    assert written["baseModel"] == root
    assert written["baseManifestDigest"] == one.output.manifest_digest
    assert {r.field: r.value for r in two.resolved}["model.source"] == root
    config = json.loads((Path(folder(laptop, "more")) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == root

    # By plain PEFT, layer upon layer, it is the same model that our own loader makes.
    plain = AutoModelForCausalLM.from_pretrained(model_folder)
    for name in ("sft", "more"):
        plain = PeftModel.from_pretrained(plain, folder(laptop, name)).merge_and_unload()
    source = source_of(laptop, "more")
    assert len(source.adapters) == 2
    ours = model.load_model(source, model.load_config(source.folder, ""), "Float32", "cpu")
    assert (logits(ours) - logits(plain)).abs().max() < 1e-5
    assert all(not module.__class__.__module__.startswith("peft") for module in ours.modules())


def test_merging_keeps_to_the_dtype_of_the_base(
    first: Any, laptop: Any, tmp_path: Path, model_folder: Path
) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16).save_pretrained(half)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (half / name).write_bytes((model_folder / name).read_bytes())
    one = first("sft", f"file://{half}", **{"training.maxSteps": 4})
    assert one.outcome == "Complete", one.message
    two = first("full", f"file://{laptop.folder / 'sft'}", **{
        "tuning.type": "Full", "training.maxSteps": 4, "training.learningRate": 1e-4})  # fmt: skip
    assert two.outcome == "Complete", two.message
    tuned = AutoModelForCausalLM.from_pretrained(folder(laptop, "full"))
    assert tuned.dtype is torch.bfloat16


def test_a_job_of_the_cluster_by_name(
    first: Any, s3: S3Server, tmp_path: Path, run_here: Callable[..., Any], model_folder: Path
) -> None:
    client = s3.client()
    for path in model_folder.iterdir():
        client.upload_file(str(path), "trainer", f"chain/base/{path.name}")
    client.upload_file(str(tmp_path / "data/train.jsonl"), "trainer", "chain/train.jsonl")
    client.upload_file(str(tmp_path / "data/test.jsonl"), "trainer", "chain/test.jsonl")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/AWS_ACCESS_KEY_ID").write_text(s3.tenant.access)
    (tmp_path / "keys/AWS_SECRET_ACCESS_KEY").write_text(s3.tenant.secret)

    def job(name: str, source: str, sources: dict[str, str]) -> Any:
        changes = {
            **STEPS,
            "model.source": source,
            "data.train": [{"source": "s3://trainer/chain/train.jsonl"}],
            "data.evaluation": {"sources": [{"source": "s3://trainer/chain/test.jsonl"}]},
            "output.uri": f"s3://trainer/chain/{name}",
            "storage.endpoint": s3.endpoint,
        }
        content = {
            "kind": "RunFile",
            "job": {"namespace": "team", "name": name, "uid": f"{name}0000-1"},
            "spec": spec(changes),
            "sources": sources,
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        keys = str(tmp_path / "keys")
        return run_here(path, tmp_path, FINETUNE_STORAGE_CREDENTIALS=keys).report

    one = job("aaaa", "s3://trainer/chain/base", {})
    assert one.outcome == "Complete", one.message
    two = job("bbbb", "job://aaaa", {"job://aaaa": "s3://trainer/chain/aaaa"})
    assert two.outcome == "Complete", two.message
    assert float(two.evaluation.loss_before) == pytest.approx(
        float(one.evaluation.loss_after), abs=2e-4
    )
    written = json.loads(
        client.get_object(Bucket="trainer", Key="chain/bbbb/manifest.json")["Body"].read()
    )
    assert written["baseModel"] == "s3://trainer/chain/aaaa"


def test_an_adapter_goes_on_under_another_head(first: Any, laptop: Any, model_folder: Path) -> None:
    one = first("sft", **{"training.maxSteps": 4})
    assert one.outcome == "Complete", one.message
    source = source_of(laptop, "sft")
    config = model.load_config(source.folder, source.uri, heads.SEQUENCE_CLASSIFICATION)
    config.num_labels, config.pad_token_id = 1, 0
    scorer = model.load_model(source, config, "Float32", "cpu", heads.SEQUENCE_CLASSIFICATION)
    tuned, _ = load_source(source, heads.CAUSAL, "Float32", "cpu")
    expected = tuned.model(TOKENS).last_hidden_state[:, -1] @ scorer.score.weight.T
    assert torch.allclose(logits(scorer), expected, atol=1e-5)


def test_a_head_that_nobody_trained_is_refused(model_folder: Path) -> None:
    source = ModelSource.of_folder(model_folder, "s3://b/m")
    with pytest.raises(TrainerError) as caught:
        load_source(source, heads.SEQUENCE_CLASSIFICATION, "Float32", "cpu")
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL


def test_merged_or_attached_it_is_the_same_model(first: Any, laptop: Any) -> None:
    first("sft", **{"training.maxSteps": 4})
    source = source_of(laptop, "sft")
    merged, tokenizer = load_source(source, heads.CAUSAL, "Float32", "cpu")
    attached, _ = load_source(source, heads.CAUSAL, "Float32", "cpu", merged=False)
    assert (logits(merged) - logits(attached)).abs().max() < 1e-4
    assert isinstance(attached, PeftModel)
    assert not isinstance(merged, PeftModel)
    assert not any(each.requires_grad for each in [*merged.parameters(), *attached.parameters()])
    assert tokenizer.pad_token is not None
