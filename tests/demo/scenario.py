"""The demo from the first process to the last answer, in order.

Run by `__main__`, which cleans up whatever this leaves. Everything a user would do is done with the
user's own tools: kubectl, the plugin and the example's two scripts.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from demo.console import Steps, columns
from demo.measure import Figures, figures
from demo.outcome import Verdict, ask, show_answers, show_curve, show_files, verdict
from support.definition import CRD, ROOT
from support.stack import BUCKET, SECRET, Stack

EXAMPLE = ROOT / "examples" / "01-kubectl-assistant"
JOB, NAMESPACE = "kubectl-assistant", "ml-team"
# A person is watching: the status moves every two seconds, not every ten.
VALUES = {"operator": {"statusIntervalSeconds": 2, "progressIntervalSeconds": 1}}


class DemoError(RuntimeError):
    """A step of the demo did not do what it should; what failed was printed above."""


@dataclass
class Scenario:
    """One run of the demo; `stack` is there once the cluster runs."""

    steps: Steps
    state: Path
    results: Path
    stack: Stack | None = None

    def run(self) -> Verdict:
        """Runs all steps.

        Raises:
            DemoError: The job did not end Complete, or a command failed.
        """
        with self.steps.step("start Kubernetes and S3 on this machine"):
            self.stack = stack = Stack.start(self.state, progress=self.steps.say)
            self.steps.say("\n".join(stack.cluster.status_lines()))
        with self.steps.step("make the data and the model, and upload them"):
            model = self.prepare(stack)
        with self.steps.step("install the definition, the operator's rights, a team's namespace"):
            self.install(stack)
        with self.steps.step("start the operator"):
            stack.start_operator()
            self.steps.say(f"operator healthy; its log is {stack.operator_log}")
        with self.steps.step("apply the job and follow it"):
            self.follow(stack)
        with self.steps.step("look at the result"):
            status = self.look(stack)
        with self.steps.step("ask the model before and after"):
            found = ask(stack, EXAMPLE, model, self.data, status["output"]["uri"])
            show_answers(self.steps, found)
        result = verdict(status, found)
        taken = figures(stack, JOB, self.trainer_log(stack).splitlines())
        self.summarise(result, taken)
        return result

    @property
    def data(self) -> Path:
        """Folder of the example's data."""
        return self.results / "data"

    def prepare(self, stack: Stack) -> Path:
        """Runs the example's `prepare.py`; returns the folder of the base model."""
        argv = [sys.executable, "-P", str(EXAMPLE / "prepare.py"), "--bucket", BUCKET]
        argv += ["--kubectl", str(stack.cluster.kubectl_path), "--data", str(self.data)]
        argv += ["--endpoint", stack.s3.endpoint]
        self.steps.command(f"python prepare.py --bucket {BUCKET} --endpoint {stack.s3.endpoint}")
        done = subprocess.run(
            argv, env=stack.environment(), stdout=subprocess.PIPE, text=True, check=False
        )
        self.steps.say(done.stdout)
        if done.returncode != 0:
            raise DemoError("prepare.py failed")
        [line] = [line for line in done.stdout.splitlines() if line.startswith("model in ")]
        return Path(line.removeprefix("model in "))

    def install(self, stack: Stack) -> None:
        """Does what an administrator does once."""
        self.steps.command("kubectl", "apply", "-f", str(CRD.relative_to(ROOT)))
        stack.apply_definition()
        stack.install(VALUES)
        assert stack.account
        self.steps.say(f"rights of the chart given to {stack.account.user}")
        stack.create_tenant(NAMESPACE)
        self.steps.say(f"namespace {NAMESPACE} with Secret {SECRET}")

    def follow(self, stack: Stack) -> None:
        """Applies the job and shows its status until it ends."""
        manifest = str((EXAMPLE / "job.yaml").relative_to(ROOT))
        if self.kubectl(stack, "apply", "-n", NAMESPACE, "-f", manifest) != 0:
            raise DemoError(f"{manifest} was refused")
        if self.kubectl(stack, "finetune", "status", JOB, "-n", NAMESPACE, "--watch") != 0:
            raise DemoError(f"job {NAMESPACE}/{JOB} is not Complete")

    def look(self, stack: Stack) -> dict[str, Any]:
        """Shows the object, the files and the loss curve; returns the job's status."""
        self.kubectl(stack, "get", "finetunejobs", "-n", NAMESPACE)
        show = "{range .status.conditions[*]}{.type}={.status} ({.reason}){'\\n'}{end}"
        self.kubectl(stack, "get", "finetunejob", JOB, "-n", NAMESPACE, "-o", f"jsonpath={show}")
        where = ("finetunejob", JOB, "-n", NAMESPACE)
        status: dict[str, Any] = stack.cluster.kubectl_json("get", *where)["status"]
        show_files(self.steps, stack, status["output"]["uri"])
        show_curve(self.steps, stack, status, self.results / "loss.png")
        return status

    def kubectl(self, stack: Stack, *words: str) -> int:
        """Shows and runs kubectl as the user; its output goes straight to the terminal."""
        self.steps.command("kubectl", *words)
        argv = [str(stack.cluster.kubectl_path), *words]
        env = columns(stack.environment())
        return subprocess.run(argv, env=env, cwd=ROOT, check=False).returncode

    def trainer_log(self, stack: Stack) -> str:
        """The log of the job's trainer; empty when there is none."""
        selector = ("-l", f"finetune.dev/job={JOB}", "-c", "trainer", "--tail=-1")
        return stack.cluster.kubectl("logs", "-n", NAMESPACE, *selector, check=False).stdout

    def summarise(self, result: Verdict, taken: Figures) -> None:
        """Prints the figures of the run."""
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
        for title, value in self.steps.seconds.items():
            table.add_row(Text(title), Text(f"{value:.0f} s"))
        table.add_row(Text("all of it", "bold"), Text(f"{self.steps.total:.0f} s", "bold"))
        for label, text in taken.lines:
            table.add_row(Text(label), Text(text))
        reported = f"{result.reported_before:.3f} → {result.reported_after:.3f}"
        measured = f"{result.measured_before:.3f} → {result.measured_after:.3f}"
        table.add_row(Text("held-out loss, by the job's status"), Text(reported, "bold"))
        table.add_row(Text("held-out loss, by a fresh process"), Text(measured, "bold"))
        self.steps.console.print(Text("\nSummary", "bold"), table, sep="\n")

    def explain(self, error: BaseException) -> None:
        """Prints what failed and where to look."""
        self.steps.console.print(Text(f"\nThe demo failed: {error}", "bold red"), soft_wrap=True)
        if self.stack:
            if log := self.trainer_log(self.stack).splitlines()[-15:]:
                self.steps.say(
                    "the trainer's log ends with\n" + "\n".join(f"  {each}" for each in log)
                )
            self.steps.say(f"all logs are in {self.state / 'logs'}")
