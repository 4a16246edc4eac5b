"""`finetune-operator`: reads the settings, sets up logs, runs kopf with our handlers.

It takes no arguments; everything is set by environment variables, which `--help` lists.
"""

import asyncio
import os
import socket
import sys

import kopf
import structlog

from finetune_operator import logs, settings
from finetune_operator.cluster.client import Client
from finetune_operator.cluster.transport import Transport
from finetune_operator.controller import Controller
from finetune_operator.handlers import login, startup, watch

USAGE = "usage: finetune-operator [--help]\n\nRuns FineTuneJobs on the cluster. Settings:\n\n"
EXIT_USAGE = 2
RESTART_SECONDS = 5
LOG = structlog.get_logger("finetune_operator")


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run until a signal; returns the exit code."""
    if arguments in (["--help"], ["-h"]):
        sys.stdout.write(USAGE + settings.describe() + "\n")
        return 0
    if arguments:
        sys.stderr.write(f"finetune-operator: {arguments[0]}: takes no arguments; see --help\n")
        return EXIT_USAGE
    try:
        loaded = settings.load()
    except settings.SettingsError as error:
        sys.stderr.write(f"finetune-operator: {error}\n")
        return EXIT_USAGE
    logs.configure(loaded.log_format, loaded.log_level)
    asyncio.run(_serve(loaded))
    return 0


async def _serve(loaded: settings.Settings) -> None:
    """Run kopf until it ends by a signal; what it cannot bear is logged, and it starts anew."""
    while True:
        try:
            await _serve_once(loaded)
        except Exception:
            LOG.exception("the framework stopped and will be started again")
            await asyncio.sleep(RESTART_SECONDS)
        else:
            return


async def _serve_once(loaded: settings.Settings) -> None:
    registry = kopf.OperatorRegistry()
    instance = os.environ.get("POD_NAME") or socket.gethostname()
    client = Client(Transport(login.connect))
    controller = Controller(loaded, client, instance)
    startup.register(registry, controller)
    watch.register(registry, controller)
    await kopf.operator(
        registry=registry,
        settings=startup.framework_settings(),
        standalone=True,
        clusterwide=not loaded.namespace_names,
        namespaces=loaded.namespace_names,
        liveness_endpoint=f"http://0.0.0.0:{loaded.health_port}/healthz",
    )


if __name__ == "__main__":
    main()
