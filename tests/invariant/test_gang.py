"""`finetune-trainer run` above two processes: one that dies ends both, and a signal reaches both, once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from finetune_api.records import Report, parse_report
from support.jobs import manifest
from support.tiny_models import pairs, tiny_llama, write_jsonl


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job without end on two processes."""
    root = tmp_path_factory.mktemp("gang")
    tiny_llama(root / "model")
    write_jsonl(root / "rows.jsonl", pairs(32))
    changes = {
        "model.source": f"file://{root}/model",
        "data.train": [{"source": f"file://{root}/rows.jsonl"}],
        "output.uri": f"file://{root}/out",
        "training.maxSteps": 1_000_000,
        "resources.gpusPerNode": 2,
    }
    YAML().dump(manifest("endless", changes), root / "endless.yaml")
    return root


@contextmanager
def training(root: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """The launcher and the pids of its processes, once they have done a step."""
    variables = {
        **os.environ,
        "FINETUNE_SCRATCH": str(root / "scratch"),
        "FINETUNE_TERMINATION_LOG": str(root / "log"),
    }
    command = [sys.executable, "-P", "-m", "finetune_trainer", "run", str(root / "endless.yaml")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables)
    try:
        assert run.stdout
        for line in run.stdout:
            if '"progress":{' in line and json.loads(line)["progress"]["step"] > 0:
                break
        found = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        yield run, [int(pid) for pid in found]
    finally:
        run.kill()
        run.wait()


def ending(root: Path, run: subprocess.Popen[str], pids: list[int]) -> Report:
    """The report, once all have ended."""
    run.communicate(timeout=60)
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.05)
    report = parse_report((root / "log").read_text())
    assert report is not None
    assert run.returncode == report.exit_code
    return report


def test_one_that_dies_ends_the_gang(endless: Path) -> None:
    with training(endless) as (run, pids):
        assert len(pids) == 2
        os.kill(pids[1], signal.SIGKILL)
        report = ending(endless, run, pids)
    assert (report.outcome, report.reason, report.exit_code) == ("Failed", "PodLost", 75)
    assert "killed by SIGKILL" in report.message


def test_a_signal_reaches_all_and_is_told(endless: Path) -> None:
    with training(endless) as (run, pids):
        run.send_signal(signal.SIGTERM)
        report = ending(endless, run, pids)
    assert (report.outcome, report.reason, report.exit_code) == ("Failed", "Preempted", 143)
