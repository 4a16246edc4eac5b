import errno
from pathlib import Path

import pytest

from finetune_api.records import ExitCode, Report, parse_report
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import outcome
from finetune_trainer.errors import StopRequestedError, TrainerError


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (TrainerError(Reason.DATA_INVALID, "x"), Reason.DATA_INVALID, ExitCode.USER_ERROR),
        (
            TrainerError(Reason.STORAGE_UNAVAILABLE, "x"),
            Reason.STORAGE_UNAVAILABLE,
            ExitCode.TEMPORARY,
        ),
        (StopRequestedError("SIGTERM"), Reason.PREEMPTED, ExitCode.PREEMPTED),
        (MemoryError(), Reason.OUT_OF_MEMORY, ExitCode.OUT_OF_MEMORY),
        (
            OutOfMemoryError("CUDA out of memory.\nTried"),
            Reason.OUT_OF_MEMORY,
            ExitCode.OUT_OF_MEMORY,
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            Reason.OUT_OF_MEMORY,
            ExitCode.OUT_OF_MEMORY,
        ),
        (OSError(errno.ENOSPC, "No space left on device"), Reason.DISK_FULL, ExitCode.USER_ERROR),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            Reason.DISK_FULL,
            ExitCode.USER_ERROR,
        ),
        (KeyError("k"), Reason.INTERNAL_ERROR, ExitCode.INTERNAL),
    ],
)
def test_reason_and_exit_code(error: BaseException, reason: Reason, code: ExitCode) -> None:
    report = outcome.report_of(error)
    assert (report.outcome, report.reason, report.exit_code) == ("Failed", reason, code)
    assert report.message


def test_unknown_errors_are_named_and_traced_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    report = outcome.report_of(ZeroDivisionError("division by zero"))
    assert report.message == "ZeroDivisionError: division by zero"
    assert caplog.records[0].exc_info is not None
    assert "Traceback" not in report.message


def test_hint_of_the_error_goes_before_that_of_the_reason() -> None:
    reason = Reason.DIVERGED
    assert outcome.report_of(TrainerError(reason, "x")).hint == reason.meaning.hint
    assert outcome.report_of(TrainerError(reason, "x", "y")).hint == "y"


def test_termination_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(outcome="Failed", reason=Reason.DATA_EMPTY, message="m", hint="h")
    outcome.deliver(report, tmp_path / "log")
    assert parse_report((tmp_path / "log").read_text()) == report
    assert capsys.readouterr().err == "Failed (DataEmpty): m\nHint: h\n"


def test_place_that_cannot_be_written_is_survived(tmp_path: Path) -> None:
    report = Report(outcome="Failed", reason=Reason.DATA_EMPTY, message="m")
    outcome.deliver(report, tmp_path / "no" / "log")
    assert not (tmp_path / "no").exists()
