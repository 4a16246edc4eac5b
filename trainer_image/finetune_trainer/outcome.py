"""How a run ends: any exception becomes a report, and the report reaches whoever waits for it.

Called by `__main__` only. In a pod the report is the termination message; on a laptop it is printed
for people. The traceback of an unknown error goes to the log and nowhere else.
"""

import errno
import logging
import sys
from pathlib import Path

from finetune_api.records import Report
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import processes
from finetune_trainer.errors import StopRequestedError, TrainerError

logger = logging.getLogger(__name__)

_DISTRIBUTED = ("DistBackendError", "DistNetworkError", "DistStoreError")
_BROKEN = ("closed by peer", "Connection reset", "Timed out", "Connection refused", "Broken pipe")
# Status texts are bounded in the CRD.
_MAX_TEXT = 2000


def report_of(error: BaseException) -> Report:
    """The report of a run that ended by this exception."""
    if isinstance(error, TrainerError):
        return _failed(error.reason, error.message, error.hint)
    if isinstance(error, StopRequestedError):
        return _failed(Reason.PREEMPTED, f"the run was told to stop by {error}")
    if _is_out_of_memory(error):
        return _failed(Reason.OUT_OF_MEMORY, f"memory ran out: {_first_line(error)}")
    if _is_disk_full(error):
        return _failed(Reason.DISK_FULL, f"no space left on the scratch volume: {error}")
    if processes.world_size() > 1 and _is_peers(error):
        what = f"process {processes.rank()} lost another one: {_first_line(error)}"
        return _failed(Reason.PEER_FAILED, what)
    logger.error("unexpected error", exc_info=error)
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _failed(Reason.INTERNAL_ERROR, message)


def deliver(report: Report, termination_log: Path | None, *, told: bool = True) -> None:
    """Write the termination message if there is a place for it, and tell people on stderr.

    Args:
        report: How the run ended.
        termination_log: That place.
        told: Whether to tell people; of several processes, their launcher does.
    """
    if termination_log:
        try:
            termination_log.write_text(report.to_message(), "utf-8")
        except OSError as error:
            logger.error("the termination message cannot be written: %s", error)  # noqa: TRY400
    if told:
        print(for_people(report), file=sys.stderr, flush=True)  # noqa: T201


def for_people(report: Report) -> str:
    """The report in sentences."""
    if report.outcome == "Complete":
        return _success(report)
    lines = [f"Failed ({report.reason}): {report.message}"]
    if report.hint:
        lines.append(f"Hint: {report.hint}")
    return "\n".join(lines)


def _success(report: Report) -> str:
    if report.reason is Reason.PREFLIGHT_PASSED:
        return _checked(report)
    lines = [f"Complete: {report.message}"]
    if report.output:
        lines.append(f"Output: {report.output.uri}")
        lines.append(f"Manifest: {report.output.manifest} ({report.output.manifest_digest})")
    if report.evaluation and report.evaluation.loss_before:
        before, after = report.evaluation.loss_before, report.evaluation.loss_after
        lines.append(f"Held-out loss: {before} before, {after} after")
    return "\n".join(lines)


def _checked(report: Report) -> str:
    lines = [f"Preflight passed: {report.message}"]
    if report.plan:
        lines += [f"  {name}: {value}" for name, value in report.plan.to_dict().items()]
    for choice in report.resolved or ():
        lines.append(f"  {choice.field} = {choice.value} ({choice.why})")
    return "\n".join(lines)


def _failed(reason: Reason, message: str, hint: str | None = None) -> Report:
    hint = hint or reason.meaning.hint or None
    return Report(outcome="Failed", reason=reason, message=message[:_MAX_TEXT], hint=hint)


def _is_out_of_memory(error: BaseException) -> bool:
    # torch may not be imported yet, so its exception is known by name.
    named = any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError) or named or on_cpu


def _is_peers(error: BaseException) -> bool:
    """Whether the connection to another process broke: gloo's words, or torch's classes."""
    if any(cls.__name__ in _DISTRIBUTED for cls in type(error).__mro__):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and "gloo" in text and any(w in text for w in _BROKEN)


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors raises an exception of its own, with the system's words.
    return isinstance(error, Exception) and "No space left on device" in str(error)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
