"""The command line of `make demo`: one run at a time, cleaned up however it ends.

`python -P -m demo [--keep]` with `PYTHONPATH=tests`. Exit code 0 only if the job is Complete and its
loss fell on rows that it never saw.
"""

import argparse
import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from demo.console import Steps
from demo.scenario import JOB, NAMESPACE, DemoError, Scenario
from devcluster import DevClusterError
from devcluster.cluster import stop
from devcluster.paths import cache_dir
from support.chart import HelmError
from support.definition import ROOT

STATE = cache_dir() / "demo"
RESULTS = ROOT / ".demo"
FAILURES = (DemoError, DevClusterError, HelmError, TimeoutError, subprocess.CalledProcessError)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the demo to end."""


def interrupt(number: int, _: FrameType | None) -> None:
    """Turns a signal into an exception, so that everything is cleaned up on the way out."""
    raise Interrupted(signal.Signals(number).name)


@contextmanager
def alone() -> Iterator[None]:
    """Makes sure that no other demo runs on this machine for this user."""
    STATE.parent.mkdir(parents=True, exist_ok=True)
    with STATE.with_name("demo.running").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DevClusterError(
                "another `make demo` is running", "wait for it, or set FINETUNE_CACHE for this one"
            ) from None
        yield


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument(
        "--keep",
        action="store_true",
        help="leave the cluster running at the end (not after Ctrl-C)",
    )
    return parser.parse_args()


def play(steps: Steps, *, keep: bool) -> int:
    """Runs the demo and cleans up; returns the exit code."""
    scenario = Scenario(steps, STATE, RESULTS)
    stop(STATE)  # a cluster that an earlier run kept
    try:
        return announce(steps, fell=scenario.run().fell)
    except FAILURES as error:
        scenario.explain(error)
        return 1
    except Interrupted as signal_name:
        steps.console.print(f"\nstopped by {signal_name}")
        keep = False
        return 130
    finally:
        finish(steps, scenario, keep=keep)


def announce(steps: Steps, *, fell: bool) -> int:
    """Says in one line how a run that reached its end went; returns the exit code."""
    if fell:
        steps.console.print("\nThe job is Complete and the loss fell.", style="bold green")
        return 0
    steps.console.print("\nThe job is Complete, but the loss did not fall.", style="bold red")
    return 1


def finish(steps: Steps, scenario: Scenario, *, keep: bool) -> None:
    """Stops everything, or says how to use and stop what was asked to stay."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
    if keep and scenario.stack:
        say_how_to_use(steps, scenario)
        return
    stop(STATE)
    steps.console.print("operator, cluster and S3 are stopped")


def say_how_to_use(steps: Steps, scenario: Scenario) -> None:
    """Prints the lines for a user's shell."""
    assert scenario.stack
    down = f"PYTHONPATH=tests .venv/bin/python -P -m devcluster --state {STATE} down"
    variables = scenario.stack.environment()
    shown = ("KUBECONFIG", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    steps.console.print("\nThe cluster keeps running. To use it:")
    steps.say("\n".join(f"export {name}={variables[name]}" for name in (*shown, "AWS_REGION")))
    steps.say(
        f"PATH={Path(sys.executable).parent}:$PATH kubectl finetune status {JOB} -n {NAMESPACE}"
    )
    steps.console.print("To stop it:")
    steps.say(down)


def main() -> int:
    """Runs the command line."""
    given = arguments()
    for number in ENDING:
        signal.signal(number, interrupt)
    steps = Steps()
    try:
        with alone():
            return play(steps, keep=given.keep)
    except DevClusterError as error:
        steps.console.print(f"error: {error}", markup=False)
        return 1
    except Interrupted:
        return 130


if __name__ == "__main__":
    sys.exit(main())
