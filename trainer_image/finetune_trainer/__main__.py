"""The command `finetune-trainer`: the trainer's side of a pod, or a whole run on a laptop.

`finetune-trainer run FILE` always ends in a report and in the exit code that belongs to it. Nothing
heavy is imported here, so that `--help` and bad input answer at once.
"""

import logging
import os
import sys
import tempfile
from collections.abc import MutableMapping
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Annotated, TextIO

import typer

from finetune_api.records import Report
from finetune_trainer import environment as environments
from finetune_trainer import outcome, run_input, termination
from finetune_trainer.progress import Reporter, choose_sink
from finetune_trainer.run import execute

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fine-tune a language model as a FineTuneJob describes it.",
)
LIBRARIES = ("torch", "transformers", "peft", "trl")


@app.command()
def run(
    file: Annotated[
        Path, typer.Argument(help="A FineTuneJob manifest (YAML), or the run file of a pod (JSON).")
    ],
) -> None:
    """Train, publish and verify one job."""
    report = run_file(file, os.environ, sys.stdout)
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: a thread that still imports, or a library's exit handler, must not change the outcome.
    os._exit(report.exit_code)


@app.command()
def version() -> None:
    """Print the version, and those of the libraries that train."""
    typer.echo(f"finetune-trainer {metadata.version('finetune-operator')}")
    for name in LIBRARIES:
        typer.echo(f"{name} {metadata.version(name)}")


def run_file(file: Path, variables: MutableMapping[str, str], stdout: TextIO) -> Report:
    """Run FILE and deliver the report, whatever happens.

    Args:
        file: Run file or manifest.
        variables: The process environment; settings of the libraries are added to it.
        stdout: Where records go. Everything that libraries print goes to stderr.
    """
    reporter: Reporter | None = None
    with tempfile.TemporaryDirectory(prefix="finetune-") as fallback, redirect_stdout(sys.stderr):
        environment = environments.read(variables, Path(fallback))
        try:
            termination.install()
            _quiet_logs()
            environments.prepare_libraries(variables, environment.scratch)
            given = run_input.load(file)
            for_people = given.laptop and environment.termination_log is None
            sink = choose_sink(for_people=for_people, stream=stdout)
            reporter = Reporter(sink, given.run.progress_interval_seconds)
            report = execute(given, environment, reporter)
        except BaseException as error:  # noqa: BLE001 - this is the place where all of them end
            report = outcome.report_of(error)
        if reporter:
            report = report.model_copy(update={"progress": reporter.latest})
        outcome.deliver(report, environment.termination_log)
    return report


def _quiet_logs() -> None:
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("finetune_trainer").setLevel(logging.INFO)
    # Deprecations among libraries are not the user's business.
    logging.captureWarnings(capture=True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
