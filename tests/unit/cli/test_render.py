"""What the plugin prints for a job: readable without colour, honest about what is missing."""

from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from kubectl_finetune.follow import Losses
from kubectl_finetune.job import Job
from kubectl_finetune.render import line, listing, summary

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
RUNNING: dict[str, Any] = {
    "metadata": {"name": "demo", "namespace": "team", "creationTimestamp": "2026-11-24T11:58:00Z"},
    "spec": {
        "model": {"source": "s3://models/base"},
        "method": {"type": "SFT"},
        "tuning": {"type": "LoRA"},
    },
    "status": {
        "state": "Running",
        "conditions": [
            {"type": "Accepted", "status": "True", "reason": "SpecAccepted", "message": "Fine."},
            {"type": "Running", "status": "True", "reason": "PodsRunning", "message": "All run."},
        ],
        "progress": {
            "phase": "Training", "step": 15, "totalSteps": 60, "percent": 25,
            "loss": "1.25", "tokensPerSecond": "310", "eta": "1m30s",
        },
        "resolved": [{"field": "training.precision", "value": "Float32", "why": "on the CPU"}],
        "plan": {"rows": 64},
    },
}  # fmt: skip


def job(status: dict[str, Any] | None = None) -> Job:
    return Job(RUNNING if status is None else RUNNING | {"status": status})


def text(renderable: object) -> str:
    console = Console(width=200, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_a_running_job_shows_its_bar_loss_and_eta() -> None:
    shown = text(summary(job(), NOW, [2.0, 1.5, 1.25]))
    assert "team/demo" in shown
    assert "███████░" in shown
    assert "Training 15/60 (25 %)" in shown
    assert "█▃▁ 1.25" in shown
    assert "310 tokens/s, ETA 1m30s" in shown
    assert "created 2m0s ago" in shown


def test_ascii_terminals_get_ascii() -> None:
    shown = text(summary(job(), NOW, [2.0, 1.0], ascii_only=True))
    assert "#######." in shown
    assert "█" not in shown


def test_resolved_values_and_plan_come_with_verbose_only() -> None:
    assert "on the CPU" not in text(summary(job(), NOW))
    verbose = text(summary(job(), NOW, verbose=True))
    assert "training.precision" in verbose
    assert "rows" in verbose


def test_a_failed_job_shows_reason_message_hint_and_log() -> None:
    failure = {"reason": "DataInvalid", "message": "a.jsonl line 17: bad", "logTail": "last words"}
    condition = {"type": "Failed", "status": "True", "reason": "DataInvalid"}
    shown = text(
        summary(job({"state": "Failed", "failure": failure, "conditions": [condition]}), NOW)
    )
    assert "DataInvalid: a.jsonl line 17: bad" in shown
    # Without a hint in the status, the one that belongs to the reason.
    assert "hint: Mend the file at the line" in shown
    assert "last words" in shown


def test_a_complete_job_shows_output_and_held_out_loss() -> None:
    status = {
        "state": "Complete",
        "conditions": [{"type": "Complete", "status": "True", "reason": "OutputPublished"}],
        "evaluation": {"lossBefore": "3.4580", "lossAfter": "1.7980"},
        "output": {"uri": "s3://out/a", "sizeBytes": 23_100_000, "manifestDigest": "sha256:ab"},
    }
    shown = text(summary(job(status), NOW))
    assert "loss 3.458 → 1.798" in shown
    assert "s3://out/a (23.1 MB)" in shown
    assert line(job(status)) == "demo: Complete, held-out loss 3.458 → 1.798"


def test_metrics_of_a_method_are_shown_beside_or_without_a_loss() -> None:
    metrics = [
        {"name": "accuracy", "before": "0.51", "after": "0.83"}, {"name": "margin", "after": "1.2"},
        {"name": "first", "before": "3"}, {"name": "empty"},
    ]  # fmt: skip
    status = {
        "state": "Complete",
        "conditions": [{"type": "Complete", "status": "True", "reason": "OutputPublished"}],
        "evaluation": {"metrics": metrics},
        "progress": {"phase": "Training", "metrics": {"rewardMargin": "0.4", "kl": "0.01"}},
    }
    shown = text(summary(job(status), NOW))
    assert "Held out  accuracy 0.51 → 0.83" in shown
    assert "margin 1.2" in shown
    assert "first 3 before" in shown
    assert "empty" not in shown
    assert "rewardMargin 0.4, kl 0.01" in shown
    said = line(
        job(status | {"evaluation": {"lossBefore": "2", "lossAfter": "1", "metrics": metrics[:1]}})
    )
    assert said == "demo: Complete, held-out loss 2.000 → 1.000, accuracy 0.51 → 0.83"


def test_what_is_odd_about_the_data_is_shown_and_what_is_not_is_left_out() -> None:
    plan = {"rows": 120, "evaluationRows": 12, "truncatedRows": 3, "skippedRows": 0, "duplicateRows": 7,
            "identicalPairs": 2, "rowsWithoutStopToken": 1, "longestRow": 4096}  # fmt: skip
    shown = text(summary(job({"plan": plan}), NOW))
    expected = (
        "120 rows, 12 held out, 3 cut, 7 duplicates, 2 pairs of equal answers, "
        "1 without a stop token, longest 4096 tokens"
    )
    assert expected in shown
    assert "Data" not in text(summary(job({"plan": {}}), NOW))


def test_classes_are_listed_with_their_rows() -> None:
    many = {f"class-{number}": number for number in range(10)}
    shown = text(summary(job({"plan": {"classCounts": many}}), NOW, verbose=True))
    assert "class-0: 0, class-1: 1" in shown
    assert "class-7: 7 and 2 more" in shown


def test_a_preflight_and_a_waiting_job_say_so() -> None:
    checking = {
        "type": "Running", "status": "False", "reason": "PreflightRunning", "message": "The input is read.",
    }  # fmt: skip
    said = line(job({"state": "Preflight", "conditions": [checking]}))
    assert said == "demo: Preflight, PreflightRunning: The input is read."
    waits = {
        "type": "Accepted", "status": "False", "reason": "WaitingForJob",
        "message": "waits for the output of job base (Running)",
    }  # fmt: skip
    shown = text(summary(job({"state": "Waiting", "conditions": [waits]}), NOW))
    assert "WaitingForJob: waits for the output of job base (Running)" in shown


def test_attempts_and_the_checkpoint_are_shown_with_what_comes_next() -> None:
    waits = {
        "type": "Running", "status": "False", "reason": "RetryWaiting",
        "message": "attempt 2 begins after 2026-01-01T00:00:10Z",
    }  # fmt: skip
    status = {
        "state": "Retrying", "conditions": [waits],
        "attempts": [{
            "number": 1, "job": "demo-1", "state": "Failed", "reason": "NodeLost", "exitCode": 143,
            "node": "gpu-7", "startStep": 40, "endStep": 52,
        }],
        "checkpoint": {"step": 50, "uri": "s3://b/checkpoints/u/1-50", "sizeBytes": 2048},
    }  # fmt: skip
    shown = text(summary(job(status), NOW))
    assert "RetryWaiting: attempt 2 begins after" in shown
    assert "1: Failed, NodeLost, exit code 143, on gpu-7, from step 40, step 52" in shown
    assert "step 50, s3://b/checkpoints/u/1-50 (2" in shown


def test_a_job_that_waits_says_why() -> None:
    waiting = {"type": "Running", "status": "False", "reason": "PodsPending", "message": "no GPU"}
    assert (
        line(job({"state": "Pending", "conditions": [waiting]}))
        == "demo: Pending, PodsPending: no GPU"
    )
    assert "no operator has seen this job yet" in line(job({}))


def test_a_line_changes_only_with_news() -> None:
    assert line(job()) == "demo: Running, Training 15/60 (25 %), loss 1.25, ETA 1m30s"


def test_text_from_a_pod_cannot_move_the_cursor() -> None:
    failure = {"reason": "PodLost", "message": "gone", "logTail": "\x1b[2J\x1b[31mred\x07"}
    shown = text(summary(job({"failure": failure}), NOW))
    assert "\x1b" not in shown
    assert "red" in shown


@pytest.mark.parametrize(
    "status",
    [
        {"progress": "nonsense"},
        {"conditions": "nonsense"},
        {"conditions": [3, None]},
        {"progress": {"step": "x", "totalSteps": 0}},
        {"evaluation": {"lossBefore": "?", "metrics": {"a": 1}}},
        {"evaluation": {"metrics": [1, {"name": 3, "before": []}]}},
        {"plan": [1], "progress": {"metrics": [1]}},
        {"plan": {"rows": "many", "classCounts": 3}},
        {"fieldOfALaterVersion": {"a": 1}},
    ],
    ids=str,
)
def test_a_strange_status_is_shown_as_far_as_it_goes(status: dict[str, Any]) -> None:
    assert "team/demo" in text(summary(job(status), NOW, verbose=True))


def test_the_list_has_the_newest_first() -> None:
    older = Job(
        RUNNING | {"metadata": {"name": "older", "creationTimestamp": "2026-11-23T00:00:00Z"}}
    )
    lines = text(listing([older, job()], NOW)).splitlines()
    names = [row.split()[0] for row in lines if row.strip() and not row.startswith("─")]
    assert names == ["NAME", "demo", "older"]


def test_losses_keep_one_value_a_step() -> None:
    losses = Losses()
    for step, loss in ((1, "3.0"), (1, "3.0"), (2, "2.0")):
        seen = losses.see(job({"progress": {"step": step, "loss": loss}}))
    assert seen == [3.0, 2.0]
