"""Checkpoints in storage: what is published is found again, and nothing else is believed."""

import hashlib
import logging
from pathlib import Path

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.checkpoints import CheckpointStore, require_same
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.local import LocalPlace
from support.checkpoints import about, checkpoint, claim_at_once, claimed


@pytest.fixture
def output(tmp_path: Path) -> LocalPlace:
    return LocalPlace("pvc://c/out", tmp_path / "out", None, Reason.INTERNAL_ERROR)


def publish(store: CheckpointStore, tmp_path: Path, step: int) -> Path:
    folder = checkpoint(tmp_path / f"made-{step}-{store.fence.holder}", step)
    store.publish(folder, step, about())
    return folder


def test_published_and_found_by_the_next_attempt(output: LocalPlace, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "made", 20)
    status = claimed(output).publish(folder, 20, about())
    assert status.uri == "pvc://c/out/checkpoints/11111111/1-20"
    sizes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert status.size_bytes == sizes
    found = claimed(output, 2).newest(tmp_path / "got")
    assert found is not None
    assert (found.manifest.step, found.manifest.attempt) == (20, 1)
    assert (found.folder / "state" / "rank-0.json").read_text() == '{"step": 20}'
    digests = {file.path: file.sha256 for file in found.manifest.files}
    expected = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    assert digests["weights.safetensors"] == expected


def test_nothing_yet(output: LocalPlace, tmp_path: Path) -> None:
    assert claimed(output).newest(tmp_path / "got") is None


@pytest.mark.parametrize("damage", ["flipped", "cut", "absent", "no manifest", "bad manifest"])
def test_the_one_before_a_damaged_one_is_taken(
    output: LocalPlace, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = claimed(output)
    publish(store, tmp_path, 20)
    publish(store, tmp_path, 40)
    newest = output.path / "checkpoints" / "11111111" / "1-40"
    weights, manifest = newest / "weights.safetensors", newest / "manifest.json"
    content = weights.read_bytes()
    {
        "flipped": lambda: weights.write_bytes(b"X" + content[1:]),
        "cut": lambda: weights.write_bytes(content[:-1]),
        "absent": weights.unlink,
        "no manifest": manifest.unlink,
        "bad manifest": lambda: manifest.write_text("{}"),
    }[damage]()
    with caplog.at_level(logging.WARNING):
        found = claimed(output, 2).newest(tmp_path / "got")
    assert found is not None
    assert found.manifest.step == 20
    assert ("1-40" in caplog.text) is (damage != "no manifest")


def test_an_older_attempt_is_refused(output: LocalPlace, tmp_path: Path) -> None:
    claimed(output, 2)
    with pytest.raises(TrainerError, match="attempt 2 holds it") as caught:
        claimed(output, 1)
    assert caught.value.reason is Reason.FENCED


def test_a_zombie_publishes_nothing(output: LocalPlace, tmp_path: Path) -> None:
    zombie = claimed(output, 1)
    publish(zombie, tmp_path, 20)
    heir = claimed(output, 2)
    with pytest.raises(TrainerError) as caught:
        publish(zombie, tmp_path, 40)
    assert caught.value.reason is Reason.FENCED
    found = heir.newest(tmp_path / "got")
    assert found is not None
    assert found.manifest.step == 20


def test_orphans_go_and_whole_ones_stay(output: LocalPlace, tmp_path: Path) -> None:
    store = claimed(output)
    publish(store, tmp_path, 20)
    orphan = checkpoint(output.path / "checkpoints" / "11111111" / "1-40", 40)
    newer = checkpoint(output.path / "checkpoints" / "11111111" / "3-40", 40)
    claimed(output, 2)
    assert not orphan.exists()
    assert newer.exists()
    assert (orphan.parent / "1-20" / "manifest.json").exists()


def test_the_last_whole_one_is_never_removed(output: LocalPlace, tmp_path: Path) -> None:
    store = claimed(output)
    for step in (20, 40, 60):
        publish(store, tmp_path, step)
    shelf = output.path / "checkpoints" / "11111111"
    (shelf / "1-60" / "weights.safetensors").unlink()
    store.prune(1)
    assert sorted(path.name for path in shelf.iterdir() if path.is_dir()) == ["1-40", "1-60"]


def test_clear_leaves_nothing(output: LocalPlace, tmp_path: Path) -> None:
    store = claimed(output)
    publish(store, tmp_path, 20)
    store.clear()
    assert output.listing() == ()
    assert [path for path in output.path.rglob("*") if path.is_file()] == []


def test_differences_name_every_field() -> None:
    other = about(16).model_copy(update={"settings": {"seed": 1, "rows": 4}})
    assert about(8).differences(about(8)) == []
    assert about(8).differences(other) == [
        "settings.rows: nothing in the checkpoint, 4 now",
        "tuning.lora.rank: 8 in the checkpoint, 16 now",
    ]
    with pytest.raises(TrainerError, match="8 in the checkpoint, 16 now") as caught:
        require_same(about(8), other, "s3://b/c")
    assert caught.value.reason is Reason.RESUME_INCOMPATIBLE


def test_the_same_step_of_a_restarted_attempt_gets_its_own_folder(
    output: LocalPlace, tmp_path: Path
) -> None:
    publish(claimed(output), tmp_path, 20)
    publish(claimed(output), tmp_path, 20)
    names = {path.name for path in (output.path / "checkpoints" / "11111111").glob("*/")}
    assert len(names) == 2
    assert "1-20" in names


def test_other_processes_take_the_one_that_the_first_has_found(
    output: LocalPlace, tmp_path: Path
) -> None:
    store = claimed(output)
    for step in (20, 40):
        publish(store, tmp_path, step)
    assert store.named("1-20", tmp_path / "got").manifest.step == 20
    with pytest.raises(TrainerError) as caught:
        store.named("1-60", tmp_path / "got")
    assert caught.value.reason is Reason.STORAGE_CORRUPTED


def test_a_store_without_conditional_writes_is_warned_about(
    output: LocalPlace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claimed(output, 1)
    assert "ignores conditions" not in caplog.text

    def overwrite(place: LocalPlace, name: str, content: bytes, _version: str = "") -> bool:
        (place.path / name).write_bytes(content)
        return True

    monkeypatch.setattr(LocalPlace, "put_new", overwrite)
    monkeypatch.setattr(LocalPlace, "replace", overwrite)
    claimed(output, 2)
    assert "ignores conditions" in caplog.text


@pytest.mark.parametrize(
    ("of", "to"),
    [
        ('"uid": "11111111-aaaa"', '"uid": "11111111-bbbb"'),
        ('"path": "weights.safetensors"', '"path": "../1-40/weights.safetensors"'),
        ('"path": "weights.safetensors"', '"path": "/etc/passwd"'),
        ('"step": 40', '"step": 41'),
        ('"kind": "CheckpointManifest"', '"kind": "OutputManifest"'),
    ],
)
def test_a_manifest_that_is_not_this_jobs_own_is_not_believed(
    output: LocalPlace, tmp_path: Path, of: str, to: str
) -> None:
    store = claimed(output)
    for step in (20, 40):
        publish(store, tmp_path, step)
    manifest = output.path / "checkpoints" / "11111111" / "1-40" / "manifest.json"
    content = manifest.read_text()
    assert of in content
    manifest.write_text(content.replace(of, to))
    found = claimed(output, 2).newest(tmp_path / "got")
    assert found is not None
    assert found.manifest.step == 20


def test_of_many_that_claim_at_once_the_newest_attempt_stays(output: LocalPlace) -> None:
    claim_at_once(output, 8)
