"""Jobs with a queue: how they are made, what is said while they wait, and what a preemption does."""

from dataclasses import replace

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_operator.observe.facts import Role
from finetune_operator.observe.jobs import child_job
from finetune_operator.plan.decision import Creation
from finetune_operator.plan.installation import Installation
from finetune_operator.plan.workload import workload
from support.cluster_objects import batch_job, job
from support.worlds import World

QUEUE = {"scheduling.queueName": "team"}


def queued() -> World:
    world = World(QUEUE)
    world.settle()
    return world


def admit(world: World, name: str = "demo-1", *, admitted: bool = True) -> None:
    found = world.jobs[name]
    version = found.resource_version + 1
    world.jobs[name] = replace(found, suspended=not admitted, resource_version=version)
    world.settle()


def test_the_trainers_wait_for_the_queue_and_the_preflight_for_none() -> None:
    facts = job(QUEUE)
    spec = FineTuneJobSpec.model_validate(facts.spec)
    made = {
        role: workload(facts, Creation(1, spec, role), Installation(image="i")) for role in Role
    }
    assert made[Role.TRAINER]["spec"]["suspend"] is True
    labels = made[Role.TRAINER]["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team"
    assert "suspend" not in made[Role.PREFLIGHT]["spec"]
    assert "kueue.x-k8s.io/queue-name" not in made[Role.PREFLIGHT]["metadata"]["labels"]


def test_the_suspension_is_read_from_the_job() -> None:
    body = batch_job()
    found = [child_job(body | {"spec": {"suspend": value}}) for value in (True, False, "yes")]
    assert [each and each.suspended for each in found] == [True, False, False]


def test_a_job_in_a_queue_says_so_and_after_a_while_what_may_be_missing() -> None:
    world = queued()
    assert world.condition("Admitted") == ("False", "WaitingForQueue")
    assert world.condition("Running") == ("False", "WaitingForQueue")
    assert world.message("Admitted") == "Job demo-1 waits for queue team"
    assert world.status.state == "Queued"
    assert world.wake_after is not None
    world.pass_time(61)
    world.settle()
    assert "without Kueue in the cluster" in world.message("Admitted")
    status = world.status
    world.pass_time(10**5)
    world.settle()
    assert world.status == status


def test_an_admitted_job_runs() -> None:
    world = queued()
    admit(world)
    assert world.condition("Admitted") == ("True", "AdmittedByQueue")
    world.run("demo-1", step=1)
    world.settle()
    assert world.condition("Running") == ("True", "PodsRunning")


def test_a_preempted_job_waits_again_as_the_same_attempt() -> None:
    world = queued()
    admit(world)
    world.run("demo-1", step=1)
    world.settle()
    admit(world, admitted=False)
    assert world.condition("Admitted") == ("False", "WaitingForQueue")
    world.pods.clear()
    world.settle()
    assert world.condition("Running") == ("False", "WaitingForQueue")
    assert world.attempts == [(1, "Pending", None)]
    world.pass_time(10**6)
    admit(world)
    world.run("demo-1")
    world.settle()
    assert world.condition("Running") == ("True", "PodsRunning")
    assert (len(world.created), world.stopped) == (1, [])


def test_a_suspended_job_leaves_the_queue() -> None:
    world = queued()
    world.changes["suspend"] = True
    world.settle()
    assert world.stopped == ["demo-1"]
    assert world.condition("Suspended") == ("True", "SuspendedByUser")
    # Nothing is granted while it is suspended.
    assert world.condition("Admitted")[0] == "False"


def test_the_wait_in_a_queue_does_not_count_against_the_deadline() -> None:
    world = World(QUEUE | {"runPolicy": {"activeDeadlineSeconds": 1000}})
    world.settle()
    world.pass_time(5000)
    admit(world)
    world.run("demo-1", step=1)
    world.settle()
    world.changes["suspend"] = True
    world.settle()
    world.end("demo-1")
    world.settle()
    world.changes["suspend"] = False
    world.settle()
    assert world.created[1].deadline_seconds == 1000
