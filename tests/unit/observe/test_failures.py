"""Why an attempt ended, by what its pods left behind."""

from typing import Any

import pytest

from finetune_api.records import ExitCode
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.observe.facts import Facts, Outcome, Pod
from finetune_operator.observe.failures import Ending, failure
from support.cluster_objects import (
    PUBLISHED,
    RUNNING,
    child,
    failed_report,
    job,
    pod,
    terminated,
)

BACKOFF = Outcome("BackoffLimitExceeded", "Job has reached the specified backoff limit", None)


def ending(*pods: Pod, outcome: Outcome = BACKOFF, **changes: Any) -> Ending:
    return failure(Facts(job(changes), child(), pods), outcome)


def disrupted(reason: str) -> list[dict[str, str]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "m"}]


@pytest.mark.parametrize(
    ("found", "reason", "words"),
    [
        (pod(terminated(137, "", "OOMKilled")), Reason.OUT_OF_MEMORY, "resources.memory"),
        (pod(terminated(137)), Reason.POD_LOST, "137"),
        (pod(terminated(143)), Reason.PREEMPTED, "143"),
        (pod(terminated(ExitCode.OUT_OF_MEMORY)), Reason.OUT_OF_MEMORY, "77"),
        (pod(terminated(1, "Traceback\nKeyError: 'x'\n")), Reason.INTERNAL_ERROR, "KeyError: 'x'"),
        (pod(terminated(128, "no such file", "StartError")), Reason.INTERNAL_ERROR, "StartError"),
        (pod(terminated(143), conditions=disrupted("PreemptionByScheduler")), Reason.PREEMPTED,
         "PreemptionByScheduler: m"),
        (pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory"),
         Reason.PREEMPTED, "low on resource"),
        (pod(phase="Failed", reason="Evicted",
             message='Usage of EmptyDir volume "scratch" exceeds the limit "1Gi"'),
         Reason.DISK_FULL, "scratch"),
        (pod(phase="Failed", reason="UnexpectedAdmissionError", message="no GPU left"),
         Reason.POD_LOST, "no GPU left"),
        (pod(terminated(0, PUBLISHED.to_message())  , phase="Failed"), Reason.INTERNAL_ERROR, "code 0"),
        (pod(failed_report(Reason.PODS_RUNNING), phase="Failed"), Reason.INTERNAL_ERROR, "without a report"),
    ],
    ids=["oom", "sigkill", "sigterm", "code 77", "traceback", "start error", "preempted", "evicted",
         "disk", "admission", "contradiction", "reason of no failure"],
)  # fmt: skip
def test_without_a_report_kubernetes_and_the_exit_code_speak(
    found: Pod, reason: Reason, words: str
) -> None:
    verdict = ending(found)
    assert verdict.reason == reason
    assert words in verdict.message
    assert "\n" not in verdict.message
    assert verdict.report is None


@pytest.mark.parametrize("reason", [r for r in Reason if r.meaning.failure != "None"])
def test_every_reason_of_failure_is_passed_on(reason: Reason) -> None:
    verdict = ending(pod(failed_report(reason, "what", "advice")))
    assert (verdict.reason, verdict.message, verdict.hint) == (reason, "what", "advice")


def test_the_report_of_rank_0_counts_before_an_earlier_failure() -> None:
    early = terminated(1)
    early["terminated"]["finishedAt"] = "2026-01-01T00:30:00Z"
    verdict = ending(pod(early, index=1), pod(failed_report(Reason.DIVERGED)))
    assert verdict.reason == Reason.DIVERGED
    assert verdict.pod is not None
    assert verdict.pod.index == 0


def test_without_a_report_of_rank_0_the_first_failure_counts() -> None:
    early = failed_report(Reason.OUT_OF_MEMORY)
    early["terminated"]["finishedAt"] = "2026-01-01T00:30:00Z"
    verdict = ending(pod(terminated(1)), pod(early, index=1), pod(RUNNING, index=2))
    assert verdict.reason == Reason.OUT_OF_MEMORY


def test_the_deadline_of_the_job_counts_before_what_its_pods_say() -> None:
    late = Outcome("DeadlineExceeded", "Job was active longer than specified deadline", None)
    verdict = ending(
        pod(failed_report(Reason.PREEMPTED)),
        outcome=late,
        runPolicy={"activeDeadlineSeconds": 60},
    )
    assert verdict.reason == Reason.DEADLINE_EXCEEDED
    assert "60 s" in verdict.message


def test_an_attempt_without_pods_is_lost() -> None:
    assert ending().reason == Reason.PREEMPTED
    assert ending(pod(RUNNING)).reason == Reason.PREEMPTED


def test_a_pod_that_was_killed_after_its_grace_period_was_preempted() -> None:
    told = pod(terminated(137), metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert ending(told).reason == Reason.PREEMPTED


def test_the_pod_that_failed_by_itself_explains_the_failure_of_the_gang() -> None:
    """Rank 1 is killed; rank 0 is told to stop because of that, and reports first or last."""
    cause = pod(terminated(137), index=1)
    for effect in (Reason.PEER_FAILED, Reason.PREEMPTED):
        verdict = ending(pod(failed_report(effect)), cause)
        assert (verdict.reason, verdict.pod) == (Reason.POD_LOST, cause)
