"""Status in, text out: what a user reads."""

import io
from datetime import UTC, datetime

from rich.console import Console

from kubectl_finetune.job import Job
from kubectl_finetune.render import line, listing, summary

NOW = datetime(2026, 11, 24, 20, 10, tzinfo=UTC)
CREATED = "2026-11-24T20:00:00Z"


def condition(kind, status="True", reason="Because", message="A sentence."):
    time = "2026-11-24T20:05:00Z"
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": time,
    }


def job(name="demo", *, created=CREATED, **status):
    spec = {
        "model": {"source": "s3://models/base"},
        "method": {"type": "SFT"},
        "tuning": {"type": "LoRA"},
    }
    meta = {"name": name, "namespace": "team", "creationTimestamp": created}
    return Job({"metadata": meta, "spec": spec, "status": status})


RUNNING = job(
    state="Running",
    conditions=[condition("Accepted"), condition("Running")],
    progress={
        "phase": "Training", "step": 15, "totalSteps": 60, "percent": 25, "loss": "2.310",
        "eta": "1m40s", "tokensPerSecond": "431.7",
    },
    attempts=[{"number": 1, "state": "Running", "node": "node-0"}],
)  # fmt: skip
COMPLETE = job(
    state="Complete",
    conditions=[condition("Complete", reason="OutputPublished")],
    progress={
        "phase": "Verifying",
        "step": 60,
        "totalSteps": 60,
        "percent": 100,
        "loss": "0.9",
        "eta": "0s",
    },
    evaluation={"lossBefore": "4.1800", "lossAfter": "1.5500"},
    output={"uri": "s3://out/a", "manifestDigest": "sha256:abc", "sizeBytes": 19_600_000},
    completionTime="2026-11-24T20:04:10Z",
)
FAILED = job(
    state="Failed",
    conditions=[condition("Failed", reason="DataInvalid")],
    failure={
        "reason": "DataInvalid",
        "message": "train.jsonl line 17: not JSON",
        "hint": "mend the line",
        "logTail": "last words [bold]of[/bold] the \x1b[31mpod",
    },
    attempts=[{"number": 1, "state": "Failed", "reason": "DataInvalid", "exitCode": 65}],
)


def text(renderable, width=120):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def test_a_running_job_shows_bar_loss_speed_and_eta():
    shown = text(summary(RUNNING, NOW, [4.0, 3.0, 2.31]))
    assert "███████░" in shown
    assert "Training 15/60 (25 %)" in shown
    assert "█▄▁ 2.310" in shown
    assert "432 tokens/s, ETA 1m40s" in shown
    assert "1: Running, on node-0" in shown
    assert "created 10m0s ago" in shown


def test_conditions_are_a_table_with_ages():
    [row] = [
        each for each in text(summary(RUNNING, NOW)).splitlines() if each.startswith("Accepted")
    ]
    assert row.split() == ["Accepted", "True", "Because", "5m0s", "A", "sentence."]


def test_a_complete_job_shows_held_out_loss_and_output_and_no_eta():
    shown = text(summary(COMPLETE, NOW))
    assert "loss 4.180 → 1.550" in shown
    assert "s3://out/a (19.6 MB)" in shown
    assert "manifest sha256:abc" in shown
    assert "4m10s, ended 5m50s ago" in shown
    assert "ETA" not in shown
    assert "Verifying" not in shown


def test_a_failed_job_shows_reason_hint_and_the_pods_last_lines():
    shown = text(summary(FAILED, NOW))
    assert "DataInvalid: train.jsonl line 17: not JSON" in shown
    assert "hint: mend the line" in shown
    assert "last words [bold]of[/bold] the pod" in shown
    assert "exit code 65" in shown
    assert "\x1b" not in shown


def test_a_failure_without_a_hint_gets_the_hint_of_its_reason():
    from finetune_api.v1alpha1.reasons import MEANINGS, Reason

    hint = MEANINGS[Reason.BUCKET_NOT_FOUND].hint
    failed = job(
        state="Failed", conditions=[], failure={"reason": "BucketNotFound", "message": "no"}
    )
    assert hint
    assert f"hint: {hint}" in text(summary(failed, NOW), 300)


def test_an_unknown_reason_is_shown_as_it_is():
    shown = text(summary(job(failure={"reason": "FromTheFuture", "message": "new"}), NOW))
    assert "FromTheFuture: new" in shown
    assert "hint" not in shown


def test_a_job_that_nobody_serves_says_so():
    assert "no operator has seen this job yet" in text(summary(job(), NOW))


def test_a_waiting_job_says_what_it_waits_for():
    pending = condition("Running", "False", "PodsPending", "0/3 nodes have a free GPU")
    shown = text(summary(job(state="Starting", conditions=[pending]), NOW))
    assert shown.count("PodsPending: 0/3 nodes have a free GPU") == 1
    assert "PodsPending: 0/3 nodes" in line(job(state="Starting", conditions=[pending]))


def test_details_are_shown_only_when_asked_for():
    found = job(
        resolved=[{"field": "training.precision", "value": "Float32", "why": "no GPU"}],
        plan={"rows": 323, "fromTheFuture": 7},
    )
    assert "Float32" not in text(summary(found, NOW))
    shown = text(summary(found, NOW, verbose=True))
    assert "training.precision   Float32   no GPU" in shown
    assert "fromTheFuture" in shown


def test_hostile_status_is_shown_and_does_not_raise():
    odd = Job({
        "metadata": {"name": ["x"]},
        "spec": "nothing",
        "status": {"progress": [], "attempts": {"a": 1}, "conditions": [None, {"type": 5}], "plan": 3,
                   "output": {"uri": 7, "sizeBytes": "many"}, "resolved": [{}], "evaluation": "good"},
    })  # fmt: skip
    assert "Waiting" in text(summary(odd, NOW, verbose=True))
    assert line(odd).startswith("?: Waiting")
    assert "Waiting" in text(listing([odd], NOW, namespaces=True))


def test_ascii_terminals_get_ascii_drawings():
    shown = text(summary(RUNNING, NOW, [4.0, 2.0], ascii_only=True))
    assert "#######...." in shown
    assert "█" not in shown


def test_one_line_holds_what_is_new():
    assert line(RUNNING) == "demo: Running, Training 15/60 (25 %), loss 2.310, ETA 1m40s"
    assert line(COMPLETE) == "demo: Complete, held-out loss 4.180 → 1.550"
    assert line(FAILED) == "demo: Failed, DataInvalid: train.jsonl line 17: not JSON"


def test_jobs_are_listed_newest_first():
    older, newer = job("older"), job("newer", created="2026-11-24T20:09:00Z")
    rows = text(listing([older, newer], NOW)).splitlines()
    assert rows[0].split()[0] == "NAME"
    assert [rows[2].split()[0], rows[3].split()[0]] == ["newer", "older"]
    assert "NAMESPACE" in text(listing([older], NOW, namespaces=True))


def test_markup_in_names_is_not_interpreted():
    assert "[red]" in text(listing([job("[red]")], NOW))
