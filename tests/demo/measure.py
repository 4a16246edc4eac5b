"""Figures of one job's life, taken from the API server's audit log and the trainer's records.

Used for the closing summary: how soon the Job existed, how soon the first step was done, what the
operator cost.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.records import ProgressRecord, parse_record
from support.stack import Stack

ADMIN = "admin"


@dataclass(frozen=True)
class Figures:
    """Seconds are counted from the moment the API server had taken the FineTuneJob."""

    seconds_to_job: float | None
    seconds_to_first_step: float | None
    seconds_of_training: float | None
    operator_memory_bytes: int
    operator_writes: dict[str, int]

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Label and value of each figure."""
        writes = ", ".join(f"{count} {what}" for what, count in self.operator_writes.items())
        return [
            ("applied → Job exists", seconds(self.seconds_to_job)),
            ("applied → first training step", seconds(self.seconds_to_first_step)),
            ("first → last training step", seconds(self.seconds_of_training)),
            ("operator, peak memory", f"{self.operator_memory_bytes / 2**20:.0f} MiB"),
            ("operator, API writes", f"{sum(self.operator_writes.values())} ({writes})"),
        ]


def seconds(value: float | None) -> str:
    """A span for people."""
    return "?" if value is None else f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def figures(stack: Stack, name: str, log: Iterable[str]) -> Figures:
    """Takes the figures of a finished job.

    Args:
        stack: The installation, with its operator still running.
        name: The job's name.
        log: Lines of the trainer's log.
    """
    audit = stack.cluster.audit
    operator = stack.account.user if stack.account else ""
    applied = first_write(audit.events(ADMIN), "finetunejobs", name)
    created = first_write(audit.events(operator), "jobs", f"{name}-1")
    steps = step_times(log)
    writes = Counter(
        f"{each.resource} {each.subresource}".strip() for each in stack.operator_writes()
    )
    return Figures(
        seconds_to_job=between(applied, created),
        seconds_to_first_step=between(applied, steps[0] if steps else None),
        seconds_of_training=between(steps[0], steps[-1]) if steps else None,
        operator_memory_bytes=stack.operator_memory(),
        operator_writes=dict(writes),
    )


def first_write(events: Iterable[dict[str, Any]], resource: str, name: str) -> datetime | None:
    """When the API server had first taken a write of an object (audit log, microseconds)."""
    for event in events:
        target = event.get("objectRef", {})
        wanted = (target.get("resource"), target.get("name")) == (resource, name)
        if (
            wanted
            and event["verb"] in ("create", "patch")
            and event["responseStatus"]["code"] < 300
        ):
            return datetime.fromisoformat(event["stageTimestamp"])
    return None


def step_times(log: Iterable[str]) -> list[datetime]:
    """When the trainer reported steps, oldest first."""
    records = (parse_record(line.strip()) for line in log)
    progress = [each.progress for each in records if isinstance(each, ProgressRecord)]
    times = [each.update_time for each in progress if each.step and each.phase == "Training"]
    return [datetime.fromisoformat(each) for each in times if each]


def between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds from one time to another, where both are known."""
    return (end - start).total_seconds() if start and end else None
