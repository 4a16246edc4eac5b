"""One run at a time, steps that tell how they went, and no success where there was none."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from demo import __main__ as demo
from demo.console import Steps
from demo.scenario import DemoError
from devcluster import DevClusterError


@pytest.fixture
def steps():
    return Steps(Console(file=io.StringIO(), width=120, color_system=None))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "STATE", tmp_path / "demo")
    monkeypatch.setattr(demo, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(demo, "ENDING", ())


def printed(steps):
    return steps.console.file.getvalue()


def test_a_second_demo_is_refused(place):
    with (
        demo.alone(),
        pytest.raises(DevClusterError, match="another `make demo` is running"),
        demo.alone(),
    ):
        pass
    with demo.alone():
        pass


def test_a_step_is_timed(steps):
    with steps.step("work"):
        steps.say("one\ntwo")
    assert "▶ work" in printed(steps)
    assert "  two\n" in printed(steps)
    assert "✓ 0.0 s" in printed(steps)
    assert set(steps.seconds) == {"work"}


def test_a_failed_step_is_marked(steps):
    with pytest.raises(ZeroDivisionError), steps.step("work"):
        _ = 1 / 0
    assert "✗" in printed(steps)
    assert "✓" not in printed(steps)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DemoError("the job is not Complete"), 1, "The demo failed: the job is not Complete"),
        (DevClusterError("no Go compiler", "install it"), 1, "hint: install it"),
        (subprocess.CalledProcessError(2, ["ask.py"]), 1, "ask.py"),
        (demo.Interrupted("SIGTERM"), 130, "stopped by SIGTERM"),
    ],
)
def test_a_run_that_fails_says_why_and_cleans_up(steps, monkeypatch, error, code, text):
    def fail(_):
        raise error

    monkeypatch.setattr(demo.Scenario, "run", fail)
    assert demo.play(steps, keep=False) == code
    assert text in printed(steps)
    assert "cluster and S3 are stopped" in printed(steps)


@pytest.mark.parametrize(("fell", "code"), [(True, 0), (False, 1)])
def test_a_run_succeeds_only_if_the_loss_fell(steps, fell, code):
    assert demo.announce(steps, fell=fell) == code


def test_help_is_there():
    argv = [sys.executable, "-P", "-m", "demo", "--help"]
    tests = demo.ROOT / "tests"
    done = subprocess.run(
        argv, env={"PYTHONPATH": str(tests)}, capture_output=True, text=True, check=True
    )
    assert "--keep" in done.stdout
