"""Fixtures of the trainer's tests: no hub, restored signal handlers, one tiny model, one real S3.

Imported by the `conftest.py` of `tests/unit/trainer` and of `tests/runs`.
"""

import io
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from devcluster.s3 import S3Server
from finetune_api.records import Report, parse_record, parse_report
from finetune_trainer.__main__ import run_file
from support.jobs import manifest
from support.tiny_models import tiny_llama

# Before anything imports transformers.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

BUCKET = "trainer"


@pytest.fixture(autouse=True)
def restored_signals() -> Iterator[None]:
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA; tests copy it before they change it."""
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS with one bucket and a tenant that may use nothing else."""
    server = S3Server(tmp_path_factory.mktemp("s3"), buckets=(BUCKET,))
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@dataclass(frozen=True)
class Outcome:
    """What a run in this process left behind."""

    report: Report
    records: list[Any]
    stdout: str

    @property
    def phases(self) -> list[str]:
        found = [r.progress.phase for r in self.records if r.record == "finetune.progress"]
        return [p for i, p in enumerate(found) if i == 0 or found[i - 1] != p]


@dataclass(frozen=True)
class Laptop:
    """Runs manifests in this process, as on a laptop."""

    folder: Path

    def manifest(self, changes: dict[str, Any], name: str = "demo") -> Path:
        path = self.folder / f"{name}.yaml"
        YAML().dump(manifest(name, changes), path)
        return path

    def run(self, changes: dict[str, Any], **variables: str) -> Outcome:
        return run_here(self.manifest(changes), self.folder, **variables)


@pytest.fixture(name="run_here")
def run_here_fixture() -> Callable[..., Outcome]:
    return run_here


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    return Laptop(tmp_path)


def run_here(file: Path, folder: Path, **variables: str) -> Outcome:
    """Runs FILE in this process and checks what must hold for every run."""
    log, stdout = folder / "termination-log", io.StringIO()
    environment = {
        "FINETUNE_TERMINATION_LOG": str(log),
        "FINETUNE_SCRATCH": str(folder / "scratch"),
        **variables,
    }
    report = run_file(file, environment, stdout)
    written = parse_report(log.read_text())
    assert written is not None
    assert (written.reason, written.outcome) == (report.reason, report.outcome)
    lines = stdout.getvalue().splitlines()
    records = [parse_record(line) for line in lines]
    assert None not in records, "stdout carries records only"
    return Outcome(report, records, stdout.getvalue())
