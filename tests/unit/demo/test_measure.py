"""Figures from audit events and records."""

from datetime import UTC, datetime

from demo.measure import Figures, between, first_write, step_times
from finetune_api.records import ProgressRecord
from finetune_api.v1alpha1.status import Progress


def event(verb, resource, name, code=201, second=0):
    return {
        "verb": verb,
        "objectRef": {"resource": resource, "name": name},
        "responseStatus": {"code": code},
        "stageTimestamp": f"2026-11-24T20:00:{second:02}.250000Z",
    }


def test_the_first_accepted_write_of_the_object_counts():
    events = [
        event("get", "jobs", "demo-1", 200),
        event("create", "jobs", "other-1", second=1),
        event("create", "jobs", "demo-1", 403, second=2),
        event("patch", "jobs", "demo-1", 201, second=3),
        event("patch", "jobs", "demo-1", 200, second=4),
    ]
    assert first_write(events, "jobs", "demo-1") == datetime(2026, 11, 24, 20, 0, 3, 250000, UTC)
    assert first_write(events, "jobs", "absent") is None
    assert first_write([{"verb": "list"}], "jobs", "demo-1") is None


def record(step, phase, second):
    time = f"2026-11-24T20:00:{second:02}Z"
    return ProgressRecord(progress=Progress(phase=phase, step=step, update_time=time)).to_line()


def test_steps_are_timed_by_the_trainers_own_reports():
    log = [
        "some library talks",
        record(0, "LoadingModel", 1),
        record(0, "Training", 2),
        record(1, "Training", 5) + "\n",
        record(9, "Training", 8),
        record(9, "Publishing", 20),
    ]
    times = step_times(log)
    assert [each.second for each in times] == [5, 8]
    assert between(times[0], times[-1]) == 3
    assert step_times(["nothing"]) == []


def test_what_is_not_known_is_said_so():
    lines = dict(Figures(0.1234, None, 60, 90 * 2**20, {"jobs": 1, "finetunejobs status": 3}).lines)
    assert lines["applied → Job exists"] == "0.12 s"
    assert lines["applied → first training step"] == "?"
    assert lines["operator, API writes"] == "4 (1 jobs, 3 finetunejobs status)"
    assert between(None, datetime.now(UTC)) is None
