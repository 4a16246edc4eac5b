"""What checkpoints cost: seconds that training waits, bytes, and the way back after a kill.

    make bench-checkpoints ARGS="--every 4 --steps 10"

Runs the trainer as a pod does, with the job of `examples/01-kubectl-assistant` (SmolLM2-135M-Instruct,
LoRA of rank 16, 8 rows a step) and a real S3 server on this machine. The first attempt saves every few
steps and is killed (SIGKILL); the second goes on from the newest checkpoint. A wait is that of the
trainer's log, a step the time between two progress records without a save in between; the share is that
of a save every 20 steps, as they would be in the demo. Prints the figures and writes them to
`benchmarks/results/checkpoints.json`. Kubernetes has no part in it: see `chaos.json` for its share.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from devcluster import S3Server, binaries
from finetune_api.records import ProgressRecord, parse_record
from support.definition import ROOT

RESULTS = ROOT / "benchmarks/results/checkpoints.json"
EXAMPLE = ROOT / "examples/01-kubectl-assistant"
BUCKET = "finetune-demo"
EVERY_IN_DEMO = 20
SAVED = re.compile(r"saved step (\d+); training waited ([0-9.]+) s")
SECONDS = 600


@dataclass
class Course:
    """What one attempt told.

    Attributes:
        began: When its process was started.
        steps: When each step was told of.
        waits: Seconds for each save.
        newest: The newest record.
    """

    began: float
    steps: dict[int, float] = field(default_factory=dict)
    waits: dict[int, float] = field(default_factory=dict)
    newest: ProgressRecord | None = None

    def step_seconds(self) -> list[float]:
        """Of steps without a save before them."""
        pairs = ((step, self.steps.get(step - 1)) for step in self.steps)
        return [
            self.steps[step] - before for step, before in pairs
            if before is not None and step - 1 not in self.waits
        ]  # fmt: skip


class Bench:
    """One job on one store.

    Args:
        folder: For everything.
        store: A running S3 server.
        every: Steps between saves.
    """

    def __init__(self, folder: Path, store: S3Server, every: int) -> None:
        self._folder, self._store = folder, store
        spec = YAML(typ="safe").load(EXAMPLE / "job.yaml")["spec"]
        # Without held-out rows: they are measured before the first step, and are no part of this.
        del spec["data"]["evaluation"]
        spec["checkpoints"] = {"everySteps": every}
        spec["storage"] = {"endpoint": store.endpoint, "credentials": {"secretName": "s3"}}
        self._spec = spec
        self._upload()

    def _upload(self) -> None:
        kubectl = str(binaries.find_all()["kubectl"])
        script = [sys.executable, "-P", str(EXAMPLE / "prepare.py"), "--kubectl", kubectl]
        flags = ["--data", str(self._folder / "data"), "--bucket", BUCKET]
        keys = self._store.env()
        subprocess.run(
            [*script, *flags, "--endpoint", self._store.endpoint],
            check=True, env={**os.environ, **keys},
        )  # fmt: skip

    @contextmanager
    def attempt(self, number: int) -> Iterator[tuple[Course, Iterator[None]]]:
        """A running attempt; what it told so far, and an iterator that waits for the next record."""
        course = Course(time.monotonic())
        errors = (self._folder / f"errors-{number}").open("w+")
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "finetune_trainer", "run", str(self._run_file(number))],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=self._environment(number),
        )  # fmt: skip
        try:
            yield course, _read(process, course)
        finally:
            process.kill()
            process.wait()
            errors.seek(0)
            course.waits |= {int(step): float(wait) for step, wait in SAVED.findall(errors.read())}
            errors.close()

    def _run_file(self, number: int) -> Path:
        job = {"namespace": "bench", "name": "checkpoints", "uid": "11111111-2222"}
        content = {"kind": "RunFile", "job": job, "spec": self._spec, "attempt": number}
        path = self._folder / f"run-{number}.json"
        path.write_text(json.dumps({**content, "progressIntervalSeconds": 0.001}))
        return path

    def _environment(self, number: int) -> dict[str, str]:
        secret, keys = self._folder / "credentials", self._store.tenant
        secret.mkdir(exist_ok=True)
        (secret / "AWS_ACCESS_KEY_ID").write_text(keys.access)
        (secret / "AWS_SECRET_ACCESS_KEY").write_text(keys.secret)
        return {
            **os.environ,
            "FINETUNE_STORAGE_CREDENTIALS": str(secret),
            "FINETUNE_SCRATCH": str(self._folder / f"scratch-{number}"),
            "FINETUNE_TERMINATION_LOG": str(self._folder / "termination-log"),
        }


def _read(process: subprocess.Popen[str], course: Course) -> Iterator[None]:
    for line in process.stdout or ():
        record = parse_record(line)
        if isinstance(record, ProgressRecord):
            course.newest = record
            if record.progress.step:
                course.steps.setdefault(record.progress.step, time.monotonic())
            yield
    raise SystemExit(f"the trainer ended ({process.wait()}) before it was killed")


def measure(bench: Bench, steps: int) -> dict[str, Any]:
    """Both attempts.

    Args:
        bench: The job.
        steps: That the first attempt does at least; it goes on until a checkpoint is published.
    """
    with bench.attempt(1) as (first, records):
        for _ in records:
            if len(first.steps) >= steps and first.newest and first.newest.checkpoint:
                break
    checkpoint = _told(first).checkpoint
    with bench.attempt(2) as (second, records):
        for _ in records:
            if _told(second).resumed and second.steps:
                break
    resumed = _told(second).resumed
    if checkpoint is None or resumed is None:
        raise SystemExit("no checkpoint was published, or none was gone on from")
    step, wait = statistics.median(first.step_seconds()), statistics.median(first.waits.values())
    return {
        "step, s": spread(first.step_seconds()),
        "training waits for a save, s": spread(list(first.waits.values())),
        f"share with a save every {EVERY_IN_DEMO} steps": round(wait / (EVERY_IN_DEMO * step), 5),
        "bytes of a checkpoint": checkpoint.size_bytes,
        "until it was published, s": float(checkpoint.save_seconds or "nan"),
        "from the start of the first attempt to its first step, s": _first(first),
        "from the start of the second attempt to its first step, s": _first(second),
        "steps done again": max(first.steps) - resumed.step,
    }


def _told(course: Course) -> ProgressRecord:
    if course.newest is None:
        raise SystemExit("the trainer told nothing")
    return course.newest


def _first(course: Course) -> float:
    return round(min(course.steps.values()) - course.began, 1)


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()} | {"of": len(values)}


def main() -> None:
    """Run, print, and keep the result with its hardware."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="steps before the kill")
    parser.add_argument("--every", type=int, default=4, help="steps between saves")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = S3Server(folder / "s3", (BUCKET,))
        store.start()
        try:
            store.wait_ready()
            found = measure(Bench(folder, store, given.every), given.steps)
        finally:
            store.stop()
    machine = {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load average": round(os.getloadavg()[1], 1),
    }
    result = {"date": datetime.now(UTC).date().isoformat(), **machine, "gpu": "none", **found}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
