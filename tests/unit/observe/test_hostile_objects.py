"""Objects that tenants can write, with anything in them: read without an error, shown without harm."""

import json
from typing import Any

import pytest

from finetune_api.records import ProgressRecord
from finetune_api.v1alpha1.status import Evaluation, FineTuneJobStatus, Metric, Plan, Progress
from finetune_operator.observe.facts import Ended, Tail
from finetune_operator.observe.jobs import child_job, job_facts, read_status
from finetune_operator.observe.pods import pod_facts
from finetune_operator.observe.progress import newer, read_tail, report_of
from finetune_operator.observe.text import MAX_TAIL, one_line, tail
from support.cluster_objects import PUBLISHED, batch_job, finetune_job, trainer_pod

GARBAGE: tuple[Any, ...] = (
    None, "", "x" * 100_000, "\x1b[2J\u202e\ud800", 0, -1, 10**40, 1.5, True, [], [None], [[]], {},
    {"x": None}, [{"type": 1}], [{"name": "trainer", "state": "running"}],
    [{"name": "trainer", "state": {"terminated": {"exitCode": "1", "message": 5}}}],
)  # fmt: skip


def poisoned(body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The body with each of its fields, at any depth, replaced by each piece of garbage."""
    found = []
    for path in paths(body):
        for value in GARBAGE:
            copy = json.loads(json.dumps(body))
            parent = copy
            for step in path[:-1]:
                parent = parent[step]
            parent[path[-1]] = value
            found.append((f"{path}={value!r:.40}", copy))
    return found


def paths(body: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = body.items() if isinstance(body, dict) else enumerate(body)
    found = []
    for key, value in pairs:
        found.append((*prefix, key))
        if isinstance(value, dict | list):
            found += paths(value, (*prefix, key))
    return found


@pytest.mark.parametrize("state", ["running", "waiting", "terminated"])
def test_no_field_of_a_pod_can_stop_the_operator(state: str) -> None:
    content = {"exitCode": 1, "reason": "r", "message": "m", "finishedAt": "2026-01-01T00:00:00Z"}
    conditions = [{"type": "DisruptionTarget", "status": "True", "reason": "r", "message": "m"}]
    for what, body in poisoned(trainer_pod({state: content}, conditions=conditions)):
        found = pod_facts(body)
        assert found is None or isinstance(found.index, int), what


def test_no_field_of_a_job_can_stop_the_operator() -> None:
    for what, body in poisoned(batch_job(("Failed", "BackoffLimitExceeded"))):
        found = child_job(body)
        assert found is None or isinstance(found.attempt, int), what


def test_no_field_of_a_finetune_job_can_stop_the_operator() -> None:
    condition = {
        "type": "Running", "status": "True", "reason": "R", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    status = {"conditions": [condition], "attempts": [{"number": 1, "job": "j", "state": "Failed"}]}
    for what, body in poisoned(finetune_job(status=status)):
        assert isinstance(job_facts(body).status, FineTuneJobStatus), what


def test_a_status_of_another_version_is_read_as_far_as_it_can_be() -> None:
    good = {
        "type": "Complete", "status": "True", "reason": "R", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    body = {
        "conditions": [good, {"type": "Failed"}, {**good, "type": "Unheard"}],
        "futureField": {"a": 1},
        "progress": {"phase": 5},
        "observedGeneration": 3,
    }
    status = read_status(body)
    assert [c.type for c in status.conditions or ()] == ["Complete"]
    assert status.observed_generation == 3
    assert status.progress is None


def test_pods_of_others_are_not_ours() -> None:
    assert pod_facts(trainer_pod(metadata={"labels": {}})) is None
    assert pod_facts(trainer_pod(metadata={"ownerReferences": []})) is None
    owner = {"kind": "ReplicaSet", "name": "r", "uid": "u", "controller": True}
    assert pod_facts(trainer_pod(metadata={"ownerReferences": [owner]})) is None
    assert child_job(batch_job(labels={})) is None


# -- what the trainer says -------------------------------------------------------------------------


def line(step: int, **fields: Any) -> str:
    return ProgressRecord(progress=Progress(phase="Training", step=step, **fields)).to_line()


def test_the_newest_record_counts_and_cut_ones_are_passed_over() -> None:
    found = read_tail("\n".join([line(1), "noise", line(2), line(3)[:-5]]))
    assert found.progress is not None
    assert found.progress.step == 2
    assert found.lines == ("noise", line(3)[:-5])


@pytest.mark.parametrize(
    "record",
    [
        line(1).replace('"step":1', '"step":' + "1" * 30),
        line(1).replace('"step":1', '"step":"one"'),
        line(1).replace('"step":1', '"step":NaN'),
        line(1).replace('"phase"', '"unknown"'),
        '{"record":"finetune.progress"',
        '{"record":"finetune.progress","progress":null}',
    ],
)
def test_records_that_the_api_server_would_refuse_are_passed_over(record: str) -> None:
    assert read_tail(f"{line(7)}\n{record}").progress == Progress(phase="Training", step=7)


def test_a_time_that_is_none_and_control_characters_are_taken_out() -> None:
    found = read_tail(line(1, update_time="yesterday", eta="\x1b[31m4m\x1b[0m")).progress
    assert found is not None
    assert (found.update_time, found.eta) == (None, "4m")


def test_records_that_scrolled_away_are_kept() -> None:
    old, new = read_tail(line(5)), Tail(lines=("later",))
    kept = newer(old, new)
    assert kept.progress == old.progress
    assert kept.lines == ("later",)


@pytest.mark.parametrize(
    "message",
    ["", "null", "[]", "{}", '{"outcome":"Complete"}', "\x00", "x" * 4096,
     PUBLISHED.to_message()[:-1], PUBLISHED.to_message().replace("1}", "1" + "0" * 30 + "}")],
)  # fmt: skip
def test_a_message_that_is_no_report_is_none(message: str) -> None:
    assert report_of(Ended(0, "Completed", message)) is None


def test_a_report_is_read_with_safe_texts() -> None:
    evil = PUBLISHED.model_copy(update={"message": "a\x1b]0;title\x07b\nc\u202ed"})
    found = report_of(Ended(0, "Completed", evil.to_message()))
    assert found is not None
    assert found.message == "ab cd"
    assert found.output == PUBLISHED.output


def test_text_is_bounded_and_on_one_line() -> None:
    assert one_line("x" * 10_000, 10) == "x" * 9 + "…"
    assert one_line("a\r\n\tb\x00c\x9b31m\u2066") == "a bc31m"


def test_the_log_tail_keeps_indentation_and_what_progress_bars_left() -> None:
    assert (
        tail(("10%\r50%\r100%\r", "", '  File "x"', "\x1b[1mend\x1b[0m")) == '100%\n  File "x"\nend'
    )
    assert tail(()) is None


def test_the_log_tail_is_bounded() -> None:
    found = tail(tuple("y" * 5000 for _ in range(500)))
    assert found is not None
    assert 0 < len(found) <= MAX_TAIL
    assert len(found.splitlines()) <= 20


def test_names_that_the_trainer_made_are_safe_and_distinct() -> None:
    metrics = [
        Metric(name="f1", after="0.1"),
        Metric(name="f1", after="0.9"),
        Metric(name="\x1b[2J"),
    ]
    report = PUBLISHED.model_copy(
        update={
            "evaluation": Evaluation(metrics=metrics),
            "plan": Plan(class_counts={"\x1b[31mspam\u202e": 3, "\u202e": 1}),
            "progress": Progress(phase="Training", metrics={"a\nb": "1"}),
        }
    )
    found = report_of(Ended(0, "Completed", report.to_message(), None))
    assert found is not None
    assert found.evaluation is not None
    assert found.evaluation.metrics == [Metric(name="f1", after="0.9"), Metric(name="")]
    assert found.plan == Plan(class_counts={"spam": 3, "": 1})
    assert found.progress == Progress(phase="Training", metrics={"a b": "1"})
