"""A job from apply to the adapter in S3, and what a user then sees and can do with it."""

import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.stack import BUCKET
from support.tenant import Object, Tenant, conditions

# In a fresh process, with nothing of ours: what any user of the adapter would write.
PLAIN_PEFT = textwrap.dedent("""
    import json, sys, torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, adapter, rows = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()

    def loss():
        total = count = 0
        for line in open(rows):
            row = json.loads(line)
            prompt = tokenizer(row["prompt"])["input_ids"]
            answer = tokenizer(row["completion"])["input_ids"] + [tokenizer.eos_token_id]
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            total += torch.nn.functional.cross_entropy(
                logits.float(), torch.tensor(answer), reduction="sum").item()
            count += len(answer)
        return total / count

    after = loss()
    with model.disable_adapter():
        print(json.dumps({"before": loss(), "after": after}))
""")


@pytest.fixture(scope="module")
def complete(tenant: Tenant) -> Object:
    tenant.apply("colours")
    return tenant.wait("colours", "Complete")


def test_the_conditions_say_complete_and_verified(complete: Object) -> None:
    assert conditions(complete) == {
        "Accepted": "True", "Running": "False", "Suspended": "False",
        "Complete": "True", "OutputVerified": "True",
    }  # fmt: skip
    assert complete["state"] == "Complete"
    assert complete["completionTime"] >= complete["startTime"]


def test_progress_ends_at_the_last_step(complete: Object) -> None:
    progress = complete["progress"]
    assert (progress["step"], progress["totalSteps"], progress["percent"]) == (20, 20, 100)
    assert float(progress["loss"]) < 6


def test_one_attempt_that_succeeded(complete: Object) -> None:
    [attempt] = complete["attempts"]
    assert (attempt["number"], attempt["state"], attempt["exitCode"]) == (1, "Succeeded", 0)
    assert attempt["endStep"] == 20


def test_what_was_left_open_is_resolved_with_a_reason(complete: Object) -> None:
    resolved = {entry["field"]: entry for entry in complete["resolved"]}
    for path in ("data.maxLength", "training.microBatchSize", "training.precision"):
        assert resolved[path]["value"]
        assert resolved[path]["why"]
    assert complete["plan"]["rows"] == 64
    assert complete["plan"]["evaluationRows"] == 16


def test_every_file_has_the_digest_that_the_manifest_names(
    tenant: Tenant, complete: Object, tmp_path: Path
) -> None:
    output = complete["output"]
    folder = tenant.download(f"s3://{BUCKET}/outputs/colours", tmp_path)
    manifest = (folder / "manifest.json").read_bytes()
    assert output["manifestDigest"] == "sha256:" + hashlib.sha256(manifest).hexdigest()
    files = json.loads(manifest)["files"]
    prefix = output["uri"].removeprefix(f"s3://{BUCKET}/outputs/colours").strip("/")
    for file in files:
        data = (folder / prefix / file["path"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(data).hexdigest(), file["path"]
    assert output["sizeBytes"] == sum(file["sizeBytes"] for file in files)
    names = {file["path"] for file in files}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= names
    assert any(name.startswith("tensorboard/") for name in names)


def test_plain_peft_loads_the_adapter_and_it_helps(
    tenant: Tenant, complete: Object, inputs: Path, tmp_path: Path
) -> None:
    adapter = tenant.download(complete["output"]["uri"], tmp_path)
    command = [sys.executable, "-P", "-c", PLAIN_PEFT, str(inputs / "models/tiny"), str(adapter)]
    rows = str(inputs / "data/evaluation.jsonl")
    done = subprocess.run([*command, rows], check=True, capture_output=True, text=True)
    loss = json.loads(done.stdout.splitlines()[-1])
    assert loss["after"] < 0.7 * loss["before"]
    measured = complete["evaluation"]
    # The same number by a program that shares no line with the trainer.
    assert float(measured["lossBefore"]) == pytest.approx(loss["before"], rel=1e-3)
    assert float(measured["lossAfter"]) == pytest.approx(loss["after"], rel=1e-3)


def test_kubectl_shows_the_result(tenant: Tenant, complete: Object) -> None:
    shown = tenant.stack.cluster.kubectl("get", "ftj", "colours", "-n", "team", "-o", "wide").stdout
    assert "Complete" in shown
    assert complete["output"]["uri"] in shown
    reference = "finetunejob/colours"
    tenant.stack.cluster.kubectl(
        "wait", "--for=condition=Complete", reference, "-n", "team", "--timeout=5s"
    )


def test_events_tell_the_story_once(tenant: Tenant, complete: Object) -> None:
    assert complete["state"] == "Complete"
    assert sorted(tenant.events("colours")) == [
        ("Normal", "JobCreated"),
        ("Normal", "OutputPublished"),
    ]


def test_nothing_of_kopf_is_left_on_the_job(tenant: Tenant, complete: Object) -> None:
    job = tenant.get("ftj", "colours")
    assert complete["state"] == "Complete"
    assert "kopf" not in json.dumps(job)
    assert "finalizers" not in job["metadata"]


def test_the_output_is_never_overwritten(tenant: Tenant, complete: Object) -> None:
    tenant.apply("rival", {"output.uri": f"s3://{BUCKET}/outputs/colours"})
    failure = tenant.wait("rival", "Failed")["failure"]
    assert failure["reason"] == "OutputConflict"
    assert f"s3://{BUCKET}/outputs/colours" in failure["message"]
    assert failure["hint"]
    assert tenant.status("colours")["output"] == complete["output"]


def test_full_tuning_of_chats(tenant: Tenant, tmp_path: Path) -> None:
    tenant.apply(
        "full",
        {
            "tuning.type": "Full",
            "data.train": [{"source": f"s3://{BUCKET}/data/chats.jsonl"}],
            "data.evaluation": {"fraction": 0.25},
            "training.learningRate": 1e-3,
        },
    )
    status = tenant.wait("full", "Complete")
    assert float(status["evaluation"]["lossAfter"]) < float(status["evaluation"]["lossBefore"])
    folder = tenant.download(status["output"]["uri"], tmp_path)
    assert (folder / "model.safetensors").exists()
    assert not (folder / "adapter_config.json").exists()


@pytest.mark.usefixtures("restart_operator")
def test_eight_writes_a_job(tenant: Tenant) -> None:
    stack = tenant.stack
    stack.stop_operator()
    # No progress updates, which the goal leaves out.
    stack.start_operator({"FINETUNE_OPERATOR_STATUS_INTERVAL_SECONDS": "600"})
    mark = stack.cluster.audit.mark()
    tenant.apply("frugal")
    status = tenant.wait("frugal", "Complete")
    writes = stack.operator_writes(since=mark)
    assert len(writes) <= 8, writes
    # The end of the progress is in the report, whatever the interval.
    assert status["progress"]["step"] == 20
