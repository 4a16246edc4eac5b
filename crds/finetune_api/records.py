"""What the trainer tells the operator: records on stdout, and the report at the end.

Rank 0 prints a record a line among its other output; the operator finds them in the tail of the
pod's log. The report is the container's termination message, which Kubernetes cuts at 4096 bytes:
`Report.to_message` stays below that and keeps what matters most.
"""

import json
from enum import IntEnum
from typing import Literal

from pydantic import ValidationError

from finetune_api.meta import ApiModel
from finetune_api.v1alpha1.meanings import FailureClass
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import (
    CheckpointStatus,
    Evaluation,
    OutputStatus,
    Plan,
    Progress,
    Resolved,
)

MAX_MESSAGE_BYTES = 4096


class ExitCode(IntEnum):
    """Exit codes of the trainer: the class of the failure, in the words of sysexits(3)."""

    OK = 0
    USER_ERROR = 65
    """EX_DATAERR: the input is wrong; trying again cannot help."""
    INTERNAL = 70
    """EX_SOFTWARE: an error of ours."""
    TEMPORARY = 75
    """EX_TEMPFAIL: store or network; trying again may help."""
    OUT_OF_MEMORY = 77
    """Memory ran out in a way that we could catch; the kernel's own kill is 137."""
    DIVERGED = 78
    """The loss is no longer a number."""
    PREEMPTED = 143
    """Told to stop by SIGTERM, and stopped."""


EXIT_CODES: dict[FailureClass, ExitCode] = {
    FailureClass.NONE: ExitCode.OK,
    FailureClass.USER_ERROR: ExitCode.USER_ERROR,
    FailureClass.INFRASTRUCTURE: ExitCode.TEMPORARY,
    FailureClass.OUT_OF_MEMORY: ExitCode.OUT_OF_MEMORY,
    FailureClass.DIVERGED: ExitCode.DIVERGED,
    FailureClass.DISRUPTION: ExitCode.PREEMPTED,
    FailureClass.HANG: ExitCode.TEMPORARY,
    FailureClass.INTERNAL: ExitCode.INTERNAL,
}


class ProgressRecord(ApiModel):
    """One line of rank 0's stdout: where the run stands."""

    record: Literal["finetune.progress"] = "finetune.progress"
    progress: Progress
    checkpoint: CheckpointStatus | None = None
    """The newest checkpoint that is published."""

    resumed: CheckpointStatus | None = None
    """The checkpoint that this attempt began from."""

    def to_line(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"))


class ResolvedRecord(ApiModel):
    """One line of rank 0's stdout: what every `Auto` became, and what the data holds."""

    record: Literal["finetune.resolved"] = "finetune.resolved"
    resolved: list[Resolved]
    plan: Plan | None = None

    def to_line(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"))


def parse_record(line: str) -> ProgressRecord | ResolvedRecord | None:
    """The record in a log line, or None if the line is something else (or cut in two)."""
    if not line.startswith('{"record":"finetune.'):
        return None
    kind = ProgressRecord if line.startswith('{"record":"finetune.progress"') else ResolvedRecord
    try:
        return kind.model_validate_json(line)
    except ValidationError:
        return None


class Report(ApiModel):
    """How a trainer ended: its container's termination message."""

    outcome: Literal["Complete", "Failed"]
    reason: Reason
    message: str
    hint: str | None = None
    progress: Progress | None = None
    checkpoint: CheckpointStatus | None = None
    resumed: CheckpointStatus | None = None
    output: OutputStatus | None = None
    evaluation: Evaluation | None = None
    plan: Plan | None = None
    resolved: list[Resolved] | None = None

    @property
    def exit_code(self) -> ExitCode:
        """The exit code that goes with this report."""
        return (
            ExitCode.OK if self.outcome == "Complete" else EXIT_CODES[self.reason.meaning.failure]
        )

    def to_message(self) -> str:
        """The report as JSON of at most 4096 bytes; explanations go first, then long messages."""
        for report in (
            self,
            self.model_copy(update={"resolved": None}),
            self.model_copy(
                update={"resolved": None, "plan": None, "message": self.message[:1000]}
            ),
        ):
            text = json.dumps(report.to_dict(), separators=(",", ":"))
            if len(text.encode()) <= MAX_MESSAGE_BYTES:
                return text
        minimal = Report(outcome=self.outcome, reason=self.reason, message=self.message[:500])
        return json.dumps(minimal.to_dict(), separators=(",", ":"))


def parse_report(message: str) -> Report | None:
    """The report in a termination message, or None if the trainer did not get to write one."""
    try:
        return Report.model_validate_json(message)
    except ValidationError:
        return None
