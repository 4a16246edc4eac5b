"""How long from an accepted FineTuneJob to its pod, against a plain Job on the same cluster.

    make bench ARGS="--jobs 20"

Starts a dev cluster with the operator under the chart's rights, creates plain Jobs and FineTuneJobs in
turns, one after another, and reads all times from the API server's audit log. The trainer is a fake
that ends at once: nothing here measures training. Prints the figures and the ratio, and writes them
to `benchmarks/results/`.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.definition import ROOT
from support.jobs import manifest
from support.stack import Stack
from support.tenant import Tenant, until

NAMESPACE = "bench"
FAKE = [sys.executable, str(ROOT / "tests/support/fake_trainer.py")]
RESULTS = ROOT / "benchmarks/results/control_plane.json"


def plain_job(name: str) -> dict[str, Any]:
    """A Job with one pod that ends at once: the floor of every operator that creates Jobs."""
    container = {"name": "trainer", "image": "finetune-trainer", "command": ["true"]}
    spec = {
        "backoffLimit": 0,
        "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
    }
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def finetune_job(name: str) -> dict[str, Any]:
    """A FineTuneJob of the fake trainer."""
    return manifest(name, {"output.uri": "s3://models/publishes-0"}, namespace=NAMESPACE)


def created(stack: Stack, since: int, resource: str, name: str) -> float | None:
    """When the first object of that kind, whose name begins so, was created; from the audit log."""
    for event in stack.cluster.audit.events(None, since):
        reference = event.get("objectRef", {})
        kind = (reference.get("resource"), reference.get("subresource"))
        if event["verb"] != "create" or kind != (resource, None):
            continue
        # Names of pods are generated; jobs run one at a time here, so the first pod is the one.
        if resource == "pods" or str(reference.get("name", name)).startswith(name):
            return datetime.fromisoformat(event["stageTimestamp"]).timestamp()
    return None


def measure(stack: Stack, name: str, body: dict[str, Any], first: str) -> dict[str, float]:
    """Create one object; milliseconds from its creation to its Job and to its pod."""
    mark = stack.cluster.audit.mark()
    stack.cluster.kubectl("create", "-f", "-", stdin=json.dumps(body))
    pod = until(lambda: created(stack, mark, "pods", name), 30)
    start, job = (created(stack, mark, kind, name) for kind in (first, "jobs"))
    if start is None or job is None:
        raise RuntimeError(f"{name}: the audit log lacks its creation or its Job's")
    return {"job": 1000 * (job - start), "pod": 1000 * (pod - start)}


def run(stack: Stack, count: int) -> dict[str, Any]:
    """All measurements, plain Jobs and FineTuneJobs in turns."""
    tenant = Tenant(stack, NAMESPACE)
    plain, ours = [], []
    mark = stack.cluster.audit.mark()
    for number in range(count):
        plain.append(measure(stack, f"plain-{number}", plain_job(f"plain-{number}"), "jobs"))
        name = f"ours-{number}"
        ours.append(measure(stack, name, finetune_job(name), "finetunejobs"))
        tenant.wait(name, "Complete", 60)
    return {
        "jobs": count,
        "plain Job to pod, ms": spread(plain, "pod"),
        "FineTuneJob to Job, ms": spread(ours, "job"),
        "FineTuneJob to pod, ms": spread(ours, "pod"),
        "ratio to plain Job (median, to pod)": ratio(ours, plain),
        "operator writes a job": len(stack.operator_writes(since=mark)) / count,
        "operator peak RSS, MiB": round(stack.operator_memory() / 2**20),
    }


def spread(found: list[dict[str, float]], key: str) -> dict[str, float]:
    """Minimum, median and maximum."""
    values = [each[key] for each in found]
    pairs: tuple[tuple[str, Callable[[list[float]], float]], ...]
    pairs = (("min", min), ("median", statistics.median), ("max", max))
    return {name: round(function(values), 1) for name, function in pairs}


def ratio(ours: list[dict[str, float]], plain: list[dict[str, float]]) -> float:
    """Median of ours over median of the peer."""
    return round(spread(ours, "pod")["median"] / spread(plain, "pod")["median"], 2)


def main() -> None:
    """Run, print, and keep the result with its hardware."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=20, help="jobs of each kind")
    count = parser.parse_args().jobs
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack.start(Path(folder), buckets=("models",), images={"finetune-trainer": FAKE}) as stack,
    ):
        stack.apply_definition()
        stack.install()
        stack.create_tenant(NAMESPACE)
        stack.start_operator()
        time.sleep(2)
        found = run(stack, count)
    machine = {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    result = {"date": datetime.now(UTC).date().isoformat(), **machine, "gpu": "none", **found}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
