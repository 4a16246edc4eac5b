"""What the finished job left behind: shown from the cluster, from S3, and by asking the model.

Called by `scenario` once the job is Complete. The questions run in a process of their own that knows
nothing of this project but the files in S3.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from demo.console import Steps
from demo.curve import Curve
from support.stack import Stack


@dataclass(frozen=True)
class Verdict:
    """Held-out loss, as the job reported it and as the fresh process measured it."""

    reported_before: float
    reported_after: float
    measured_before: float
    measured_after: float

    @property
    def fell(self) -> bool:
        """Whether both say that the model learned."""
        reported = self.reported_after < self.reported_before
        return reported and self.measured_after < self.measured_before


def show_files(steps: Steps, stack: Stack, uri: str) -> None:
    """Lists the output's files with their sizes."""
    bucket, prefix = split(uri)
    pages = (
        stack.s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    )
    table = Table("FILE", Column("BYTES", justify="right"), box=None, pad_edge=False)
    for entry in (each for page in pages for each in page.get("Contents", ())):
        key = entry["Key"].removeprefix(prefix).lstrip("/")
        table.add_row(Text(key), Text(f"{entry['Size']:,}"))
    steps.say(f"s3://{bucket}/{prefix}")
    steps.console.print(table)


def show_curve(steps: Steps, stack: Stack, status: dict[str, Any], picture: Path) -> None:
    """Draws the loss curve in the terminal and as a PNG."""
    bucket, prefix = split(status["output"]["uri"])
    body = stack.s3.client().get_object(Bucket=bucket, Key=f"{prefix}/training_log.jsonl")["Body"]
    curve = Curve.read(body.read().decode())
    held_out = status["evaluation"]
    curve.save(picture, (float(held_out["lossBefore"]), float(held_out["lossAfter"])))
    steps.console.print(Text(curve.text()))
    steps.say(f"the same as a picture: {picture}")


def ask(stack: Stack, example: Path, model: Path, data: Path, uri: str) -> dict[str, Any]:
    """Asks base and tuned model in a fresh process; returns its findings."""
    argv: list[str | Path] = [
        sys.executable,
        "-P",
        example / "ask.py",
        "--json",
        "--model",
        model,
        "--adapter",
        uri,
    ]
    argv += ["--evaluation", data / "evaluation.jsonl", "--endpoint", stack.s3.endpoint]
    # On a busy machine, threads that spin while they wait make this many times slower.
    env = stack.environment() | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def show_answers(steps: Steps, found: dict[str, Any]) -> None:
    """Prints each question with the answers before and after."""
    for answer in found["answers"]:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(overflow="fold", max_width=90)
        grid.add_row("Question", Text(answer["question"], "bold"))
        grid.add_row("Reference", Text(answer["reference"], "dim"))
        grid.add_row("Before", Text(answer["before"].strip(), "red"))
        grid.add_row("After", Text(answer["after"].strip(), "green"))
        steps.console.print(grid, "")


def verdict(status: dict[str, Any], found: dict[str, Any]) -> Verdict:
    """Puts the job's own figures beside those of the fresh process."""
    held_out = status["evaluation"]
    return Verdict(
        float(held_out["lossBefore"]),
        float(held_out["lossAfter"]),
        found["lossBefore"],
        found["lossAfter"],
    )


def split(uri: str) -> tuple[str, str]:
    """Bucket and prefix of an `s3://` URI."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix.rstrip("/")
