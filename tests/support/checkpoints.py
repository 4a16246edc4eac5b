"""Runs, identities and folders for tests of checkpoints: small, and without torch."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.output import Storage as StorageSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.checkpoints import CheckpointStore, Fence, Identity
from finetune_trainer.environment import Environment
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Place, Storage
from support.jobs import spec

UID = "11111111-aaaa"


def run(attempt: int = 1, uid: str = UID) -> RunFile:
    """An attempt of a job."""
    job = {"namespace": "team", "name": "demo", "uid": uid}
    return RunFile.model_validate({"job": job, "attempt": attempt, "spec": spec()})


def about(rank: int = 8) -> Identity:
    """What must stay the same."""
    return Identity(
        base_model="s3://models/base",
        method={"type": "SFT"},
        tuning={"type": "LoRA", "lora": {"rank": rank}},
        data="sha256:00",
        settings={"seed": 1},
    )


def checkpoint(folder: Path, step: int, megabytes: int = 0) -> Path:
    """A folder like a checkpoint, whose every byte follows from its step."""
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "rank-0.json").write_text(json.dumps({"step": step}))
    (folder / "weights.safetensors").write_bytes(weights(step, megabytes))
    return folder


def weights(step: int, megabytes: int = 0) -> bytes:
    """The bytes of its big file."""
    return (f"step {step}\n" * 100).encode() + bytes([step % 251]) * megabytes * 1024 * 1024


def claimed(output: Place, attempt: int = 1) -> CheckpointStore:
    """The store of an attempt that has taken the fence."""
    store = CheckpointStore(output, run(attempt))
    store.claim()
    return store


def claim_at_once(output: Place, attempts: int) -> None:
    """Let attempts take the fence at the same moment, and see that the newest one has it."""
    fences = [Fence(output, run(attempt)) for attempt in range(1, attempts + 1)]
    with ThreadPoolExecutor(attempts) as pool:
        refused = [reason for reason in pool.map(lambda f: _reason(f.take), fences) if reason]
    assert set(refused) <= {Reason.FENCED}
    assert [_reason(fence.require) for fence in fences] == [Reason.FENCED] * (attempts - 1) + [None]


def _reason(action: Callable[[], object]) -> Reason | None:
    try:
        action()
    except TrainerError as error:
        return error.reason
    return None


def s3_place(uri: str, endpoint: str, secret: Path, **storage: str) -> Place:
    """A place in S3, as a pod opens it with a mounted Secret."""
    environment = Environment(secret.parent, secret, None, None, {})
    given = StorageSpec.model_validate({"endpoint": endpoint, **storage})
    return Storage(given, environment).place(uri, Reason.DATA_NOT_FOUND)


def write_secret(folder: Path, access: str, secret: str) -> Path:
    """The files of a Secret."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "AWS_ACCESS_KEY_ID").write_text(access + "\n")
    (folder / "AWS_SECRET_ACCESS_KEY").write_text(secret + "\n")
    return folder
