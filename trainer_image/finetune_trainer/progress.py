"""Telling where the run stands: records for the operator, or lines for people.

`__main__` makes one `Reporter`; `run` and the recipes tell it phases, steps and choices. Records go to
stdout at most every few seconds, but always at a new phase and at the last step.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TextIO

from finetune_api.records import ProgressRecord, ResolvedRecord
from finetune_api.v1alpha1.status import CheckpointStatus, Plan, Progress, Resolved
from finetune_trainer import processes

Figure = str | int | dict[str, str] | None

# The operator reads the tail of the log only, so what was resolved is told again.
RECORDS_BETWEEN_RESOLVED = 50


class Sink(Protocol):
    """Where records go."""

    def progress(self, record: ProgressRecord) -> None:
        """Show where the run stands."""

    def resolved(self, record: ResolvedRecord) -> None:
        """Show what was chosen."""


class MachineSink:
    """One JSON record a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def progress(self, record: ProgressRecord) -> None:
        """Print the record."""
        print(record.to_line(), file=self._stream, flush=True)

    def resolved(self, record: ResolvedRecord) -> None:
        """Print the record."""
        print(record.to_line(), file=self._stream, flush=True)


class NoSink:
    """Says nothing: what rank 0 says stands for all."""

    def progress(self, record: ProgressRecord) -> None:
        """Say nothing."""

    def resolved(self, record: ResolvedRecord) -> None:
        """Say nothing."""


class PeopleSink:
    """Lines for a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)
        self._shown: list[Resolved] = []

    def progress(self, record: ProgressRecord) -> None:
        """One line: the phase, and in training the figures."""
        progress = record.progress
        parts = [f"[bold]{progress.phase}[/bold]"]
        if progress.total_steps:
            parts.append(f"step {progress.step}/{progress.total_steps} ({progress.percent} %)")
        for label, value in (
            ("loss", progress.loss),
            ("held-out loss", progress.evaluation_loss),
            ("tokens/s", progress.tokens_per_second),
            ("left", progress.eta),
        ):
            if value:
                parts.append(f"{label} {value}")
        self._console.print("  ".join(parts))

    def resolved(self, record: ResolvedRecord) -> None:
        """What the data holds, and a table of what was chosen, unless it stands there already."""
        if record.plan:
            self._console.print("  ".join(f"{k}: {v}" for k, v in record.plan.to_dict().items()))
        if record.resolved == self._shown:
            return
        from rich.table import Table

        self._shown = record.resolved
        table = Table("field", "value", "why", title="Chosen for you")
        for choice in record.resolved:
            table.add_row(choice.field, choice.value, choice.why)
        self._console.print(table)


class Reporter:
    """Keeps the latest progress and passes it on, not too often.

    Attributes:
        latest: The latest progress, for the report at the end.
        checkpoint: The newest checkpoint that is published.
        begun_from: The checkpoint that this attempt began from.
    """

    def __init__(
        self, sink: Sink, interval: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sink = sink
        self._interval = interval
        self._clock = clock
        self._last_sent = float("-inf")
        self._sent = 0
        self._resolved: ResolvedRecord | None = None
        self.latest: Progress | None = None
        self.checkpoint: CheckpointStatus | None = None
        self.begun_from: CheckpointStatus | None = None

    def published(self, checkpoint: CheckpointStatus) -> None:
        """A checkpoint can be resumed from; told with the next record."""
        self.checkpoint = checkpoint

    def resumed(self, checkpoint: CheckpointStatus) -> None:
        """The run goes on from a checkpoint, which is also the newest."""
        self.checkpoint = self.begun_from = checkpoint

    def phase(self, name: str) -> None:
        """A new phase begins; told at once."""
        self._update(phase=name)
        self._send()

    def step(self, *, final: bool, **figures: Figure) -> None:
        """A step is done.

        Args:
            final: Whether it was the last one; told at once.
            figures: Fields of `Progress`, whatever is known.
        """
        self._update(**figures)
        if final or self._clock() - self._last_sent >= self._interval:
            self._send()

    def evaluated(self, loss: str) -> None:
        """The held-out loss was measured."""
        self._update(evaluation_loss=loss)

    def straggler(self, sentence: str | None) -> None:
        """A process is much slower than the others; None if that is over. Told at once."""
        self._update(straggler=sentence)
        self._send()

    def resolved(self, resolved: list[Resolved], plan: Plan) -> None:
        """What was chosen; told at once, and again from time to time."""
        self._resolved = ResolvedRecord(resolved=resolved, plan=plan)
        self._sink.resolved(self._resolved)

    def also_resolved(self, more: list[Resolved]) -> None:
        """What was chosen in the course of the run."""
        if self._resolved and more:
            self.resolved([*self._resolved.resolved, *more], self._resolved.plan or Plan())

    def _update(self, **figures: Figure) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        known = self.latest.model_dump() if self.latest else {}
        self.latest = Progress.model_validate({**known, **figures, "update_time": now})

    def _send(self) -> None:
        if self.latest is None:
            return
        record = ProgressRecord(
            progress=self.latest, checkpoint=self.checkpoint, resumed=self.begun_from
        )
        self._sink.progress(record)
        self._last_sent = self._clock()
        self._sent += 1
        if self._resolved and self._sent % RECORDS_BETWEEN_RESOLVED == 0:
            self._sink.resolved(self._resolved)


def choose_sink(*, for_people: bool, stream: TextIO) -> Sink:
    """Lines for people on a terminal, records anywhere else; nothing but from rank 0."""
    if not processes.is_main():
        return NoSink()
    return PeopleSink(stream) if for_people and stream.isatty() else MachineSink(stream)


def duration(seconds: int) -> str:
    """Seconds for people.

    >>> duration(250), duration(7260), duration(59)
    ('4m10s', '2h01m', '59s')
    """
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 60}m{seconds % 60:02d}s" if seconds >= 60 else f"{seconds}s"
