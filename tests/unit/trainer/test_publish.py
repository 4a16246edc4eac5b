"""Whose output it is, in every order in which jobs and attempts may meet."""

import hashlib
from pathlib import Path

import pytest

from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Evaluation, Plan, Resolved
from finetune_trainer import publish
from finetune_trainer.checkpoints import Fence
from finetune_trainer.errors import TrainerError
from finetune_trainer.output_manifest import MANIFEST, OutputManifest, Verification, find_published
from finetune_trainer.sources import ModelSource
from finetune_trainer.storage.local import LocalPlace
from support.jobs import spec


@pytest.fixture
def output(tmp_path: Path) -> LocalPlace:
    return LocalPlace("s3://b/out", tmp_path / "out", None, Reason.INTERNAL_ERROR)


def run(uid: str = "11111111-aaaa", attempt: int = 1) -> RunFile:
    job = {"namespace": "team", "name": "demo", "uid": uid}
    return RunFile.model_validate({"job": job, "attempt": attempt, "spec": spec()})


def manifest(given: RunFile, output: LocalPlace, folder: Path) -> OutputManifest:
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text("content")
    place = publish.attempt_place(output, given)
    files = publish.upload(folder, place)
    resolved = [Resolved(field="training.epochs", value="3", why="few rows")]
    facts = (resolved, Plan(rows=5), Evaluation(loss_before="2", loss_after="1"))
    base = ModelSource.of_folder(folder, "s3://models/base")
    return publish.make_manifest(
        given, base, place, files, facts, Verification(max_logit_difference=0, tolerance=1e-5)
    )


def test_report_of_a_published_output(output: LocalPlace, tmp_path: Path) -> None:
    given = run()
    assert find_published(output, given.job) is None
    report = publish.write_manifest(output, given, manifest(given, output, tmp_path / "f"))
    stored = output.read(MANIFEST) or b""
    assert report.output is not None
    assert report.output.uri == "s3://b/out/attempts/11111111-1"
    assert report.output.manifest == "s3://b/out/manifest.json"
    assert report.output.manifest_digest == f"sha256:{hashlib.sha256(stored).hexdigest()}"
    assert report.output.size_bytes == len("content")
    assert find_published(output, given.job) == report


def test_upload_that_arrives_twice_is_ours(output: LocalPlace, tmp_path: Path) -> None:
    given = run()
    mine = manifest(given, output, tmp_path / "f")
    output.put_new(MANIFEST, mine.to_bytes())
    assert publish.write_manifest(output, given, mine).outcome == "Complete"


@pytest.mark.parametrize(
    ("uid", "attempt", "reason", "words"),
    [
        ("22222222-bbbb", 1, Reason.OUTPUT_CONFLICT, "published by job team/demo (uid 22222222-bb"),
        ("11111111-aaaa", 2, Reason.FENCED, "another attempt of this job"),
    ],
)
def test_the_first_manifest_stays(
    output: LocalPlace, tmp_path: Path, uid: str, attempt: int, reason: Reason, words: str
) -> None:
    mine = manifest(run(), output, tmp_path / "f")
    theirs = run(uid, attempt)
    publish.write_manifest(output, theirs, manifest(theirs, output, tmp_path / "f"))
    before = output.read(MANIFEST)
    with pytest.raises(TrainerError) as caught:
        publish.write_manifest(output, run(), mine)
    assert caught.value.reason is reason
    assert words in caught.value.message
    assert output.read(MANIFEST) == before


def test_a_foreign_manifest_is_never_overwritten(output: LocalPlace) -> None:
    output.put_new(MANIFEST, b'{"name": "web app"}')
    with pytest.raises(TrainerError, match="is not a manifest of this version") as caught:
        find_published(output, run().job)
    assert caught.value.reason is Reason.OUTPUT_CONFLICT


def test_a_newer_attempt_keeps_an_older_one_from_publishing(
    output: LocalPlace, tmp_path: Path
) -> None:
    older, newer = run(attempt=1), run(attempt=2)
    fence = Fence(output, older)
    fence.take()
    mine = manifest(older, output, tmp_path / "f")
    Fence(output, newer).take()
    for held in (fence, None):
        with pytest.raises(TrainerError, match="attempt 2 holds it") as caught:
            publish.write_manifest(output, older, mine, held)
        assert caught.value.reason is Reason.FENCED
    assert output.read(MANIFEST) is None


def test_files_of_earlier_attempts_go_once_a_later_one_is_published(
    output: LocalPlace, tmp_path: Path
) -> None:
    manifest(run(attempt=1), output, tmp_path / "f")
    manifest(run("22222222-bbbb"), output, tmp_path / "f")
    third = run(attempt=3)
    publish.write_manifest(output, third, manifest(third, output, tmp_path / "f"))
    names = [file.name for file in output.files()]
    assert names == ["attempts/11111111-3/a.txt", "attempts/22222222-1/a.txt", "manifest.json"]
