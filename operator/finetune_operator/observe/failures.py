"""Why an attempt ended, from its Job, its pods and what the trainer reported.

Called by `plan.decide` when an attempt has ended. The trainer's own report explains most; where
there is none, Kubernetes' words and the exit code do, as far as they go.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from finetune_api.records import ExitCode, Report
from finetune_api.v1alpha1.meanings import FailureClass
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.observe.facts import ChildJob, Facts, Outcome, Pod
from finetune_operator.observe.fields import block
from finetune_operator.observe.progress import report_of
from finetune_operator.observe.text import one_line

KILLED = 137
# How pods end because of another pod of the gang, or of somebody's wish: seldom the cause.
FOLLOWERS = (Reason.PEER_FAILED, Reason.PREEMPTED)


@dataclass(frozen=True)
class Ending:
    """How an attempt ended.

    Attributes:
        report: The trainer's report, if it got to write one that fits the ending.
        pod: The pod that the verdict is about.
    """

    reason: Reason
    message: str
    hint: str = ""
    report: Report | None = None
    pod: Pod | None = None
    time: datetime | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the output is published."""
        return self.reason == Reason.OUTPUT_PUBLISHED


def success(child: ChildJob, pods: Iterable[Pod], outcome: Outcome) -> Ending:
    """The ending of a Job that succeeded: an output, or an error of ours if none is reported."""
    rank_0 = next((pod for pod in pods if pod.index == 0), None)
    report = report_of(rank_0.ended) if rank_0 else None
    if report is not None and report.outcome == "Complete" and report.output is not None:
        message = report.message or f"published {report.output.uri}"
        return Ending(
            Reason.OUTPUT_PUBLISHED, message, report=report, pod=rank_0, time=outcome.time
        )
    who = f"pod {rank_0.name}" if rank_0 else "the pod of rank 0, which is gone,"
    message = f"Job {child.name} succeeded, but {who} left no report of a published output"
    return Ending(Reason.INTERNAL_ERROR, message, pod=rank_0, time=outcome.time)


def passed(child: ChildJob, pods: Iterable[Pod], outcome: Outcome) -> Ending:
    """The ending of a preflight that succeeded: its findings, or an error of ours without any."""
    pod = next(iter(pods), None)
    report = report_of(pod.ended) if pod else None
    if report is not None and report.outcome == "Complete":
        message = report.message or Reason.PREFLIGHT_PASSED.meaning.text
        return Ending(Reason.PREFLIGHT_PASSED, message, report=report, pod=pod)
    who = f"pod {pod.name}" if pod else "its pod, which is gone,"
    message = f"Job {child.name} succeeded, but {who} left no report of what it found"
    return Ending(Reason.INTERNAL_ERROR, message, pod=pod, time=outcome.time)


def failure(facts: Facts, outcome: Outcome) -> Ending:
    """The ending of a Job that failed."""
    pod = culprit(facts.pods)
    if outcome.reason == "DeadlineExceeded":
        limit = block(facts.job.spec, "runPolicy").get("activeDeadlineSeconds")
        who = f"Job {facts.child.name}" if facts.child else "the attempt"
        message = f"{who} was stopped after runPolicy.activeDeadlineSeconds ({limit} s)"
        return Ending(Reason.DEADLINE_EXCEEDED, message, pod=pod, time=outcome.time)
    if pod is None:
        message = "the pods of the attempt are gone without a report: deleted, or with their node"
        return Ending(Reason.PREEMPTED, message, time=outcome.time)
    report = _failed_report(pod)
    if report is not None:
        hint = report.hint or ""
        return Ending(report.reason, report.message, hint, report, pod, outcome.time)
    reason, message = without_report(pod)
    return Ending(reason, one_line(f"pod {pod.name}: {message}"), pod=pod, time=outcome.time)


def culprit(pods: Iterable[Pod]) -> Pod | None:
    """The pod that explains a failure: rank 0 if it reported one, else the first that failed.

    When one pod fails, Kubernetes tells the others to stop: what those report is no cause.
    """
    failed = [pod for pod in pods if pod.phase == "Failed" or _exit_code(pod) not in (None, 0)]
    ordered = sorted(failed, key=lambda pod: (_follows(pod), _finished(pod)))
    leading = [p for p in ordered if p.index == 0 and _failed_report(p) and not _follows(p)]
    return next(iter(leading or ordered), None)


def _follows(pod: Pod) -> bool:
    report = _failed_report(pod)
    reason = report.reason if report else without_report(pod)[0]
    return reason in FOLLOWERS


def _failed_report(pod: Pod) -> Report | None:
    report = report_of(pod.ended)
    if report is None or report.outcome != "Failed":
        return None
    # A word of the usual course is no reason of a failure.
    return report if report.reason.meaning.failure != FailureClass.NONE else None


def _finished(pod: Pod) -> tuple[bool, float, int]:
    finished = pod.ended.finished if pod.ended else None
    return finished is None, finished.timestamp() if finished else 0, pod.index


def _exit_code(pod: Pod) -> int | None:
    return pod.ended.exit_code if pod.ended else None


def without_report(pod: Pod) -> tuple[Reason, str]:
    """Reason and message for a pod that ended without a report of the trainer."""
    said = _kubernetes_reason(pod)
    if said is not None:
        return said
    if pod.ended is None:
        return Reason.POD_LOST, f"{pod.reason or 'it failed'}: {pod.message or 'no container ran'}"
    code = pod.ended.exit_code
    if code == KILLED and pod.deletion is not None:
        return Reason.PREEMPTED, "it was told to stop, and killed after its grace period"
    if code == KILLED:
        return Reason.POD_LOST, "it was killed (SIGKILL, exit code 137) before it could report"
    if code == ExitCode.PREEMPTED:
        return Reason.PREEMPTED, "it was told to stop (SIGTERM, exit code 143)"
    if code == ExitCode.OUT_OF_MEMORY:
        return Reason.OUT_OF_MEMORY, f"memory ran out (exit code {code})"
    said_so = f" ({pod.ended.reason})" if pod.ended.reason not in ("", "Error", "Completed") else ""
    message = f"it ended without a report, with exit code {code}{said_so}"
    # The kubelet puts the end of the log there when a container fails without a message.
    last_line = pod.ended.message.rstrip().rpartition("\n")[2]
    told = last_line and not last_line.startswith("{")
    return Reason.INTERNAL_ERROR, f"{message}: {last_line}" if told else message


def _kubernetes_reason(pod: Pod) -> tuple[Reason, str] | None:
    if pod.ended and pod.ended.reason == "OOMKilled":
        return Reason.OUT_OF_MEMORY, "the kernel killed it: it used more than `resources.memory`"
    if pod.reason == "Evicted":
        full = "EmptyDir volume" in pod.message or "ephemeral" in pod.message
        reason = Reason.DISK_FULL if full else Reason.PREEMPTED
        return reason, f"Evicted: {pod.message}"
    if pod.disruption:
        return Reason.PREEMPTED, pod.disruption
    return None
