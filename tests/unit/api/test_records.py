"""Records and reports: what trainer and operator say to each other survives, and garbage does not pass."""

import pytest

from finetune_api.records import (
    MAX_MESSAGE_BYTES,
    ExitCode,
    ProgressRecord,
    Report,
    ResolvedRecord,
    parse_record,
    parse_report,
)
from finetune_api.v1alpha1.meanings import MEANINGS
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Plan, Progress, Resolved


def test_a_progress_record_is_one_line_and_comes_back() -> None:
    record = ProgressRecord(progress=Progress(phase="Training", step=3, loss="1.5"))
    assert "\n" not in record.to_line()
    assert parse_record(record.to_line()) == record


def test_a_resolved_record_comes_back() -> None:
    resolved = [Resolved(field="training.batchSize", value="16", why="default")]
    record = ResolvedRecord(resolved=resolved, plan=Plan(rows=4))
    assert parse_record(record.to_line()) == record


@pytest.mark.parametrize(
    "line",
    ["", "loss 1.5", '{"record":"finetune.progress","progress":{"ph', '{"record":"finetune.progress"}',
     '{"record":"finetune.other"}', '{"record":"finetune.progress","progress":{"phase":"x","step":"NaN"}}'],
)  # fmt: skip
def test_other_lines_are_no_records(line: str) -> None:
    assert parse_record(line) is None


def test_a_long_report_is_cut_to_what_kubernetes_keeps() -> None:
    why = [Resolved(field=f"f{i}", value="v", why="w" * 200) for i in range(40)]
    report = Report(outcome="Failed", reason=Reason.DATA_INVALID, message="m" * 5000, resolved=why)
    message = report.to_message()
    assert len(message.encode()) <= MAX_MESSAGE_BYTES
    kept = parse_report(message)
    assert kept is not None
    assert kept.reason is Reason.DATA_INVALID


def test_multibyte_text_counts_in_bytes() -> None:
    report = Report(outcome="Failed", reason=Reason.DATA_INVALID, message="é" * 4000)
    assert len(report.to_message().encode()) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize("text", ["", "Killed", "{}", '{"outcome":"Complete"}', "null"])
def test_other_messages_are_no_reports(text: str) -> None:
    assert parse_report(text) is None


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.DATA_INVALID, ExitCode.USER_ERROR),
        (Reason.STORAGE_UNAVAILABLE, ExitCode.TEMPORARY),
        (Reason.OUT_OF_MEMORY, ExitCode.OUT_OF_MEMORY),
        (Reason.PREEMPTED, ExitCode.PREEMPTED),
        (Reason.INTERNAL_ERROR, ExitCode.INTERNAL),
    ],
)
def test_exit_codes_follow_the_class_of_the_reason(reason: Reason, code: ExitCode) -> None:
    assert Report(outcome="Failed", reason=reason, message="m").exit_code is code


def test_every_reason_has_a_meaning_and_every_failure_a_hint() -> None:
    assert set(MEANINGS) == set(Reason)
    for reason in Reason:
        meaning = reason.meaning
        assert meaning.text.endswith(".")
        assert (meaning.failure == "None") == (meaning.hint == ""), reason
