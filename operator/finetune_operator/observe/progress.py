"""Reads progress and resolved values from the end of a trainer's log, and reports from its message.

What the trainer says is checked again here: a run whose numbers the API server would refuse must
not make every later status write of its job fail.
"""

import json
from typing import TypeVar

from finetune_api.meta import ApiModel
from finetune_api.records import ProgressRecord, Report, ResolvedRecord, parse_record, parse_report
from finetune_api.v1alpha1.status import Evaluation, Progress
from finetune_operator.observe.facts import Ended, Tail
from finetune_operator.observe.fields import MAX_INTEGER, time
from finetune_operator.observe.text import MAX_TAIL_LINES, clean

Model = TypeVar("Model", bound=ApiModel)
MAX_RESOLVED = 64


def read_tail(log: str) -> Tail:
    """The newest records in a log, and its last lines without them."""
    progress: ProgressRecord | None = None
    resolved: ResolvedRecord | None = None
    lines: list[str] = []
    for line in log.split("\n"):
        record = parse_record(line)
        if isinstance(record, ProgressRecord):
            progress = record if sound(record) else progress
        elif isinstance(record, ResolvedRecord):
            resolved = record if sound(record) else resolved
        else:
            lines.append(line)
    return Tail(
        progress=checked(progress.progress) if progress else None,
        resolved=tuple(safe(r) for r in resolved.resolved[:MAX_RESOLVED]) if resolved else None,
        plan=safe(resolved.plan) if resolved and resolved.plan else None,
        checkpoint=safe(progress.checkpoint) if progress and progress.checkpoint else None,
        resumed=safe(progress.resumed) if progress and progress.resumed else None,
        lines=tuple(lines[-MAX_TAIL_LINES:]),
    )


def newer(old: Tail, new: Tail) -> Tail:
    """The new tail, with records of the old one that have scrolled out of it."""
    return Tail(
        progress=new.progress or old.progress,
        resolved=new.resolved or old.resolved,
        plan=new.plan or old.plan,
        checkpoint=new.checkpoint or old.checkpoint,
        resumed=new.resumed or old.resumed,
        lines=new.lines or old.lines,
    )


def moved(old: Progress | None, new: Progress | None) -> bool:
    """Whether the run has come further. Its clock, and what follows from it, tells nothing."""
    return _place(old) != _place(new)


def _place(progress: Progress | None) -> tuple[object, ...] | None:
    if progress is None:
        return None
    measured = (progress.loss, progress.evaluation_loss, progress.metrics)
    return progress.phase, progress.step, progress.total_steps, progress.epoch, *measured


def report_of(ended: Ended | None) -> Report | None:
    """The trainer's report, if its container ended with one that can be shown."""
    report = parse_report(ended.message) if ended else None
    if report is None or not sound(report):
        return None
    report = safe(report)
    found = {"progress": checked(report.progress), "evaluation": _distinct(report.evaluation)}
    return report.model_copy(update=found)


def _distinct(evaluation: Evaluation | None) -> Evaluation | None:
    """The evaluation with one metric a name, as the list's key demands."""
    if evaluation is None or evaluation.metrics is None:
        return evaluation
    metrics = list({metric.name: metric for metric in evaluation.metrics}.values())
    return evaluation.model_copy(update={"metrics": metrics})


def sound(model: ApiModel) -> bool:
    """Whether every number fits the API server's integers and every key is one that it knows."""
    return _fits(model.to_dict())


def _fits(value: object) -> bool:
    if isinstance(value, dict):
        return all(_fits(item) for item in value.values())
    if isinstance(value, list):
        return all(_fits(item) for item in value)
    return not isinstance(value, int) or abs(value) <= MAX_INTEGER


def safe(model: Model) -> Model:
    """The same model with every text on one safe line."""
    return type(model).model_validate_json(json.dumps(clean(model.to_dict())))


def checked(progress: Progress | None) -> Progress | None:
    """The progress with safe texts, without a time that is none."""
    if progress is None:
        return None
    if progress.update_time is not None and time(progress.update_time) is None:
        progress = progress.model_copy(update={"update_time": None})
    return safe(progress)
