"""An image that cannot be pulled: told at once, waited for as long as that may help, never for ever."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.observe.facts import Facts
from finetune_operator.plan.decide import decide
from support.cluster_objects import CREATED, child, job, pod, waiting
from support.worlds import START

ABSENT = 'failed to pull image "ghcr.io/x/trianer:1": failed to resolve reference: not found'
DENIED = "pull access denied, repository does not exist or may require authorization"
SILENT = "dial tcp 10.0.0.1:443: i/o timeout"


def facts(state: dict[str, Any], status: FineTuneJobStatus | None = None) -> Facts:
    """A pod that got its node at START."""
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": CREATED}
    waits = pod(state, conditions=[scheduled])
    return Facts(job({}, status.to_dict() if status else None), child(), (waits,))


def told(state: dict[str, Any], seconds: float) -> str:
    """What becomes of an attempt whose pod says this after so many seconds, by its first word."""
    now = START + timedelta(seconds=seconds)
    decision = decide(facts(state), now)
    if not decision.confirm:
        assert decision.status
        return condition(decision.status)[0]
    ended = decide(replace(facts(state), confirmed=True), now).status
    assert ended
    assert ended.attempts
    assert ended.retries
    assert ended.retries.infrastructure == 1
    return f"ended with {ended.attempts[-1].reason}"


def condition(status: FineTuneJobStatus) -> tuple[str, str]:
    [found] = [each for each in status.conditions or () if each.type == "Running"]
    return found.reason, found.message


@pytest.mark.parametrize(
    ("reason", "said", "patience"),
    [
        ("InvalidImageName", "couldn't parse image name: invalid reference format", 0),
        ("ErrImageNeverPull", "not present with pull policy of Never", 0),
        ("ErrImagePull", ABSENT, 120),
        ("ImagePullBackOff", f"Back-off pulling image: ErrImagePull: {ABSENT}", 120),
        ("ErrImagePull", DENIED, 120),
        ("ErrImagePull", SILENT, 1800),
    ],
)
def test_an_attempt_ends_when_further_pulls_cannot_help(
    reason: str, said: str, patience: int
) -> None:
    state = waiting(reason, said)
    if patience:
        assert told(state, 1) == told(state, patience - 1) == "ImagePullFailed"
    assert told(state, patience) == "ended with ImagePullFailed"


def test_the_cause_is_told_at_once_and_kept_while_the_kubelet_backs_off() -> None:
    first = decide(facts(waiting("ErrImagePull", ABSENT)), START).status
    assert first
    assert condition(first) == ("ImagePullFailed", f"pod demo-1-0-abcde: ErrImagePull: {ABSENT}")
    # Older kubelets do not repeat the cause; it still counts.
    late = START + timedelta(seconds=121)
    backing_off = facts(waiting("ImagePullBackOff", "Back-off pulling image"), first)
    assert decide(backing_off, late).confirm
    ended = decide(replace(backing_off, confirmed=True), late).status
    assert ended
    assert condition(ended)[1].endswith(ABSENT)


def test_the_operator_looks_again_when_the_time_is_up() -> None:
    decision = decide(facts(waiting("ErrImagePull", ABSENT)), START + timedelta(seconds=20))
    assert decision.wake_after == 101
