from pathlib import Path

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.client import read_credentials

GOOD = {"AWS_ACCESS_KEY_ID": b"id", "AWS_SECRET_ACCESS_KEY": b"canary"}


def secret(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_newline_at_the_end_is_dropped(tmp_path: Path) -> None:
    given = {**GOOD, "AWS_SECRET_ACCESS_KEY": b"canary\n", "AWS_SESSION_TOKEN": b"token\r\n"}
    assert read_credentials(secret(tmp_path, given)) == {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "AWS_SESSION_TOKEN": "token",
    }


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": None}, Reason.STORAGE_CREDENTIALS_MISSING, "is missing"),
        ({"AWS_SECRET_ACCESS_KEY": b"\n"}, Reason.STORAGE_CREDENTIALS_MISSING, "is empty"),
        ({"AWS_SECRET_ACCESS_KEY": b"canary\nx"}, Reason.STORAGE_CREDENTIALS_INVALID, "not one line"),
        ({"AWS_SECRET_ACCESS_KEY": b"\xffcanary"}, Reason.STORAGE_CREDENTIALS_INVALID, "not one line"),
    ],
)  # fmt: skip
def test_unusable_keys_are_named_and_not_shown(
    tmp_path: Path, change: dict[str, bytes | None], reason: Reason, words: str
) -> None:
    files = {name: content for name, content in {**GOOD, **change}.items() if content is not None}
    with pytest.raises(TrainerError, match=words) as caught:
        read_credentials(secret(tmp_path, files))
    assert caught.value.reason is reason
    assert next(iter(change)) in caught.value.message
    assert "canary" not in caught.value.message
