"""Virtual tokens from manifest to answers: each kind, preferences, and what is refused."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import __main__ as program
from finetune_trainer import answers, merge, opening
from finetune_trainer.commands import evaluate, generate
from finetune_trainer.commands.generate import Wanted
from finetune_trainer.commands.output import Stores
from finetune_trainer.commands.prompts import Asked
from finetune_trainer.errors import TrainerError
from finetune_trainer.heads import CAUSAL
from finetune_trainer.sources import ModelSource
from support.preference_data import preferences
from support.tiny_models import pairs, write_jsonl

KINDS = ("PrefixTuning", "PromptTuning", "PTuning")
SIZE = 5
NEW = 6
NEW_TOKENS = answers.Sampling(max_new_tokens=NEW)


@pytest.fixture
def run(laptop: Any, model_folder: Path) -> Any:
    def run(kind: str, changes: dict[str, Any], rows: Any = pairs) -> Any:
        write_jsonl(laptop.folder / "train.jsonl", rows(64))
        return laptop.run({
            "model.source": f"file://{model_folder}",
            "data.train": [{"source": f"file://{laptop.folder}/train.jsonl"}],
            "data.limits": {"maxDuplicates": 1},
            "data.evaluation": {"fraction": 0.1},
            "tuning": {"type": kind, "virtualTokens": {"virtualTokens": SIZE}},
            "training": {"maxSteps": 12, "batchSize": 4, "learningRate": 1e-1},
            "output.uri": f"file://{laptop.folder}/out",
            **changes,
        }).report  # fmt: skip

    return run


def published(laptop: Any) -> Path:
    manifest = json.loads((laptop.folder / "out" / "manifest.json").read_text())
    return Path(manifest["prefix"].removeprefix("file://"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_by_each_kind(run: Any, laptop: Any, model_folder: Path, kind: str) -> None:
    report = run(kind, {})
    assert report.outcome == "Complete", report.message
    assert float(report.evaluation.loss_after) < 0.92 * float(report.evaluation.loss_before)
    resolved = {choice.field: choice for choice in report.resolved}
    assert resolved["data.packing"].value == "Disabled"
    assert "only its first row would follow" in resolved["data.packing"].why

    # One tensor, and nobody's path: virtual tokens, or their keys and values in two layers.
    folder = published(laptop)
    (stored,) = load_file(folder / "adapter_model.safetensors").values()
    # Two heads of 16 for keys, as many for values.
    assert stored.shape == (SIZE, 2 * 2 * 2 * 16 if kind == "PrefixTuning" else 64)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert str(laptop.folder) not in json.dumps(config | {"base_model_name_or_path": ""})

    # Plain PEFT on the plain base says what our opened model says, and embeddings alone explain it.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer("Thing 3 is red. Which colour? ", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    plain = base(**batch).logits
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_folder), str(folder)
    ).eval()
    width = batch["input_ids"].shape[1]
    said = theirs(**batch).logits[:, -width:]
    assert (said - plain).abs().max() > 0.1
    source = replace(ModelSource.of_folder(model_folder, "s3://b/base"), adapters=(folder,))
    ours, _ = opening.load_source(source, CAUSAL, "Float32", "cpu", merged=False)
    torch.testing.assert_close(ours(**batch).logits[:, -width:], said)
    if kind != "PrefixTuning":
        embeddings = base.get_input_embeddings()(batch["input_ids"])
        inputs = torch.cat([stored.unsqueeze(0), embeddings], dim=1)
        torch.testing.assert_close(base(inputs_embeds=inputs).logits[:, -width:], said)

    # The commands write what the logits say, one prompt as it comes and several at once.
    prompts = [
        "Thing 3 is red. Which colour? ",
        "Thing 12, which is large, is blue. Which colour? ",
    ]
    wanted = [_greedy(theirs, tokenizer, each) for each in prompts]
    out = laptop.folder / "out"
    for prompt, text in zip(prompts, wanted, strict=True):
        assert command(out, generate.run, Wanted([Asked(prompt, "-")], NEW_TOKENS)) == f"{text}\n"
    both = Wanted([Asked(each, "-") for each in prompts], NEW_TOKENS, json_lines=True)
    lines = command(out, generate.run, both).splitlines()
    assert [json.loads(line)["answer"] for line in lines] == wanted
    again = command(out, evaluate.run)
    assert report.evaluation.loss_before in again
    assert report.evaluation.loss_after in again

    # Nothing can be trained on top of it.
    report = run(kind, {"model.source": f"file://{out}", "output.uri": f"file://{out}-2"})
    assert (report.outcome, report.reason) == ("Failed", "UnsupportedModel")
    assert "cannot be merged into weights" in report.message
    assert "Tune further from its base model" in report.hint
    with pytest.raises(TrainerError) as caught:
        merge.merge(base, folder, "s3://b/out")
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL


def _greedy(net: Any, tokenizer: Any, prompt: str) -> str:
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    begin = ids.shape[1]
    for _ in range(NEW):
        with torch.no_grad():
            following = net(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
        ids = torch.cat([ids, following.argmax(-1, keepdim=True)], dim=1)
        if ids[0, -1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(ids[0, begin:], skip_special_tokens=True))


def command(output: Path, work: Any, *arguments: Any) -> str:
    stream = io.StringIO()

    def run(place: Any, found: Any, target: Any) -> None:
        work(found, *arguments, place, target)

    code = program.run_command(f"file://{output}", Stores(), run, {}, stream)
    assert code == 0, stream.getvalue()
    return stream.getvalue()


@pytest.mark.parametrize(("method", "kind"), [("DPO", "PrefixTuning"), ("ORPO", "PTuning")])
def test_preferences(run: Any, method: str, kind: str) -> None:
    training = {"maxSteps": 8, "batchSize": 4, "learningRate": 3e-2}
    report = run(kind, {"method.type": method, "training": training}, preferences)
    assert report.outcome == "Complete", report.message
    assert float(report.evaluation.loss_after) < float(report.evaluation.loss_before)


def test_a_reference_that_cannot_be_switched_to(run: Any) -> None:
    dpo = {"type": "DPO", "dpo": {"reference": {"precompute": False}}}
    report = run("PromptTuning", {"method": dpo}, preferences)
    assert (report.outcome, report.reason) == ("Failed", "InvalidSpec")
    assert "does not start at the base model" in report.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.packing": "Enabled"}, "only the first would follow"),
        ({"training.gradientCheckpointing": "Enabled"}, "finds the prefix in the cache"),
        ({"method": {"type": "Reward"}}, "does not find behind virtual tokens"),
    ],
)
def test_what_does_not_go_together(run: Any, changes: dict[str, Any], words: str) -> None:
    report = run("PrefixTuning", changes)
    assert (report.outcome, report.reason) == ("Failed", "InvalidSpec")
    assert words in report.message
