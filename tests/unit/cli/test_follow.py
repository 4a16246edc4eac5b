"""Following a job: what a pipe gets, and which losses the sparkline knows."""

import io

from rich.console import Console

from kubectl_finetune.follow import Losses, ascii_only, open_console, show
from kubectl_finetune.job import Job

END = [{"type": "Complete", "status": "True"}]


def at(step, loss="2.0", conditions=()):
    progress = {
        "phase": "Training",
        "step": step,
        "totalSteps": 4,
        "percent": step * 25,
        "loss": loss,
    }
    meta = {"name": "demo", "namespace": "team"}
    return Job(
        {
            "metadata": meta,
            "status": {"state": "S", "progress": progress, "conditions": list(conditions)},
        }
    )


def pipe():
    return Console(file=io.StringIO(), width=200, color_system=None)


def test_a_pipe_gets_a_line_a_change_and_the_summary_at_the_end():
    console = pipe()
    last = show(console, [at(1), at(1), at(2), at(4, conditions=END)])
    lines = console.file.getvalue().splitlines()
    news = [each for each in lines if "demo: S" in each]
    assert len(news) == 3
    assert "1/4 (25 %)" in news[0]
    assert "2/4 (50 %)" in news[1]
    assert any(each.startswith("Job") and "team/demo" in each for each in lines)
    assert last.outcome == "Complete"


def test_a_job_that_has_not_ended_gets_no_summary():
    console = pipe()
    assert show(console, [at(1)]).outcome is None
    assert "team/demo" not in console.file.getvalue()


def test_a_terminal_gets_the_live_display():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    show(console, [at(1), at(4, conditions=END)])
    shown = console.file.getvalue()
    assert "\x1b[" in shown
    assert "4/4 (100 %)" in shown


def test_losses_are_kept_by_step():
    losses = Losses()
    losses.see(at(1, "4.0"))
    losses.see(at(3, "2.0"))
    losses.see(at(1, "4.5"))
    assert losses.see(at(2, "odd")) == [4.5, 2.0]


def test_pipes_are_not_folded(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert open_console().width >= 400


def test_the_encoding_decides_on_blocks():
    latin = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert ascii_only(latin)
    assert not ascii_only(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8")))
