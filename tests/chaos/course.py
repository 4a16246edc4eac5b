"""One job without faults, the same job with them, and whether both published the same adapter.

Called by `python -m chaos` and by the e2e test. The job checkpoints every few steps and may be tried
again as often as it takes: what is tested is the result, not the budget.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.faults import ENDING, FAULTS, Target
from support.tenant import Object, Tenant, conditions, until

STEPS, EVERY = 1200, 25
WAIT_SECONDS = 240.0
# Most of a short job is start-up; this share of the faults waits until it trains.
IN_TRAINING = 0.7
MOMENT_SECONDS = 6.0
TRAINING: Object = {"batchSize": 8, "learningRate": 1e-2, "logEverySteps": 1}


def job(nodes: int = 1, steps: int = STEPS) -> Object:
    """The job that is disturbed, on so many pods of one process."""
    return {
        "training": {"maxSteps": steps, **TRAINING},
        "checkpoints": {"everySteps": EVERY},
        "resources": {"gpusPerNode": 0, "nodes": nodes},
        "runPolicy": {"retries": {"infrastructure": 100}},
    }


@dataclass(frozen=True)
class Kill:
    """One fault that struck.

    Attributes:
        fault: Key of `FAULTS`.
        step: Last step that the status knew of when it struck.
        attempt: Number of the attempt that it struck.
        recovered: Seconds from the fault before until training went on; None if this one did not wait
            for that.
    """

    fault: str
    step: int
    attempt: int
    recovered: float | None = None


@dataclass(frozen=True)
class Result:
    """What a disturbed run came to.

    Attributes:
        kills: The faults that struck.
        same: Whether every published weight has the bytes of the undisturbed run.
        differing: Steps whose training loss is not that of the undisturbed run.
        attempts: The ledger in the status.
        seconds: From apply to Complete.
    """

    kills: Sequence[Kill]
    same: bool
    differing: Sequence[int]
    attempts: Sequence[Object]
    seconds: float

    def recoveries(self) -> list[float]:
        """Seconds from faults that ended an attempt until training went on."""
        after = zip(self.kills, self.kills[1:], strict=False)
        return [b.recovered for a, b in after if a.fault in ENDING and b.recovered is not None]


def undisturbed(tenant: Tenant, name: str, folder: Path, wanted: Object | None = None) -> Path:
    """Runs the job without faults; returns the folder with its output."""
    tenant.apply(name, wanted or job())
    return _output(tenant, tenant.wait(name, "Complete", 600), folder)


def disturbed(
    target: Target,
    faults: Sequence[str],
    reference: Path,
    folder: Path,
    tell: Callable[[str], None] = print,
) -> Result:
    """Runs the job, lets the faults strike in turn, and compares with the reference.

    Args:
        target: The job to be.
        faults: Keys of `FAULTS`, in the order in which they strike.
        reference: Folder of the undisturbed output.
        folder: Where the output is downloaded to.
        tell: Is told of every fault.
    """
    began = time.monotonic()
    kills: list[Kill] = []
    target.tenant.apply(target.job, target.wanted or job())
    for number, fault in enumerate(faults, 1):
        kill = _strike(target, fault, kills[-1] if kills else None)
        if kill is None:
            break
        kills.append(kill)
        back = f", training again after {kill.recovered} s" if kill.recovered else ""
        tell(f"{number:>3}  {fault:<12} attempt {kill.attempt:<3} step {kill.step}{back}")
    status = target.tenant.wait(target.job, "Complete", 1800)
    output = _output(target.tenant, status, folder)
    seconds = round(time.monotonic() - began, 1)
    differ = tuple(_differing_losses(reference, output))
    same = weights(reference) == weights(output)
    return Result(kills, same, differ, status["attempts"], seconds)


def weights(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file of an output."""
    found = sorted(folder.rglob("*.safetensors"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _strike(target: Target, fault: str, last: Kill | None) -> Kill | None:
    """Strikes at a random moment; None if the job has ended before."""
    began = time.monotonic()
    back = _wait_for_training(target, last) if target.random.random() < IN_TRAINING else None
    time.sleep(target.random.uniform(0, MOMENT_SECONDS))
    while time.monotonic() < began + WAIT_SECONDS:
        status = _going_on(target)
        if status is None:
            return None
        if FAULTS[fault](target):
            step = (status.get("progress") or {}).get("step", 0)
            attempt = (status.get("attempts") or [{"number": 0}])[-1]["number"]
            return Kill(fault, step, attempt, None if back is None else round(back - began, 1))
        time.sleep(0.5)
    raise AssertionError(f"nothing to strike with {fault!r} within {WAIT_SECONDS:.0f} s: {status}")


def _wait_for_training(target: Target, last: Kill | None) -> float:
    """The time at which training was seen to go on after the last fault, or the job to have ended.

    Just after a fault, the status still tells of the time before.
    """
    ended = last is not None and last.fault in ENDING
    before = (last.attempt, math.inf if ended else last.step) if last else (0, 0)

    def goes_on() -> bool | None:
        status = _going_on(target)
        if status is None:
            return True
        attempt = (status.get("attempts") or [{}])[-1]
        progress = status.get("progress") or {}
        news = (attempt.get("number", 0), progress.get("step", 0)) > before
        trains = (attempt.get("state"), progress.get("phase")) == ("Running", "Training")
        return (news and trains) or None

    until(goes_on, WAIT_SECONDS, lambda: str(_status(target)))
    return time.monotonic()


def _going_on(target: Target) -> Object | None:
    """The status of a job that has not ended; None if it is complete."""
    status: Object = until(lambda: _status(target), WAIT_SECONDS)
    assert conditions(status).get("Failed") != "True", status["failure"]
    return None if conditions(status).get("Complete") == "True" else status


def _status(target: Target) -> Object | None:
    found = target.tenant.stack.cluster.kubectl(
        "get", "ftj", target.job, "-n", target.tenant.namespace, "-o", "json", check=False
    )
    if found.returncode:
        return None
    status: Object = json.loads(found.stdout).get("status") or {}
    return status


def _output(tenant: Tenant, status: Object, folder: Path) -> Path:
    return tenant.download(status["output"]["uri"], folder)


def _differing_losses(reference: Path, output: Path) -> list[int]:
    expected, found = _losses(reference), _losses(output)
    return [step for step in expected if found.get(step) != expected[step]]


def _losses(folder: Path) -> dict[int, Any]:
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}
