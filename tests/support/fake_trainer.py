"""A stand-in for the trainer, for operator tests of faults only: it speaks the contract and trains nothing.

A process node runs it in place of the trainer's image. What it does is the last part of the
job's `output.uri`, such as `s3://models/crashes`; a number after a dash is its pace in seconds, and
words with dots between them are for one attempt after the other, such as `killed.publishes-0.1`. What
its preflight does is the last part of the first data source likewise, and is to pass if that is no
such word. Its checkpoints are a number in a file of this machine.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from finetune_api.records import ProgressRecord, Report, ResolvedRecord
from finetune_api.run_file import TERMINATION_LOG, RunFile
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import (
    CheckpointStatus,
    Evaluation,
    OutputStatus,
    Plan,
    Progress,
    Resolved,
)

STEPS = 4


def progress(step: int) -> Progress:
    return Progress(
        phase="Training", step=step, total_steps=STEPS, percent=100 * step // STEPS,
        loss=f"{4 - step / 2:.3f}", eta="1s", eta_seconds=1,
    )  # fmt: skip


def train(pace: float) -> None:
    resolved = [Resolved(field="training.batchSize", value="8", why="fits")]
    print(ResolvedRecord(resolved=resolved, plan=Plan(rows=12)).to_line(), flush=True)
    for step in range(1, STEPS + 1):
        print(f"step {step} of {STEPS}", flush=True)
        print(ProgressRecord(progress=progress(step)).to_line(), flush=True)
        time.sleep(pace)


def report(outcome: Report) -> int:
    Path(os.environ[TERMINATION_LOG]).write_text(outcome.to_message())
    return int(outcome.exit_code)


def failed(reason: Reason, message: str) -> int:
    return report(Report(outcome="Failed", reason=reason, message=message, hint="do otherwise"))


def publishes(pace: float) -> int:
    train(pace)
    return published()


def published(
    checkpoint: CheckpointStatus | None = None, resumed: CheckpointStatus | None = None
) -> int:
    uri = "s3://models/output"
    output = OutputStatus(
        uri=uri, manifest=f"{uri}/manifest.json", manifest_digest="sha256:0", size_bytes=3
    )
    return report(
        Report(
            outcome="Complete", reason=Reason.OUTPUT_PUBLISHED, message=f"published {uri}",
            progress=progress(STEPS), output=output,
            evaluation=Evaluation(loss_before="4.0", loss_after="2.0"), plan=Plan(rows=12),
            checkpoint=checkpoint, resumed=resumed,
        )
    )  # fmt: skip


def passes(pace: float) -> int:
    print(ProgressRecord(progress=Progress(phase="PreparingData")).to_line(), flush=True)
    time.sleep(pace)
    resolved = [Resolved(field="data.format", value="Text", why="a column")]
    return report(
        Report(
            outcome="Complete", reason=Reason.PREFLIGHT_PASSED, message="12 rows are good",
            plan=Plan(rows=12, longest_row=9), resolved=resolved,
        )
    )  # fmt: skip


def refuses(pace: float) -> int:
    print("looking for data", flush=True)
    time.sleep(pace)
    return failed(Reason.DATA_NOT_FOUND, "s3://datasets/train.jsonl does not exist")


def crashes(pace: float) -> int:
    train(pace)
    raise ZeroDivisionError("a defect")


def ends_silently(pace: float) -> int:
    time.sleep(pace)
    return 0


def is_killed(pace: float) -> int:
    train(pace)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def loses_one(pace: float) -> int:
    """The second pod of several is killed; the others train on until they are told to stop."""
    if os.environ["JOB_COMPLETION_INDEX"] == "1":
        return is_killed(pace)
    return hangs(pace)


def hangs(_pace: float) -> int:
    print(ProgressRecord(progress=progress(1)).to_line(), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(failed(Reason.PREEMPTED, "told to stop")))
    time.sleep(3600)
    return 0


def lacks_its_store(pace: float) -> int:
    train(pace)
    return failed(Reason.STORAGE_UNAVAILABLE, "the store does not answer")


def is_preempted(pace: float) -> int:
    train(pace)
    return failed(Reason.PREEMPTED, "told to stop")


class ToldToStopError(Exception):
    """Stands for SIGTERM."""


class Checkpoints:
    """The newest step of a job, kept beyond its pods."""

    def __init__(self, run: RunFile) -> None:
        self._file = Path("/tmp") / f"fake-trainer-{run.job.uid}"
        self._uri = f"{run.spec.output.uri}/checkpoints/{run.attempt}"

    def newest(self) -> CheckpointStatus | None:
        if not self._file.exists():
            return None
        step, _, uri = self._file.read_text().partition(" ")
        return CheckpointStatus(step=int(step), uri=uri, save_seconds="0.1")

    def save(self, step: int) -> CheckpointStatus:
        self._file.write_text(f"{step} {self._uri}-{step}")
        return CheckpointStatus(step=step, uri=f"{self._uri}-{step}", save_seconds="0.1")

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)


def resumes(run: RunFile, pace: float) -> int:
    """Trains from where the last attempt stopped; told to stop, it saves and says so."""

    def stop(*_: object) -> None:
        raise ToldToStopError

    signal.signal(signal.SIGTERM, stop)
    return goes_on(run, pace)


def is_deaf(run: RunFile, pace: float) -> int:
    """The same, but for what it is told."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return goes_on(run, pace)


def goes_on(run: RunFile, pace: float) -> int:
    kept = Checkpoints(run)
    began = saved = kept.newest()
    try:
        for step in range(began.step + 1 if began else 1, STEPS + 1):
            time.sleep(pace)
            saved = kept.save(step)
            record = ProgressRecord(progress=progress(step), checkpoint=saved, resumed=began)
            print(record.to_line(), flush=True)
    except ToldToStopError:
        return report(
            Report(
                outcome="Failed", reason=Reason.PREEMPTED, message="told to stop, and saved",
                checkpoint=saved, resumed=began,
            )
        )  # fmt: skip
    kept.remove()
    return published(saved, began)


def needs_much_memory(run: RunFile, pace: float) -> int:
    time.sleep(pace)
    if run.micro_batch_divisor < 2:
        return failed(Reason.OUT_OF_MEMORY, "the GPU is full")
    return publishes(pace)


def speaks_garbage(pace: float) -> int:
    print('{"record":"finetune.progress","progress":{"phase":"x","step":1' + "0" * 40 + "}}")
    print("\x1b[2J\x1b]0;title\x07\x1b[31mred\x1b[0m \u202egnp.exe", flush=True)
    time.sleep(pace)
    Path(os.environ[TERMINATION_LOG]).write_text('{"outcome":"Complete","reason":"Nonsense"}')
    return 1


BEHAVIOURS: dict[str, Callable[[float], int]] = {
    "passes": passes,
    "publishes": publishes,
    "refuses": refuses,
    "crashes": crashes,
    "silent": ends_silently,
    "killed": is_killed,
    "loses": loses_one,
    "hangs": hangs,
    "garbage": speaks_garbage,
    "unavailable": lacks_its_store,
    "preempted": is_preempted,
}
RUN_BEHAVIOURS: dict[str, Callable[[RunFile, float], int]] = {
    "resumes": resumes,
    "deaf": is_deaf,
    "large": needs_much_memory,
}


def reads_others(run: RunFile) -> None:
    """Says what the operator found out about the jobs that this one reads."""
    for name, uri in run.sources.items():
        print(f"{name} lies in {uri}", flush=True)


def main(arguments: list[str]) -> int:
    command, file = arguments
    run = RunFile.model_validate_json(Path(file).read_text())
    reads_others(run)
    uri = run.spec.output.uri if command == "run" else run.spec.data.train[0].source
    words, _, pace = uri.rpartition("/")[2].partition("-")
    turns = words.split(".")
    behaviour = turns[min(run.attempt, len(turns)) - 1]
    if behaviour in RUN_BEHAVIOURS:
        return RUN_BEHAVIOURS[behaviour](run, float(pace or "0.1"))
    otherwise = {"preflight": passes}
    return BEHAVIOURS.get(behaviour, otherwise.get(command, refuses))(float(pace or "0.1"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
