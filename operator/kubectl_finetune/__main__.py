"""The command line `kubectl finetune …`: reads the arguments, prints, and sets the exit code.

Installed as `kubectl-finetune`, which kubectl finds on the PATH and runs as a plugin. `wait` and
`status --watch` exit with 0 when the job is complete, 1 when it failed, 2 when time is up; any other
trouble is 3.
"""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kubectl_finetune.errors import (
    EXIT_COMPLETE,
    EXIT_FAILED,
    EXIT_TIMEOUT,
    EXIT_TROUBLE,
    PluginError,
)
from kubectl_finetune.follow import ascii_only, open_console, show
from kubectl_finetune.job import Job
from kubectl_finetune.render import listing, summary

if TYPE_CHECKING:
    from kubectl_finetune.cluster import Cluster

app = typer.Typer(
    name="kubectl finetune",
    help="Watch, suspend and resume fine-tuning jobs. Jobs are made with `kubectl apply` and removed "
    "with `kubectl delete`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(help="Name of the job.")]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Namespace; without it, the context's own."),
]
Kubeconfig = Annotated[str | None, typer.Option(help="Kubeconfig file; without it, $KUBECONFIG.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]


@app.command()
def status(
    name: Name,
    namespace: Namespace = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show resolved values and the data plan.")
    ] = False,
    output: Annotated[
        Literal["text", "json", "yaml"], typer.Option("--output", "-o", help="Format.")
    ] = "text",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show how a job stands."""
    if watch and output != "text":
        raise PluginError("--watch shows text", "leave out -o, or use `kubectl get -w -o json`")
    cluster = connect(kubeconfig, context)
    place = namespace or cluster.namespace
    if watch:
        last = show(open_console(), cluster.follow(place, name), verbose=verbose)
        raise typer.Exit(EXIT_FAILED if last and last.outcome == "Failed" else EXIT_COMPLETE)
    job = cluster.job(place, name)
    if output == "text":
        console = open_console()
        plain = ascii_only(console)
        console.print(summary(job, datetime.now(UTC), verbose=verbose, ascii_only=plain))
    else:
        print_object(job, output)


@app.command("list")
def list_jobs(
    namespace: Namespace = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Jobs of all namespaces.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """List jobs, newest first."""
    cluster = connect(kubeconfig, context)
    jobs = cluster.jobs(None if all_namespaces else namespace or cluster.namespace)
    if jobs:
        open_console().print(listing(jobs, datetime.now(UTC), namespaces=all_namespaces))
    else:
        place = "the cluster" if all_namespaces else f"namespace {namespace or cluster.namespace}"
        open_console(stderr=True).print(f"no jobs in {place}", highlight=False)


@app.command()
def logs(
    name: Name,
    namespace: Namespace = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the pod ends.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines.")] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print the log of rank 0 of the newest attempt, or of its preflight."""
    cluster = connect(kubeconfig, context)
    pod = cluster.rank_zero(namespace or cluster.namespace, name)
    while follow and not cluster.started(pod):
        time.sleep(0.5)
    for piece in cluster.log(pod, follow=follow, tail=tail):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@app.command()
def wait(
    name: Name,
    namespace: Namespace = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds; without it, no end.")
    ] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Wait until a job ends: exit code 0 when complete, 1 when failed, 2 when time is up."""
    cluster = connect(kubeconfig, context)
    place = namespace or cluster.namespace
    deadline = None if timeout is None else time.monotonic() + timeout
    last = show(open_console(), cluster.follow(place, name, deadline))
    if last is None or last.outcome is None:
        open_console(stderr=True).print(f"job {place}/{name} has not ended in {timeout:g} s")
        raise typer.Exit(EXIT_TIMEOUT)
    raise typer.Exit(EXIT_COMPLETE if last.outcome == "Complete" else EXIT_FAILED)


@app.command()
def suspend(
    name: Name,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Stop a job: its pods save a checkpoint and end, and it holds nothing until `resume`."""
    _suspend(name, namespace, connect(kubeconfig, context), suspended=True)


@app.command()
def resume(
    name: Name,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Let a suspended job go on from its newest checkpoint."""
    _suspend(name, namespace, connect(kubeconfig, context), suspended=False)


def _suspend(name: str, namespace: str | None, cluster: "Cluster", *, suspended: bool) -> None:
    job = cluster.suspend(namespace or cluster.namespace, name, suspended)
    if job.outcome:
        raise PluginError(f"job {job.namespace}/{job.name} has ended ({job.outcome})")
    done = "is told to stop" if suspended else "goes on"
    open_console().print(f"job {job.namespace}/{job.name} {done}", highlight=False)


def connect(kubeconfig: str | None, context: str | None) -> "Cluster":
    """The cluster that the user means."""
    # Retries are the client's business; what remains of them is told as an error.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    from kubectl_finetune.cluster import Cluster  # half a second, which --help need not wait for

    return Cluster.connect(kubeconfig, context)


def print_object(job: Job, output: Literal["json", "yaml"]) -> None:
    """Prints the object as the API server gave it."""
    if output == "json":
        print(json.dumps(job.raw, indent=2))  # noqa: T201  # data for programs, not for a console
        return
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(dict(job.raw), sys.stdout)


def main() -> None:
    """Runs the plugin; an error is a sentence on stderr, never a traceback."""
    try:
        app()
    except PluginError as error:
        console = open_console(stderr=True)
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        if error.hint:
            console.print(f"hint: {error.hint}", markup=False, highlight=False)
        sys.exit(EXIT_TROUBLE)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
