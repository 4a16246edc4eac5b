"""Nodes and images that fail under a job, and a gang of two, against a real API server and Job controller.

The trainer is a fake; the process nodes run its pods. Kubernetes takes a minute to notice that a node
object is gone, so that fault strikes first and the other tests run meanwhile.
"""

import asyncio
import signal
import sys
from datetime import timedelta

import pytest

from finetune_operator.observe.facts import Key
from finetune_operator.plan import under_way
from support.fakes import FAST, apply, attempts, condition, reached, run_until_killed
from support.stack import Stack
from support.tenant import Tenant, until

DOOMED = "node-1"


@pytest.fixture(scope="module", autouse=True)
def deleted_node(stack: Stack, namespace: str) -> None:
    """The job `uprooted` ran on a node that died, and whose object was then deleted."""
    user = Tenant(stack, namespace)
    stack.start_operator(FAST)
    place = {"scheduling.nodeSelector": {"kubernetes.io/hostname": DOOMED}}
    apply(user, "uprooted", "resumes-1.5", **place)
    reached(user, "uprooted", 1)
    stack.cluster.kill_node(DOOMED)
    stack.cluster.kubectl("delete", "node", DOOMED)
    stack.kill_operator()


def test_one_pod_of_two_that_dies_is_one_failure_of_the_gang(tenant: Tenant) -> None:
    apply(tenant, "pair", "loses.publishes-0.1", **{"resources.nodes": 2})
    status = tenant.wait("pair", "Complete", 60)
    assert attempts(status) == [(1, "Failed", "PodLost"), (2, "Succeeded", "OutputPublished")]
    assert status["retries"]["infrastructure"] == 1
    assert sorted(job["metadata"]["name"] for job in tenant.children("jobs", "pair")) == [
        "pair-1", "pair-2",
    ]  # fmt: skip
    # Two pods an attempt, and no replacement within one.
    pods = [pod["metadata"]["name"].rsplit("-", 1)[0] for pod in tenant.children("pods", "pair")]
    assert sorted(pods)[-2:] == ["pair-2-0", "pair-2-1"]
    assert len(set(pods)) == len(pods) <= 4


def test_an_image_that_is_none_ends_the_attempt_and_the_next_one_takes_the_corrected_name(
    stack: Stack, tenant: Tenant
) -> None:
    stack.kill_operator()
    stack.start_operator({**FAST, "FINETUNE_OPERATOR_TRAINER_IMAGE": "Finetune Trainer"})
    apply(tenant, "misnamed", "publishes-0.1")
    until(lambda: condition(tenant, "misnamed", "Running")[0] == "RetryWaiting" or None, 60)
    assert "invalid reference format" in condition(tenant, "misnamed", "Running")[1]
    stack.kill_operator()
    stack.start_operator(FAST)
    status = tenant.wait("misnamed", "Complete", 60)
    assert attempts(status) == [
        (1, "Failed", "ImagePullFailed"), (2, "Succeeded", "OutputPublished"),
    ]  # fmt: skip


async def test_a_pod_whose_node_does_not_answer_is_given_up_in_a_stated_time(
    stack: Stack, as_operator: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's agent is frozen, its trainer runs on; the pod object stays as long as that."""
    monkeypatch.setattr(under_way, "LOST_AFTER", timedelta(seconds=3))
    changes = {"runPolicy": {"terminationGracePeriodSeconds": 1}}
    apply(as_operator, "zombie", "resumes-1.5", **changes)
    operator = asyncio.create_task(
        run_until_killed(Key(as_operator.namespace, "zombie"), sys.maxsize, follow=True)
    )
    await asyncio.to_thread(reached, as_operator, "zombie", 1)
    [pod] = as_operator.children("pods", "zombie")
    name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
    [agent] = [each for each in stack.cluster.processes if each.name == node]
    agent.signal(signal.SIGSTOP)
    try:
        as_operator.kubectl("delete", "pod", name, "--wait=false")
        lost = lambda: as_operator.status("zombie")["attempts"][0].get("reason")  # noqa: E731
        assert await asyncio.to_thread(until, lost, 30) == "NodeLost"
        # The zombie's pod is still there, and the next attempt does not wait for it.
        second = lambda: "zombie-2" in [  # noqa: E731
            each["metadata"]["name"] for each in as_operator.children("jobs", "zombie")
        ] or None  # fmt: skip
        await asyncio.to_thread(until, second, 30)
        assert name in [each["metadata"]["name"] for each in as_operator.children("pods", "zombie")]
    finally:
        agent.signal(signal.SIGCONT)
    assert not await operator
    status = as_operator.status("zombie")
    assert attempts(status)[1] == (2, "Succeeded", "OutputPublished")
    assert status["retries"].get("infrastructure", 0) == 0


def test_a_deleted_node_object_costs_no_retry_and_the_job_goes_on(
    stack: Stack, tenant: Tenant
) -> None:
    """Kubernetes deletes the pods of a node that is not there; the job waits for a node to run on."""
    over = lambda: attempts(tenant.status("uprooted"))[0][1] == "Failed" or None  # noqa: E731
    until(over, 120, lambda: str(tenant.status("uprooted")))
    waits = lambda: "didn't match" in condition(tenant, "uprooted", "Running")[1] or None  # noqa: E731
    until(waits, 30, lambda: str(tenant.status("uprooted")))
    stack.cluster.start_node(DOOMED)
    status = tenant.wait("uprooted", "Complete", 60)
    assert attempts(status) == [(1, "Failed", "Preempted"), (2, "Succeeded", "OutputPublished")]
    assert status["attempts"][1]["startStep"] >= 1
    assert (status["retries"]["disruption"], status["retries"].get("infrastructure", 0)) == (1, 0)
