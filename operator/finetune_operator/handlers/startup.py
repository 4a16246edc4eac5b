"""kopf's settings, and the start and the stop of the operator within kopf's life.

Called by `__main__`. kopf brings watching, reconnecting, the liveness endpoint and signals; nothing
of it may show in users' objects: no annotations, no finalizers, no events.
"""

from collections.abc import Iterator
from itertools import chain, repeat

import kopf

from finetune_operator.controller import Controller
from finetune_operator.handlers.login import login
from finetune_operator.handlers.storages import NoDiffBase, NoProgress
from finetune_operator.plan import names


class EndlessBackoff:
    """Delays (seconds) after failed requests of kopf; without an end, since a watch may not end."""

    def __iter__(self) -> Iterator[float]:
        """The delays, from the first failure on."""
        return chain((0.5, 1, 2, 4, 8, 15), repeat(30.0))


def framework_settings() -> kopf.OperatorSettings:
    """How kopf has to behave."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    settings.scanning.disabled = True
    settings.watching.server_timeout = 300
    settings.watching.chunk_size = 500
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.networking.error_backoffs = EndlessBackoff()
    settings.watching.label_selectors["batch", "jobs"] = names.SELECTOR
    settings.watching.label_selectors["pods"] = names.SELECTOR
    return settings


def register(registry: kopf.OperatorRegistry, controller: Controller) -> None:
    """Make kopf log in our way and start and stop our workers."""

    @kopf.on.login(registry=registry)
    def log_in(settings: kopf.OperatorSettings, **_: object) -> kopf.ConnectionInfo:
        return login(settings)

    @kopf.on.startup(registry=registry)
    async def start(**_: object) -> None:
        await controller.start()

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: object) -> None:
        await controller.stop()

    @kopf.on.probe(registry=registry, id="queue")
    def queue_length(**_: object) -> int:
        return len(controller.queue)
