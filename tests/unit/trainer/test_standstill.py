"""What is kept of a process that does no step: where its threads stand, and not too often."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import standstill
from finetune_trainer.environment import Environment
from finetune_trainer.standstill import Standstill, name
from finetune_trainer.storage import Place, Storage
from support.checkpoints import run

SHORTEST = 0.2
RUN = run(attempt=3)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standstill, "SHORTEST", SHORTEST)


def wait_in_a_collective(moment: threading.Event) -> None:
    moment.wait(10)


def place(folder: Path) -> Place:
    variables = {"FINETUNE_VOLUME_V": str(folder)}
    environment = Environment(folder, None, None, None, variables)
    return Storage(None, environment).place("pvc://v/output", Reason.INTERNAL_ERROR)


def kept(folder: Path) -> Path:
    return folder / "output" / name(RUN, 0)


def watched(folder: Path, clock: Callable[[], float] = time.monotonic) -> Standstill:
    return Standstill(RUN, place(folder), folder, clock)


def test_a_process_that_stands_still_says_where(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    moment = threading.Event()
    stuck = threading.Thread(target=wait_in_a_collective, args=(moment,))
    stuck.start()
    watch = watched(tmp_path)
    with watch.watching():
        for _ in range(3):
            watch.step_done()
        time.sleep(2 * SHORTEST)
        told = kept(tmp_path).read_text()
        # Once is enough.
        kept(tmp_path).unlink()
        time.sleep(2 * SHORTEST)
        assert not kept(tmp_path).exists()
    moment.set()
    stuck.join()
    assert "after 3 in this attempt" in told
    assert "in wait_in_a_collective" in told
    assert "in test_a_process_that_stands_still_says_where" in told
    assert "wait_in_a_collective" in capfd.readouterr().err


def test_nothing_is_kept_of_a_process_that_does_steps(tmp_path: Path) -> None:
    watch = watched(tmp_path)
    with watch.watching():
        for _ in range(20):
            time.sleep(SHORTEST / 10)
            watch.step_done()
    time.sleep(2 * SHORTEST)
    assert not kept(tmp_path).exists()


def test_what_has_no_usual_time_may_take_longer(tmp_path: Path) -> None:
    now = 0.0
    watch = watched(tmp_path, lambda: now)
    assert watch.allowed() == pytest.approx(6 * SHORTEST)
    for _ in range(4):
        now += 0.5
        watch.step_done()
    assert watch.allowed() == pytest.approx(10 * 0.5)
    with watch.unhurried():
        assert watch.allowed() == pytest.approx(6 * SHORTEST)
        now += 100
    # An evaluation is no part of a step's usual time.
    now += 0.5
    watch.step_done()
    assert watch.allowed() == pytest.approx(10 * 0.5)
