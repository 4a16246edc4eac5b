"""A job as text for people: the summary, its tables, and the one-line form for logs.

Pure: an object, what was seen so far and the time in, rich renderables out. Called by `__main__`
and `follow`. Everything can be read without colour.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from finetune_api.v1alpha1.meanings import MEANINGS
from kubectl_finetune import findings
from kubectl_finetune.figures import age, bar, size, span, sparkline
from kubectl_finetune.job import Block, Job, clean

STYLES = {"Complete": "bold green", "Failed": "bold red", "Running": "bold cyan"}
Row = tuple[str, RenderableType]


def summary(
    job: Job,
    now: datetime,
    losses: Sequence[float] = (),
    *,
    verbose: bool = False,
    ascii_only: bool = False,
) -> Group:
    """The whole status of a job.

    Args:
        job: The job.
        now: The present, for ages.
        losses: Training losses seen while watching, oldest first.
        verbose: Also show resolved values and what was found in the data.
        ascii_only: The terminal knows ASCII only.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in _rows(job, now, losses, ascii_only):
        grid.add_row(label, value)
    parts: list[RenderableType] = [grid]
    if job.conditions:
        parts += ["", _conditions(job, now)]
    if verbose:
        parts += [part for table in _details(job) for part in ("", table)]
    return Group(*parts)


def line(job: Job) -> str:
    """The job in one line, for logs and pipes: changes when there is news, and only then."""
    parts = [f"{job.name}: {job.state}"]
    if job.outcome is None:
        parts += [_phase(job), _loss(job)]
        parts += [f"ETA {eta}" if (eta := job.text("status.progress.eta")) else ""]
        parts += [_waiting(job)]
    parts += [_held_out(job), _failure(job)]
    return ", ".join(part for part in parts if part)


def listing(jobs: Sequence[Job], now: datetime, *, namespaces: bool = False) -> Table:
    """A table of jobs, newest first."""
    names = ["NAME", "METHOD", "TUNING", "STATE", "PROGRESS", "LOSS", "HELD OUT", "ETA", "AGE"]
    table = _table(["NAMESPACE", *names] if namespaces else names)
    for job in sorted(jobs, key=lambda each: str(each.text("metadata.creationTimestamp")))[::-1]:
        cells: list[RenderableType] = [Text(job.namespace)] if namespaces else []
        cells += [Text(text) for text in (job.name, *_kind(job))]
        cells += [_state(job), Text(_steps(job)), Text(job.text("status.progress.loss") or "")]
        eta = "" if job.outcome else job.text("status.progress.eta") or ""
        created = age(job.time("metadata.creationTimestamp"), now)
        table.add_row(*cells, Text(findings.change(job)), Text(eta), Text(created))
    return table


def _rows(job: Job, now: datetime, losses: Sequence[float], ascii_only: bool) -> Iterator[Row]:
    yield "Job", Text(f"{job.namespace}/{job.name}")
    yield "Method", Text(", ".join(_kind(job)))
    yield "Model", Text(job.text("spec.model.source") or "?")
    yield "State", _state(job)
    if job.outcome is None and (waiting := _waiting(job)):
        yield "", Text(waiting, "yellow")
    if found := findings.data(job):
        yield "Data", Text(found)
    yield from _progress(job, losses, ascii_only)
    for index, held_out in enumerate(_measured(job)):
        yield "" if index else "Held out", Text(held_out)
    for attempt in job.blocks("status.attempts"):
        yield "Attempt", Text(_attempt(attempt))
    if checkpoint := _checkpoint(job):
        yield "Checkpoint", Text(checkpoint)
    if uri := job.text("status.output.uri"):
        yield "Output", Text(f"{uri} ({size(job.number('status.output.sizeBytes') or 0)})", "green")
        yield "", Text(f"manifest {job.text('status.output.manifestDigest') or '?'}")
    yield from _failure_rows(job)
    yield "Time", Text(_duration(job, now))


def _progress(job: Job, losses: Sequence[float], ascii_only: bool) -> Iterator[Row]:
    total = job.number("status.progress.totalSteps")
    if total:
        drawn = bar(job.number("status.progress.step") or 0, total, ascii_only=ascii_only)
        yield "Progress", Text.assemble((drawn, "cyan"), f" {_phase(job)}")
    elif phase := _phase(job):
        yield "Progress", Text(phase)
    if loss := job.text("status.progress.loss"):
        drawn = sparkline(losses, ascii_only=ascii_only) if len(losses) > 1 else ""
        yield "Loss", Text.assemble((drawn, "magenta"), " " if drawn else "", loss)
    if metrics := findings.metrics(job):
        yield "Metrics", Text(metrics)
    if job.outcome is None and (speed := _speed(job)):
        yield "Speed", Text(speed)


def _phase(job: Job) -> str:
    phase = job.text("status.progress.phase")
    return " ".join(part for part in (phase if not job.outcome else "", _steps(job)) if part)


def _steps(job: Job) -> str:
    step, total = job.text("status.progress.step"), job.text("status.progress.totalSteps")
    if not total:
        return ""
    return f"{step or 0}/{total} ({job.text('status.progress.percent') or 0} %)"


def _loss(job: Job) -> str:
    loss = job.text("status.progress.loss")
    return f"loss {loss}" if loss else ""


def _speed(job: Job) -> str:
    rate, eta = job.number("status.progress.tokensPerSecond"), job.text("status.progress.eta")
    parts = [f"{rate:.0f} tokens/s" if rate else "", f"ETA {eta}" if eta else ""]
    return ", ".join(part for part in parts if part)


def _kind(job: Job) -> tuple[str, str]:
    return job.text("spec.method.type") or "?", job.text("spec.tuning.type") or "?"


def _state(job: Job) -> Text:
    return Text(job.state, STYLES.get(job.state, ""))


def _waiting(job: Job) -> str:
    """Why nothing happens: the message of a condition that should hold and does not."""
    if not job.conditions:
        return "no operator has seen this job yet"
    for condition in job.conditions:
        kind, reason = condition.text("type"), condition.text("reason")
        if condition.text("status") == "False" and kind in ("Accepted", "Admitted", "Running"):
            return f"{reason}: {condition.text('message') or ''}"
    return ""


def _measured(job: Job) -> Iterator[str]:
    if loss := findings.change(job):
        yield f"loss {loss}"
    yield from findings.measured(job)


def _held_out(job: Job) -> str:
    found = list(_measured(job))
    return f"held-out {', '.join(found)}" if found else ""


def _checkpoint(job: Job) -> str:
    """The newest checkpoint; no matter once there is an output."""
    uri = job.text("status.checkpoint.uri")
    if not uri or job.text("status.output.uri"):
        return ""
    bytes_of = job.number("status.checkpoint.sizeBytes")
    found = f"step {job.text('status.checkpoint.step')}, {uri}"
    return f"{found} ({size(bytes_of)})" if bytes_of else found


def _attempt(attempt: Block) -> str:
    found = [f"{attempt.text('number')}: {attempt.text('state')}"]
    for label, path in (
        ("", "reason"),
        ("exit code", "exitCode"),
        ("on", "node"),
        ("from step", "startStep"),
        ("step", "endStep"),
    ):
        if value := attempt.text(path):
            found.append(f"{label} {value}".strip())
    return ", ".join(found)


def _failure(job: Job) -> str:
    reason = job.text("status.failure.reason")
    return f"{reason}: {job.text('status.failure.message') or ''}" if reason else ""


def _failure_rows(job: Job) -> Iterator[Row]:
    if failure := _failure(job):
        yield "Failure", Text(failure, "red")
        if hint := job.text("status.failure.hint") or _known_hint(job):
            yield "", Text(f"hint: {hint}", "yellow")
        if tail := job.text("status.failure.logTail"):
            yield "Log", Text(tail, "dim")


def _known_hint(job: Job) -> str:
    reason = job.text("status.failure.reason")
    return MEANINGS[reason].hint if reason in MEANINGS else ""


def _duration(job: Job, now: datetime) -> str:
    created = job.time("metadata.creationTimestamp")
    end = job.time("status.completionTime")
    if end and created:
        return f"{span((end - created).total_seconds())}, ended {age(end, now)} ago"
    return f"created {age(created, now)} ago" if created else "?"


def _conditions(job: Job, now: datetime) -> Table:
    table = _table(["CONDITION", "STATUS", "REASON", "AGE", "MESSAGE"])
    for condition in job.conditions:
        cells = [condition.text(name) or "" for name in ("type", "status", "reason")]
        cells += [age(condition.time("lastTransitionTime"), now), condition.text("message") or ""]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _details(job: Job) -> Iterator[Table]:
    resolved = _table(["RESOLVED", "VALUE", "WHY"])
    for entry in job.blocks("status.resolved"):
        resolved.add_row(*(Text(entry.text(name) or "") for name in ("field", "value", "why")))
    if resolved.row_count:
        yield resolved
    plan = _table(["PLAN", "VALUE"])
    for name, value in job.mapping("status.plan").items():
        shown = findings.classes(value) if isinstance(value, Mapping) else clean(value)
        plan.add_row(Text(clean(name)), Text(shown))
    if plan.row_count:
        yield plan


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
