"""The command `finetune-trainer`: the trainer's side of a pod, or a whole run on a laptop.

`finetune-trainer run FILE` always ends in a report and in the exit code that belongs to it, as does
`preflight FILE`, which checks all that needs no GPU and no weights; the other commands ask questions of
what was published. Nothing heavy is imported here, so that `--help` and bad input answer at once.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Callable, MutableMapping
from contextlib import redirect_stdout
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn, TextIO

import typer

from finetune_api.records import Report
from finetune_trainer import environment as environments
from finetune_trainer import outcome, run_input, termination
from finetune_trainer.commands.output import Stores, Workplace, workplace
from finetune_trainer.environment import Environment
from finetune_trainer.progress import Reporter, choose_sink
from finetune_trainer.run import check, execute
from finetune_trainer.run_input import RunInput
from finetune_trainer.sources import FoundModel

# Threads that wait spin by default, which takes the cores from their neighbours: on two busy cores, five
# steps of SmolLM2 did not end in 200 s that took 16 s each with sleeping threads. Alone on them, a step
# takes 4.1 s instead of 4.0 s. Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fine-tune a language model as a FineTuneJob describes it.",
)
# 128 and the number of SIGINT, as shells have it.
EXIT_INTERRUPTED = 130
LIBRARIES = ("torch", "transformers", "peft", "trl")


@app.command()
def run(
    file: Annotated[
        Path, typer.Argument(help="A FineTuneJob manifest (YAML), or the run file of a pod (JSON).")
    ],
) -> None:
    """Train, publish and verify one job."""
    _end(run_file(file, os.environ, sys.stdout, partial(execute, alone=True)))


@app.command()
def preflight(
    file: Annotated[
        Path, typer.Argument(help="A FineTuneJob manifest (YAML), or the run file of a pod (JSON).")
    ],
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder for the data contract and the decoded rows, to look at."),
    ] = None,
) -> None:
    """Check one job without GPU and weights: its input, its data, every setting, its memory."""
    _end(run_file(file, os.environ, sys.stdout, partial(check, keep=keep)))


Endpoint = Annotated[str | None, typer.Option(help="URL of the S3-compatible store.")]
Region = Annotated[str | None, typer.Option(help="Region of the store.")]
CaBundle = Annotated[Path | None, typer.Option(help="File with certificates of authority (PEM).")]
OutputUri = Annotated[
    str, typer.Argument(help="URI of an output (`output.uri`), of a model, or a local folder.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the drawing.")]
System = Annotated[str | None, typer.Option(help="System message.")]


@app.command()
def generate(
    output: OutputUri,
    prompt: Annotated[str | None, typer.Option(help="A prompt; its answer is printed.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSON Lines with `prompt` or `messages`; JSON Lines are printed."),
    ] = None,
    raw: Annotated[bool, typer.Option(help="Use no chat template.")] = False,
    system: System = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    endpoint: Endpoint = None,
    region: Region = None,
    ca_bundle: CaBundle = None,
) -> None:
    """Let an output answer prompts."""
    if (prompt is None) == (prompts is None):
        raise typer.BadParameter("give exactly one of --prompt and --prompts")

    def work(place: Workplace, found: FoundModel, stream: TextIO) -> None:
        from finetune_trainer.answers import Sampling
        from finetune_trainer.commands import generate as command
        from finetune_trainer.commands.prompts import Asked, of_file

        asked = list(of_file(prompts)) if prompts else [Asked(str(prompt), "--prompt")]
        sampling = Sampling(max_new_tokens, temperature, seed)
        wanted = command.Wanted(asked, sampling, raw, system, json_lines=prompts is not None)
        command.run(found, wanted, place, stream)

    _finish(output, Stores(endpoint, region, ca_bundle), work)


@app.command()
def chat(
    output: OutputUri,
    system: System = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    endpoint: Endpoint = None,
    region: Region = None,
    ca_bundle: CaBundle = None,
) -> None:
    """Talk with an output; also from a pipe."""

    def work(place: Workplace, found: FoundModel, stream: TextIO) -> None:
        from finetune_trainer.answers import Sampling
        from finetune_trainer.commands import chat as command

        sampling = Sampling(max_new_tokens, temperature, seed)
        command.run(found, sampling, place, (sys.stdin, stream, sys.stderr), system)

    _finish(output, Stores(endpoint, region, ca_bundle), work)


@app.command()
def evaluate(
    output: OutputUri,
    endpoint: Endpoint = None,
    region: Region = None,
    ca_bundle: CaBundle = None,
) -> None:
    """Repeat the held-out figures of an output; fails where they differ."""

    def work(place: Workplace, found: FoundModel, stream: TextIO) -> None:
        from finetune_trainer.commands import evaluate as command

        command.run(found, place, stream)

    _finish(output, Stores(endpoint, region, ca_bundle), work)


Work = Callable[[Workplace, FoundModel, TextIO], None]


def _finish(uri: str, stores: Stores, work: Work) -> None:
    """Do a command's work and exit with the code that belongs to how it ended."""
    sys.stdout.flush()
    code = run_command(uri, stores, work, os.environ, sys.stdout)
    raise typer.Exit(code)


def run_command(
    uri: str,
    stores: Stores,
    work: Work,
    variables: MutableMapping[str, str],
    stdout: TextIO,
) -> int:
    """Do a command's work; returns the exit code. A failure is told on stderr, in sentences.

    Args:
        uri: The output, found before the libraries are imported that open it.
        stores: Where outputs lie.
        work: Given a workplace, the output and the stream for what was asked for.
        variables: The process environment; settings of the libraries are added to it.
        stdout: That stream. Everything that libraries print goes to stderr.
    """
    with redirect_stdout(sys.stderr):
        try:
            _quiet_logs()
            with workplace(stores, variables) as place:
                work(place, place.find(uri), stdout)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except Exception as error:  # noqa: BLE001 - this is the place where all of them end
            report = outcome.report_of(error)
            outcome.deliver(report, None)
            return int(report.exit_code)
    return 0


@app.command()
def version() -> None:
    """Print the version, and those of the libraries that train."""
    typer.echo(f"finetune-trainer {metadata.version('finetune-operator')}")
    for name in LIBRARIES:
        typer.echo(f"{name} {metadata.version(name)}")


def run_file(
    file: Path,
    variables: MutableMapping[str, str],
    stdout: TextIO,
    stage: Callable[[RunInput, Environment, Reporter], Report] = execute,
) -> Report:
    """Run FILE, or only check it, and deliver the report, whatever happens.

    Args:
        file: Run file or manifest.
        variables: The process environment; settings of the libraries are added to it.
        stdout: Where records go. Everything that libraries print goes to stderr.
        stage: What is done with FILE.
    """
    reporter: Reporter | None = None
    with tempfile.TemporaryDirectory(prefix="finetune-") as fallback, redirect_stdout(sys.stderr):
        environment = environments.read(variables, Path(fallback))
        try:
            termination.install()
            _quiet_logs()
            environments.prepare_libraries(variables, environment.scratch)
            given = run_input.load(file)
            for_people = given.laptop and (
                bool(environment.gang) or not environment.termination_log
            )
            sink = choose_sink(for_people=for_people, stream=stdout)
            reporter = Reporter(sink, given.run.progress_interval_seconds)
            report = stage(given, environment, reporter)
        except BaseException as error:  # noqa: BLE001 - this is the place where all of them end
            report = outcome.report_of(error)
        if reporter and reporter.latest:
            seen = {"progress": reporter.latest, "checkpoint": reporter.checkpoint}
            report = report.model_copy(update={**seen, "resumed": reporter.begun_from})
        outcome.deliver(report, environment.termination_log, told=environment.gang is None)
    return report


def _end(report: Report) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: a thread that still imports, or a library's exit handler, must not change the outcome.
    os._exit(report.exit_code)


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
