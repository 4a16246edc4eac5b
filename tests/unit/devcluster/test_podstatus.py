"""Is a pod's status what a kubelet would say of the same containers?"""

import pytest

from devcluster.podstatus import (
    ContainerState,
    PodState,
    conditions,
    phase,
    status,
    terminated,
    waiting,
)

WAITING, RUNNING = waiting("ContainerCreating"), {"running": {"startedAt": "t"}}
OK, BAD = terminated(0, "t"), terminated(3, "t")


def pod(*main, init=(), policy="Never", **more):
    def states(group):
        return [ContainerState(f"c{i}", "image", state) for i, state in enumerate(group)]

    return PodState(states(init), states(main), policy, "t", **more)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (pod(WAITING), "Pending"),
        (pod(WAITING, init=[OK]), "Pending"),
        (pod(RUNNING, WAITING), "Running"),
        (pod(RUNNING, BAD), "Running"),
        (pod(OK, OK), "Succeeded"),
        (pod(OK, BAD), "Failed"),
        (pod(WAITING, init=[BAD]), "Failed"),
        (pod(WAITING, init=[BAD], policy="Always"), "Pending"),
        (pod(BAD, policy="OnFailure"), "Running"),
        (pod(OK, policy="OnFailure"), "Succeeded"),
        (pod(OK, policy="Always"), "Running"),
        (pod(OK, policy="Always", stopping=True), "Succeeded"),
        (pod(BAD, policy="Always", stopping=True), "Failed"),
        (pod(OK, verdict={"reason": "DeadlineExceeded"}), "Failed"),
    ],
)
def test_phase(state, expected):
    assert phase(state) == expected


def test_crash_loop_is_still_running():
    state = pod(waiting("CrashLoopBackOff"), policy="Always")
    state.main[0].last_state = BAD
    assert phase(state) == "Running"


@pytest.mark.parametrize(
    ("state", "initialized", "ready", "reason"),
    [
        (pod(WAITING, init=[RUNNING]), "False", "False", "ContainersNotReady"),
        (pod(RUNNING, init=[OK]), "True", "True", None),
        (pod(OK), "True", "False", "PodCompleted"),
        (pod(BAD), "True", "False", "PodFailed"),
    ],
)
def test_conditions(state, initialized, ready, reason):
    found = {each["type"]: each for each in conditions(state, [])}
    assert set(found) == {"Initialized", "ContainersReady", "Ready"}
    assert found["Initialized"]["status"] == initialized
    assert found["Ready"]["status"] == found["ContainersReady"]["status"] == ready
    assert found["Ready"].get("reason") == reason


def test_transition_time_is_kept_until_the_status_changes():
    old = [{"type": "Ready", "status": "True", "lastTransitionTime": "long ago"}]
    assert conditions(pod(RUNNING), old)[2]["lastTransitionTime"] == "long ago"
    assert conditions(pod(OK), old)[2]["lastTransitionTime"] != "long ago"


def test_status_of_a_failed_deadline():
    verdict = {"reason": "DeadlineExceeded", "message": "too long"}
    found = status("u", pod(BAD, verdict=verdict), [])
    assert (found["phase"], found["reason"]) == ("Failed", "DeadlineExceeded")
    assert "initContainerStatuses" not in found
    one = found["containerStatuses"][0]
    assert one["state"]["terminated"]["reason"] == "Error"
    assert (one["ready"], one["restartCount"]) == (False, 0)
