"""Jobs that read the output of other jobs: they wait, fail with them, and start when they are Complete."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.observe.facts import Facts, JobFacts, Role
from finetune_operator.observe.jobs import job_facts, jobs_read
from finetune_operator.plan.chains import chain
from finetune_operator.plan.decide import decide
from finetune_operator.plan.decision import Decision
from support.cluster_objects import job
from support.jobs import manifest, spec

NOW = datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
READS_BASE: dict[str, Any] = {"model.source": "job://base"}
READS_TWO: dict[str, Any] = READS_BASE | {"data.train": [{"source": "job://rows"}]}
TWO = FineTuneJobSpec.model_validate(spec(READS_TWO))


def condition(kind: str, reason: str = "R", status: str = "True") -> dict[str, Any]:
    return {
        "conditions": [{
            "type": kind, "status": status, "reason": reason, "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]
    }  # fmt: skip


def other(
    name: str, status: dict[str, Any] | None = None, changes: dict[str, Any] | None = None
) -> JobFacts:
    body = manifest(name, {"output.uri": f"s3://models/{name}", **(changes or {})})
    body["metadata"] |= {"uid": name, "generation": 1, "resourceVersion": "5"}
    return job_facts(body | {"status": status or {}})


COMPLETE = condition("Complete", "OutputPublished")
FAILED = condition("Failed", "DataInvalid") | {
    "failure": {"reason": "DataInvalid", "message": "line 17 is broken"}
}


def facts(changes: dict[str, Any], *others: JobFacts, **more: Any) -> Facts:
    return Facts(job(changes), sources={each.name: each for each in others}, **more)


def accepted(status: FineTuneJobStatus | None) -> tuple[str, str, str]:
    assert status is not None
    [found] = [c for c in status.conditions or () if c.type == "Accepted"]
    return found.status, found.reason, found.message


def verdict(situation: Facts) -> FineTuneJobStatus:
    assert decide(situation, NOW) == Decision(confirm=True)
    decision = decide(replace(situation, confirmed=True), NOW)
    assert decision.create is None
    assert decision.status is not None
    return decision.status


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({}, "Pending"),
        (condition("Running", "PodsRunning"), "Running"),
        (condition("Running", "PreflightRunning", "False"), "Preflight"),
        (condition("Accepted", "WaitingForJob", "False"), "Waiting"),
        (condition("Suspended", "SuspendedByUser"), "Suspended"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_job_waits_for_the_one_it_reads_and_says_how_that_stands(
    status: dict[str, Any], state: str
) -> None:
    decision = decide(facts(READS_BASE, other("base", status)), NOW)
    assert (decision.create, decision.notices, decision.wake_after) == (None, (), None)
    expected = ("False", "WaitingForJob", f"waits for the output of job base ({state})")
    assert accepted(decision.status) == expected
    assert decision.status is not None
    assert decision.status.state == "Waiting"


def test_a_waiting_job_settles() -> None:
    situation = facts(READS_BASE, other("base"))
    status = decide(situation, NOW).status
    assert status is not None
    again = replace(situation, job=job(READS_BASE, status.to_dict()))
    assert decide(again, NOW).status == status


def test_a_job_that_is_not_there_is_looked_for_and_then_waited_for() -> None:
    status = verdict(facts(READS_BASE))
    expected = ("False", "WaitingForJob", "waits for the output of job base (does not exist yet)")
    assert accepted(status) == expected
    assert status.failure is None


def test_all_that_is_waited_for_is_named_and_what_is_complete_is_not() -> None:
    found = chain(TWO, facts({}, other("base"), other("rows")))
    assert found.waiting == "waits for the output of job base (Pending), job rows (Pending)"
    found = chain(TWO, facts({}, other("base", COMPLETE)))
    assert found.waiting == "waits for the output of job rows (does not exist yet)"
    assert found.absent


def test_outputs_are_where_they_are_published_not_in_the_folder_of_an_attempt() -> None:
    found = chain(TWO, facts({}, other("base", COMPLETE), other("rows", COMPLETE)))
    assert found.sources == {"job://base": "s3://models/base", "job://rows": "s3://models/rows"}
    assert (found.refusal, found.waiting, found.absent) == (None, "", False)


@pytest.mark.parametrize(("gpus", "role"), [(0, Role.TRAINER), (1, Role.PREFLIGHT)])
def test_the_first_job_of_an_attempt_knows_its_sources(gpus: int, role: Role) -> None:
    changes = READS_BASE | {"resources.gpusPerNode": gpus}
    creation = decide(facts(changes, other("base", COMPLETE)), NOW).create
    assert creation is not None
    assert creation.role is role
    assert creation.sources == {"job://base": "s3://models/base"}


def test_a_job_fails_with_the_one_it_reads_and_says_why_that_failed() -> None:
    status = verdict(facts(READS_BASE, other("base", FAILED)))
    assert accepted(status)[:2] == ("False", "SourceJobFailed")
    assert status.failure is not None
    assert status.failure.reason == "SourceJobFailed"
    assert status.failure.message == (
        "spec.model.source: job base failed (DataInvalid): line 17 is broken"
    )
    assert status.failure.hint
    assert status.state == "Failed"


@pytest.mark.parametrize(
    ("others", "way"),
    [
        ((), "demo → demo"),
        ((other("base", changes={"model.source": "job://demo"}),), "demo → base → demo"),
        (
            (
                other("base", changes={"model.source": "job://c"}),
                other("c", changes={"data.train": [{"source": "job://demo"}]}),
            ),
            "demo → base → c → demo",
        ),
    ],
    ids=["itself", "two", "three"],
)
def test_a_circle_is_refused(others: tuple[JobFacts, ...], way: str) -> None:
    changes = READS_BASE if others else {"model.source": "job://demo"}
    itself = () if others else (job(changes),)
    status = verdict(facts(changes, *others, *itself))
    assert accepted(status)[:2] == ("False", "SourceJobCycle")
    assert status.failure is not None
    assert status.failure.message == f"spec.model.source: the job would wait for itself: {way}"


@pytest.mark.parametrize(
    "standing",
    [COMPLETE, {"attempts": [{"number": 1, "job": "base-1", "state": "Running"}]}],
    ids=["complete", "training"],
)
def test_a_job_that_has_what_it_reads_closes_no_circle(standing: dict[str, Any]) -> None:
    """It read an earlier job of this name."""
    decision = decide(
        facts(READS_BASE, other("base", standing, {"model.source": "job://demo"})), NOW
    )
    assert not decision.confirm
    assert decision.create or accepted(decision.status)[1] == "WaitingForJob"


def test_jobs_that_wait_for_a_circle_without_being_in_it_wait() -> None:
    circle = (
        other("base", changes={"model.source": "job://c"}),
        other("c", changes={"model.source": "job://base"}),
    )
    assert accepted(decide(facts(READS_BASE, *circle), NOW).status)[1] == "WaitingForJob"


@pytest.mark.parametrize("source", [other("base"), other("base", FAILED)], ids=["open", "failed"])
def test_a_suspended_job_neither_starts_nor_fails(source: JobFacts) -> None:
    status = decide(facts(READS_BASE | {"suspend": True}, source), NOW).status
    assert accepted(status)[0] == "False"
    assert status is not None
    assert status.state == "Suspended"
    assert status.failure is None


def test_a_job_that_went_on_is_accepted_again() -> None:
    waiting = decide(facts(READS_BASE, other("base")), NOW).status
    assert waiting is not None
    ready = facts(READS_BASE, other("base", COMPLETE), obstacle="exceeded quota")
    status = decide(replace(ready, job=job(READS_BASE, waiting.to_dict())), NOW).status
    assert accepted(status)[:2] == ("True", "SpecAccepted")
    assert status is not None
    assert status.state == "Starting"


def test_the_trainers_wait_if_the_source_went_away_after_the_preflight() -> None:
    """Nothing is remembered of it but what is in the cluster."""
    checked = condition("InputChecked") | {
        "attempts": [{"number": 1, "job": "demo-1-preflight", "state": "Pending"}]
    }
    gone = Facts(job(READS_BASE | {"resources.gpusPerNode": 1}, checked))
    assert accepted(verdict(gone))[1] == "WaitingForJob"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        READS_TWO,
        {"data.evaluation": {"sources": [{"source": "job://e"}, {"source": "job://e"}]}},
        {
            "method": {"type": "PPO", "ppo": {"rewardModel": "job://r"}},
            "model.source": "job://base",
        },
        {"method": {"type": "RLOO", "rloo": {"rewardModel": "job://r"}}},
        {"method": {"type": "Distillation", "distillation": {"teacher": "job://t"}}},
        {"method": {"type": "DPO", "dpo": {"reference": {"source": "job://d"}}}},
    ],
)
def test_a_raw_spec_names_the_same_jobs_as_a_checked_one(changes: dict[str, Any]) -> None:
    raw = spec(changes)
    assert jobs_read(raw) == tuple(FineTuneJobSpec.model_validate(raw).source_jobs())
