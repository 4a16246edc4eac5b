"""Bad input fails with its own reason, a message that names the place, and a hint."""

import pytest

from support.stack import BUCKET
from support.tenant import Object, Tenant, conditions

DATA = f"s3://{BUCKET}/data"
FAILURES: dict[str, tuple[Object, str, str]] = {
    "absent-data": (
        {"data.train": [{"source": f"{DATA}/absent.jsonl"}]}, "DataNotFound", f"{DATA}/absent.jsonl",
    ),
    "absent-model": (
        {"model.source": f"s3://{BUCKET}/models/absent"}, "ModelNotFound", f"s3://{BUCKET}/models/absent",
    ),
    "wrong-key": (
        {"storage": {"credentials": {"secretName": "wrong-key"}}}, "StorageCredentialsInvalid", "SignatureDoesNotMatch",
    ),
    "unknown-key": (
        {"storage": {"credentials": {"secretName": "unknown-key"}}}, "StorageCredentialsInvalid", "InvalidAccessKeyId",
    ),
    "half-a-secret": (
        {"storage": {"credentials": {"secretName": "half"}}}, "StorageCredentialsMissing", "AWS_SECRET_ACCESS_KEY",
    ),
    "no-bucket": (
        {"model.source": "s3://no-such-bucket/models/tiny", "storage": {"credentials": {"secretName": "every-bucket"}}},
        "BucketNotFound", "no-such-bucket",
    ),
    "bucket-of-others": (
        {"model.source": "s3://no-such-bucket/models/tiny"}, "StorageAccessDenied", "or the bucket does not exist",
    ),
    "broken-line": (
        {"data.train": [{"source": f"{DATA}/broken.jsonl"}]}, "DataInvalid", "broken.jsonl line 17",
    ),
    "empty-data": ({"data.train": [{"source": f"{DATA}/empty.jsonl"}]}, "DataEmpty", "empty.jsonl"),
    "pickled-model": (
        {"model.source": f"s3://{BUCKET}/models/pickled"}, "UnsafeWeights", "pytorch_model.bin",
    ),
    "wrong-target": (
        {"tuning": {"type": "LoRA", "lora": {"targets": ["query_key_value"]}}}, "TargetModulesNotFound", "q_proj",
    ),
}  # fmt: skip
SECRETS = {
    "wrong-key": {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "canary-secret-value"},
    "unknown-key": {
        "AWS_ACCESS_KEY_ID": "AKIAUNKNOWN",
        "AWS_SECRET_ACCESS_KEY": "canary-secret-value",
    },
    "half": {"AWS_ACCESS_KEY_ID": "AKIAHALF"},
}


@pytest.fixture(scope="module")
def failed(tenant: Tenant) -> Tenant:
    """All jobs applied at once: they fail side by side."""
    keys = tenant.stack.s3
    # Only to a key that may read every bucket does the store say that one is not there.
    every = {"AWS_ACCESS_KEY_ID": keys.admin.access, "AWS_SECRET_ACCESS_KEY": keys.admin.secret}
    for name, data in {**SECRETS, "every-bucket": every}.items():
        filled = data | {"AWS_ACCESS_KEY_ID": data["AWS_ACCESS_KEY_ID"] or keys.tenant.access}
        metadata = {"name": name, "namespace": tenant.namespace}
        tenant.stack.cluster.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": filled}
        )
    for name, (changes, _, _) in FAILURES.items():
        tenant.apply(name, changes)
    return tenant


@pytest.mark.parametrize("name", FAILURES)
def test_bad_input_has_its_reason_message_and_hint(failed: Tenant, name: str) -> None:
    _, reason, place = FAILURES[name]
    status = failed.wait(name, "Failed")
    failure = status["failure"]
    assert failure["reason"] == reason, failure
    assert place in failure["message"]
    assert failure["hint"]
    assert status["attempts"][0]["exitCode"] == 65
    assert ("Warning", reason) in failed.events(name)
    assert "Traceback" not in failure["message"]


def test_no_secret_is_ever_printed(failed: Tenant) -> None:
    for name in FAILURES:
        failed.wait(name, "Failed")
    said = failed.stack.cluster.kubectl(
        "get", "ftj,events", "-n", failed.namespace, "-o", "json"
    ).stdout
    said += failed.stack.operator_log.read_text()
    for name in ("wrong-key", "unknown-key"):
        [pod] = failed.children("pods", name)
        said += failed.stack.cluster.kubectl("logs", pod["metadata"]["name"], "-n", "team").stdout
    assert "canary-secret-value" not in said
    assert failed.stack.s3.tenant.secret not in said
    assert failed.stack.s3.tenant.access not in said


@pytest.mark.parametrize(
    ("name", "changes", "reason", "words"),
    [
        ("half", {"training.precision": "Float16"}, "NotImplemented", "spec.training.precision: Float16"),
        ("many", {"training.precision": "Float16", "training.extra": {"adam_beta1": "0.8"}}, "NotImplemented", "spec.training.extra"),
        ("local", {"model.source": "file:///tmp/model"}, "InvalidSpec", "laptop"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_a_pod(
    tenant: Tenant, name: str, changes: Object, reason: str, words: str
) -> None:
    tenant.apply(name, changes)
    status = tenant.wait(name, "Failed", seconds=20)
    assert conditions(status)["Accepted"] == "False"
    assert status["failure"]["reason"] == reason
    assert words in status["failure"]["message"]
    assert tenant.children("jobs", name) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training.learningrate": 1e-4}, "unknown field"),
        ({"method.type": "SFFT"}, "Unsupported value"),
    ],
)
def test_typos_are_refused_at_apply(tenant: Tenant, changes: Object, words: str) -> None:
    import json

    body = json.dumps(tenant.manifest("typo", changes))
    done = tenant.stack.cluster.kubectl("apply", "-f", "-", stdin=body, check=False)
    assert done.returncode != 0
    assert words in done.stderr


def test_a_foreign_job_is_not_adopted(tenant: Tenant) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "none"}]}}
    metadata = {"name": "taken-1", "namespace": tenant.namespace}
    spec = {"suspend": True, "template": template}
    tenant.stack.cluster.apply(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    )
    tenant.apply("taken")
    failure = tenant.wait("taken", "Failed", seconds=20)["failure"]
    assert failure["reason"] == "NameConflict"
    assert "taken-1" in failure["message"]
    assert "ownerReferences" not in tenant.get("job", "taken-1")["metadata"]
