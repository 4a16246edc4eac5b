"""A job of two processes that lost one goes on as if it had not, also with another number of them.

Two forked processes over gloo, as the two pods of a job with two nodes; one of them kills itself, and
the other is killed as the operator would do it.
"""

import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.records import ExitCode, ProgressRecord, parse_report
from finetune_trainer import recipes, standstill, zero
from invariant.test_resume import Act, Attempt, job, kill_at, places, to
from support.jobs import ABSENT
from support.tiny_models import pairs, tiny_model, write_jsonl

# The other one may have noticed, and ended by itself, before it was killed.
KILLED = ([-signal.SIGKILL, -signal.SIGKILL], [-signal.SIGKILL, ExitCode.TEMPORARY])
FULL = {"tuning": {"type": "Full"}, "tuning.lora": ABSENT, "training.learningRate": 1e-3}
# No evaluation after the first is an improvement: it stops at step 12 with the weights of step 4.
STOPPING = {
    "training.evaluateEverySteps": 4,
    "training.earlyStopping": {"patience": 2, "threshold": 10},
}
CASES: dict[str, dict[str, Any]] = {
    "DDP": {},
    "FSDP": STOPPING,
    "ZeRO1": {},
    "ZeRO2": FULL,
    "ZeRO3": {**FULL, **STOPPING},
}
PLAIN = {"tuning.lora": {"rank": 4}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "policy", hidden=32, layers=1, positions=128)
    write_jsonl(folder / "pairs.jsonl", pairs(34))
    recipes.load("SFT", "text-generation")
    # Once, and not in every process that is forked.
    zero.without_compiler()
    return folder


def spread(models: Path, strategy: str, **changes: Any) -> dict[str, Any]:
    """A job of two processes without GPUs; 31 rows, so that a pass ends with an uneven step."""
    two = {"resources": {"nodes": 2, "gpusPerNode": 0}, "distributed.strategy": strategy}
    return job(models, "pairs", 14, **changes) | two


def together(attempt: Attempt, act: Act | None = None) -> list[int]:
    """Runs both processes; when the first is gone, so is the second. Exit statuses by rank."""
    port = _free_port()
    children = [_start(attempt, rank, port, act) for rank in range(2)]
    first = os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
    if first:
        os.kill(children[1], signal.SIGKILL)
    return [first, os.waitstatus_to_exitcode(os.waitpid(children[1], 0)[1])]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _start(attempt: Attempt, rank: int, port: int, act: Act | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0"}
    os.environ.update(address, RANK=str(rank), WORLD_SIZE="2")
    if rank:
        # Its own disk; the output is the same.
        attempt = replace(attempt, folder=attempt.folder / "other")
        attempt.folder.mkdir(exist_ok=True)
    attempt._in_child(None if rank else act)
    os._exit(99)


@pytest.fixture(scope="module")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Attempt:
    """The run of one process that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    whole = Attempt(folder, to(folder, job(models, "pairs", 14) | PLAIN))
    assert whole.run()[0] == 0
    return whole


@pytest.mark.parametrize("strategy", CASES)
def test_two_processes_go_on_to_the_bit(strategy: str, models: Path, tmp_path: Path) -> None:
    changes = spread(models, strategy) | CASES[strategy]
    whole_folder, folder = places(tmp_path)
    whole = Attempt(whole_folder, to(whole_folder, changes))
    assert together(whole) == [0, 0]
    killed = Attempt(folder, to(folder, changes))
    assert together(killed, kill_at(10, folder)) in KILLED
    again = replace(killed, number=2)
    assert together(again) == [0, 0]
    assert (again.weights(), again.log()) == (whole.weights(), whole.log())
    assert len(whole.losses()) == (12 if "training.earlyStopping" in changes else 14)


def goes_on(again: Attempt, undisturbed: Attempt, exits: object) -> None:
    """Sees that an attempt took up the run after step 9, and learned what was to be learned."""
    assert exits in (0, [0, 0])
    report = parse_report((again.folder / "termination-log").read_text())
    assert report is not None
    assert report.resumed is not None
    assert report.resumed.step == 9
    assert again.losses() == pytest.approx(undisturbed.losses(), rel=1e-4)


@pytest.mark.parametrize("strategy", ["FSDP", "ZeRO2"])
def test_one_process_goes_on_where_two_were(
    strategy: str, models: Path, undisturbed: Attempt, tmp_path: Path
) -> None:
    killed = Attempt(tmp_path, to(tmp_path, spread(models, strategy) | PLAIN))
    assert together(killed, kill_at(10, tmp_path)) in KILLED
    again = Attempt(tmp_path, to(tmp_path, job(models, "pairs", 14) | PLAIN), number=2)
    goes_on(again, undisturbed, again.run()[0])


def test_two_processes_go_on_where_one_was(
    models: Path, undisturbed: Attempt, tmp_path: Path
) -> None:
    killed = Attempt(tmp_path, to(tmp_path, job(models, "pairs", 14) | PLAIN))
    assert killed.run(kill_at(10, tmp_path))[0] == -signal.SIGKILL
    again = Attempt(tmp_path, to(tmp_path, spread(models, "ZeRO3") | PLAIN), number=2)
    goes_on(again, undisturbed, together(again))


def test_where_the_other_waits_is_kept_when_one_is_frozen(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator ends them as a hang, after twice the time; see `plan/hang.py`."""
    monkeypatch.setattr(standstill, "SHORTEST", 1.0)
    attempt, port = Attempt(tmp_path, to(tmp_path, spread(models, "DDP"))), _free_port()
    frozen = _start(attempt, 1, port, None)

    def freeze(record: ProgressRecord) -> None:
        if record.progress.step == 4:
            os.kill(frozen, signal.SIGSTOP)

    waiting = _start(attempt, 0, port, freeze)
    kept = [tmp_path / "out" / standstill.name(attempt.run_file(), rank) for rank in (0, 1)]
    try:
        deadline = time.monotonic() + 60
        while not kept[0].exists():
            assert time.monotonic() < deadline, "nothing was written down"
            time.sleep(0.1)
    finally:
        for pid in (waiting, frozen):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    told = kept[0].read_text()
    assert "process 0 has done no step for" in told
    # What waits for the other is in the deepest frames; the frozen one says nothing.
    assert "finetune_trainer/processes.py" in told or "backward" in told
    assert not kept[1].exists()
