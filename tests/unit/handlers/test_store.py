"""The store: newer versions win, deletions are final, complete lists remove what is gone."""

from dataclasses import replace

from finetune_operator.observe.facts import Key
from finetune_operator.store import Store
from support.cluster_objects import RUNNING, child, job, pod


def test_older_versions_do_not_replace_newer_ones() -> None:
    store = Store()
    assert store.jobs.put(job(resourceVersion="10"))
    assert not store.jobs.put(job({"suspend": True}, resourceVersion="9"))
    assert not store.jobs.put(job({"suspend": True}, resourceVersion="10"))
    found = store.job(Key("default", "demo"))
    assert found is not None
    assert not found.suspend


def test_a_deleted_object_never_comes_back_but_a_new_one_of_its_name_does() -> None:
    store = Store()
    store.children.put(child())
    store.children.delete(child())
    assert not store.children.put(child(resourceVersion="99"))
    assert store.children.put(child(uid="another", resourceVersion="100"))


def test_a_late_deletion_of_the_old_object_leaves_the_new_one() -> None:
    store = Store()
    store.children.put(child(uid="new", resourceVersion="50"))
    store.children.delete(child(uid="old", resourceVersion="40"))
    assert [each.uid for each in store.children.of(Key("default", "demo"))] == ["new"]


def test_a_list_removes_what_it_misses_but_not_what_is_newer_than_it() -> None:
    store = Store()
    old, fresh = pod(RUNNING), pod(RUNNING, index=1, metadata={"resourceVersion": "90"})
    store.pods.put(old)
    store.pods.put(replace(fresh, name="fresh", resource_version=90))
    store.pods.sync([], version=80)
    assert [each.name for each in store.pods.of(old.key)] == ["fresh"]


def test_a_list_of_one_job_speaks_of_that_job_only() -> None:
    store = Store()
    other = replace(pod(RUNNING), key=Key("default", "other"), uid="o")
    store.pods.put(pod(RUNNING))
    store.pods.put(other)
    store.pods.sync([], version=1000, within=[Key("default", "demo")])
    assert store.pods.of(Key("default", "demo")) == []
    assert store.pods.of(other.key) == [other]


def test_only_pods_of_the_childs_own_job_count() -> None:
    store = Store()
    store.jobs.put(job())
    store.children.put(child())
    store.pods.put(pod(RUNNING))
    store.pods.put(replace(pod(RUNNING, index=1), job_uid="forged"))
    facts = store.facts(Key("default", "demo"))
    assert facts is not None
    assert [each.index for each in facts.pods] == [0]


def test_an_ended_job_takes_little_room() -> None:
    final = {
        "type": "Complete", "status": "True", "reason": "R", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    ended = job({}, {"conditions": [final]})
    assert ended.ended
    assert ended.spec == {}
    store = Store()
    store.jobs.put(ended)
    store.children.put(child())
    store.settle(ended.key)
    facts = store.facts(ended.key)
    assert facts is not None
    assert facts.child is None
