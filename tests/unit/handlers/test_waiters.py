"""Who waits for whom: woken when it matters, and not by progress; and what the store tells of it."""

from typing import Any

import pytest

from finetune_operator.observe.facts import JobFacts, Key, Tail
from finetune_operator.observe.jobs import job_facts
from finetune_operator.store import Store
from support.cluster_objects import RUNNING, child, job, pod, preflight, preflight_pod
from support.jobs import manifest

DEMO = Key("default", "demo")


def state(kind: str, status: str = "True", **more: Any) -> dict[str, Any]:
    found = {
        "type": kind, "status": status, "reason": "R", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return {"conditions": [found], **more}


def named(
    name: str, version: int, reads: str = "", status: dict[str, Any] | None = None, uid: str = ""
) -> JobFacts:
    body = manifest(name, {"model.source": f"job://{reads}"} if reads else {})
    body["metadata"] |= {"uid": uid or name, "resourceVersion": str(version)}
    return job_facts(body | {"status": status or {}})


@pytest.fixture
def woken() -> list[str]:
    return []


@pytest.fixture
def store(woken: list[str]) -> Store:
    return Store(lambda key: woken.append(key.name))


def test_who_waits_is_woken_when_the_other_comes_changes_its_state_ends_or_goes(
    store: Store, woken: list[str]
) -> None:
    store.jobs.put(named("waits", 1, reads="base"))
    assert woken == []
    for version, status in enumerate(({}, state("Running"), state("Complete")), start=2):
        store.jobs.put(named("base", version, status=status))
        assert woken == ["waits"]
        woken.clear()
    store.jobs.delete(named("base", 9))
    assert woken == ["waits"]


def test_progress_wakes_nobody(store: Store, woken: list[str]) -> None:
    store.jobs.put(named("waits", 1, reads="base"))
    store.jobs.put(named("base", 2, status=state("Running")))
    woken.clear()
    progress = {"phase": "Training", "step": 4}
    store.jobs.put(named("base", 3, status=state("Running", progress=progress)))
    assert woken == []


def test_a_job_made_anew_under_its_name_wakes(store: Store, woken: list[str]) -> None:
    store.jobs.put(named("base", 1))
    store.jobs.put(named("waits", 2, reads="base"))
    store.jobs.put(named("base", 3, uid="another"))
    assert woken == ["waits"]


@pytest.mark.parametrize(
    "status",
    [
        state("Failed"),
        {"attempts": [{"number": 1, "job": "waits-1", "state": "Running"}]},
    ],
    ids=["ended", "training"],
)
def test_who_no_longer_waits_is_not_woken(
    store: Store, woken: list[str], status: dict[str, Any]
) -> None:
    store.jobs.put(named("waits", 1, reads="base"))
    store.jobs.put(named("waits", 2, reads="base", status=status))
    store.jobs.put(named("base", 3))
    assert woken == []


def test_a_job_in_its_preflight_still_waits(store: Store, woken: list[str]) -> None:
    attempt = {"number": 1, "job": "waits-1-preflight", "state": "Pending"}
    store.jobs.put(named("waits", 1, reads="base", status={"attempts": [attempt]}))
    store.jobs.put(named("base", 2))
    assert woken == ["waits"]


def test_a_deleted_job_is_forgotten_by_the_index(store: Store, woken: list[str]) -> None:
    waits = named("waits", 1, reads="base")
    store.jobs.put(waits)
    store.jobs.delete(waits)
    store.jobs.put(named("base", 2))
    assert woken == []


def test_a_list_that_misses_a_job_wakes_who_waits_for_it(store: Store, woken: list[str]) -> None:
    store.jobs.put(named("base", 1))
    waits = named("waits", 2, reads="base")
    store.jobs.put(waits)
    store.jobs.sync([waits], version=5)
    assert woken == ["waits"]


def test_the_facts_hold_the_jobs_waited_for_and_those_that_they_wait_for(store: Store) -> None:
    for each in (named("a", 1, "b"), named("b", 2, "c"), named("c", 3, "a"), named("d", 4)):
        store.jobs.put(each)
    facts = store.facts(Key("default", "a"))
    assert facts is not None
    assert sorted(facts.sources) == ["a", "b", "c"]


def test_an_ended_job_keeps_where_its_output_lies_and_little_else() -> None:
    ended = named("base", 1, reads="other", status=state("Complete"))
    assert (ended.output_uri, ended.spec, ended.reads) == ("s3://models/tuned", {}, ())


def test_each_job_of_an_attempt_has_its_own_pods(store: Store) -> None:
    store.jobs.put(job())
    for found in (child(), preflight()):
        store.children.put(found)
    for each in (pod(RUNNING), preflight_pod(RUNNING)):
        store.pods.put(each)
    facts = store.facts(DEMO)
    assert facts is not None
    assert (facts.child, facts.preflight) == (child(), preflight())
    assert [each.name for each in facts.pods] == ["demo-1-0-abcde"]
    assert [each.name for each in facts.preflight_pods] == ["demo-1-preflight-abcde"]


def test_the_words_of_a_preflight_are_not_those_of_the_trainers(store: Store) -> None:
    store.jobs.put(job())
    store.learn_tail(DEMO, preflight_pod(RUNNING), Tail(lines=("checking",)), 1)
    before = store.facts(DEMO)
    store.children.put(child())
    after = store.facts(DEMO)
    store.learn_tail(DEMO, pod(RUNNING), Tail(lines=("training",)), 2)
    last = store.facts(DEMO)
    assert before is not None
    assert after is not None
    assert last is not None
    assert [each.tail.lines for each in (before, after, last)] == [("checking",), (), ("training",)]
