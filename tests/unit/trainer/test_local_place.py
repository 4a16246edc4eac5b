from pathlib import Path

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.environment import Environment
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Place, Storage


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


def open_place(uri: str, volume: Path) -> Place:
    variables = {"FINETUNE_VOLUME_TEAM_DATA": str(volume)}
    environment = Environment(volume.parent, None, None, None, variables)
    return Storage(None, environment).place(uri, Reason.DATA_NOT_FOUND)


def test_folder_and_file(volume: Path) -> None:
    (volume / "d" / "sub").mkdir(parents=True)
    (volume / "d" / "b.jsonl").write_text("bb")
    (volume / "d" / "sub" / "a.jsonl").write_text("a")
    folder = open_place("pvc://team-data/d", volume)
    assert [(f.name, f.size) for f in folder.files()] == [("b.jsonl", 2), ("sub/a.jsonl", 1)]
    one = open_place("pvc://team-data/d/b.jsonl", volume)
    root = one.fetch(one.files(), volume / "unused")
    assert (root / one.files()[0].name).read_text() == "bb"


def test_absent(volume: Path) -> None:
    with pytest.raises(TrainerError, match="no such file") as caught:
        open_place("pvc://team-data/none", volume).files()
    assert caught.value.reason is Reason.DATA_NOT_FOUND


def test_claim_that_is_not_mounted(volume: Path) -> None:
    with pytest.raises(TrainerError, match="claim other is not mounted") as caught:
        open_place("pvc://other/x", volume)
    assert caught.value.reason is Reason.INVALID_SPEC


@pytest.mark.parametrize("kind", ["file", "folder", "file in folder"])
def test_links_out_of_the_volume_are_refused(volume: Path, kind: str) -> None:
    secret = volume.parent / "secret"
    secret.mkdir()
    (secret / "key.jsonl").write_text("secret")
    target = {"file": "x.jsonl", "folder": "x", "file in folder": "x/key.jsonl"}[kind]
    (volume / target).parent.mkdir(exist_ok=True)
    (volume / target).symlink_to(secret if kind == "folder" else secret / "key.jsonl")
    uri = "pvc://team-data/x.jsonl" if kind == "file" else "pvc://team-data/x"
    with pytest.raises(TrainerError, match="leads out of the volume") as caught:
        open_place(uri, volume).files()
    assert caught.value.reason is Reason.INVALID_SPEC


def test_put_new_has_one_winner(volume: Path) -> None:
    place = open_place("pvc://team-data/out", volume)
    assert place.put_new("manifest.json", b"first")
    assert not place.put_new("manifest.json", b"second")
    assert place.read("manifest.json") == b"first"
    assert [file.name for file in place.files()] == ["manifest.json"]


def test_put_read_delete(volume: Path) -> None:
    place = open_place("pvc://team-data/out", volume)
    source = volume / "source"
    source.write_bytes(b"content")
    below = place.below("attempts/1")
    below.put(source, "a/b.txt")
    assert below.read("a/b.txt") == b"content"
    assert below.uri == "pvc://team-data/out/attempts/1"
    below.delete("a/b.txt")
    below.delete("a/b.txt")
    assert below.read("a/b.txt") is None
