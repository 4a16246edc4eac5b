"""Publishing beside training: what waits, what is tried again, and what ends the run."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import CheckpointStatus
from finetune_trainer.checkpoints import BackgroundPublisher, background
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage.local import LocalPlace
from support.checkpoints import about, checkpoint, claimed

AWAY = TrainerError(Reason.STORAGE_UNAVAILABLE, "the store is away")


class Moody:
    """Lets some uploads of a real place wait, and some fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        self.failures = 0
        put = LocalPlace.put

        def moody(place: LocalPlace, source: Path, name: str) -> None:
            self.open.wait(20)
            if self.failures:
                self.failures -= 1
                raise AWAY
            put(place, source, name)

        monkeypatch.setattr(LocalPlace, "put", moody)
        monkeypatch.setattr(background, "_PAUSE_SECONDS", 0.05)


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> Moody:
    return Moody(monkeypatch)


@pytest.fixture
def output(tmp_path: Path) -> LocalPlace:
    return LocalPlace("pvc://c/out", tmp_path / "out", None, Reason.INTERNAL_ERROR)


def submit(publisher: BackgroundPublisher, tmp_path: Path, step: int) -> Path:
    folder = checkpoint(tmp_path / f"made-{step}", step)
    publisher.submit(folder, step, about())
    return folder


def steps(output: LocalPlace) -> list[str]:
    return sorted(path.parent.name for path in output.path.rglob("manifest.json"))


def test_training_never_waits_and_the_newest_one_wins(
    output: LocalPlace, tmp_path: Path, moody: Moody
) -> None:
    told: list[CheckpointStatus] = []
    publisher = BackgroundPublisher(claimed(output), keep=3, published=told.append)
    moody.open.clear()
    begin = time.monotonic()
    folders = [submit(publisher, tmp_path, step) for step in (20, 40, 60)]
    assert time.monotonic() - begin < 5
    time.sleep(0.1)
    moody.open.set()
    newest = publisher.drain(20)
    assert newest is not None
    assert newest.step == 60
    assert float(newest.save_seconds or 0) >= 0.1, "it waited that long for the one before"
    assert [status.step for status in told][-1] == 60
    assert "1-60" in steps(output)
    assert len(steps(output)) <= 2, "one was in flight, one waited, the third took its place"
    assert not any(folder.exists() for folder in folders)
    publisher.close()


def test_a_failed_save_is_told_and_the_next_one_is_published(
    output: LocalPlace, tmp_path: Path, moody: Moody
) -> None:
    failures: list[TrainerError] = []
    publisher = BackgroundPublisher(claimed(output), failed=failures.append)
    moody.failures = 1
    first = submit(publisher, tmp_path, 20)
    wait_until(lambda: failures and publisher.idle)
    assert failures[0].reason is Reason.STORAGE_UNAVAILABLE
    assert first.exists(), "it may be the last one"
    submit(publisher, tmp_path, 40)
    newest = publisher.drain(20)
    assert newest is not None
    assert newest.step == 40
    assert not first.exists()
    assert steps(output) == ["1-40"]
    publisher.close()


def test_drain_tries_the_last_one_until_the_store_is_back(
    output: LocalPlace, tmp_path: Path, moody: Moody
) -> None:
    publisher = BackgroundPublisher(claimed(output))
    moody.failures = 3
    submit(publisher, tmp_path, 20)
    newest = publisher.drain(20)
    assert newest is not None
    assert newest.step == 20
    publisher.close()


def test_drain_gives_up_in_time_and_says_why(
    output: LocalPlace, tmp_path: Path, moody: Moody
) -> None:
    publisher = BackgroundPublisher(claimed(output))
    moody.failures = 1_000_000
    submit(publisher, tmp_path, 20)
    begin = time.monotonic()
    with pytest.raises(TrainerError, match="the store is away"):
        publisher.drain(0.3)
    assert time.monotonic() - begin < 5
    publisher.close()


def test_drain_does_not_wait_for_a_store_that_hangs(
    output: LocalPlace, tmp_path: Path, moody: Moody
) -> None:
    publisher = BackgroundPublisher(claimed(output))
    moody.open.clear()
    submit(publisher, tmp_path, 20)
    with pytest.raises(TrainerError, match="still being uploaded"):
        publisher.drain(0.2)
    assert steps(output) == []
    moody.open.set()
    publisher.close()


def test_a_lost_fence_ends_the_run(output: LocalPlace, tmp_path: Path, moody: Moody) -> None:
    publisher = BackgroundPublisher(claimed(output, 1))
    claimed(output, 2)
    submit(publisher, tmp_path, 20)
    wait_until(lambda: publisher.idle)
    for action in (lambda: submit(publisher, tmp_path, 40), lambda: publisher.drain(1)):
        with pytest.raises(TrainerError) as caught:
            action()
        assert caught.value.reason is Reason.FENCED
    assert steps(output) == []
    assert [file.name for file in output.listing()] == ["checkpoints/11111111/latest.json"]
    publisher.close()


def test_old_ones_are_removed(output: LocalPlace, tmp_path: Path) -> None:
    publisher = BackgroundPublisher(claimed(output), keep=2)
    for step in (20, 40, 60):
        submit(publisher, tmp_path, step)
        publisher.drain(20)
    publisher.close(20)
    assert steps(output) == ["1-40", "1-60"]


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)
