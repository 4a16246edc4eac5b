"""Jobs for the fake trainer, and an operator that dies of its own writes. For cluster tests of faults."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from finetune_operator.cluster.client import Client
from finetune_operator.cluster.transport import Request, Transport
from finetune_operator.controller import Controller
from finetune_operator.handlers.login import connect
from finetune_operator.observe.facts import Key
from finetune_operator.settings import Settings
from support.jobs import manifest
from support.tenant import Object, Tenant, until

FAKE = [sys.executable, str(Path(__file__).parent / "fake_trainer.py")]
FAST = {"FINETUNE_OPERATOR_STATUS_INTERVAL_SECONDS": "1"}


def apply(tenant: Tenant, name: str, behaviour: str, **changes: Any) -> None:
    """Creates a job whose trainer behaves like this; see `fake_trainer`.

    A name that another test has taken is refused: that one's job would pass for this one's.
    """
    uri = {"output.uri": f"s3://models/{behaviour}"}
    body = manifest(name, {**uri, **changes}, namespace=tenant.namespace)
    tenant.kubectl("create", "-f", "-", stdin=json.dumps(body))


def condition(tenant: Tenant, name: str, kind: str) -> tuple[str, str]:
    """Reason and message of a condition of a job."""
    for found in tenant.status(name).get("conditions", ()):
        if found["type"] == kind:
            return found["reason"], found["message"]
    return "", ""


def attempts(status: Object) -> list[tuple[int, str, str]]:
    """Number, state and reason of each attempt."""
    return [(a["number"], a["state"], a.get("reason", "")) for a in status.get("attempts", ())]


def reached(tenant: Tenant, name: str, step: int, attempt: int = 1) -> Object:
    """The status once this attempt has done so many steps."""

    def there() -> Object | None:
        status = tenant.status(name)
        number = max((each["number"] for each in status.get("attempts", ())), default=0)
        done = status.get("progress", {}).get("step", 0)
        return status if number == attempt and done >= step else None

    found: Object = until(there, 60, lambda: json.dumps(tenant.status(name), indent=1))
    return found


class KilledError(Exception):
    """Stands for SIGKILL: the write was done, and nobody heard the answer."""


class MortalTransport(Transport):
    """Carries out `lives` writes, and dies of the last one."""

    lives = sys.maxsize

    async def send(self, request: Request) -> bytes:
        answer = await super().send(request)
        if request.method != "GET":
            self.lives -= 1
            if self.lives == 0:
                raise KilledError
        return answer


async def run_until_killed(key: Key, lives: int, *, follow: bool = False) -> bool:
    """A controller without watches, driven by its lists alone; True if it died of a write.

    Args:
        key: The job.
        lives: The write that it dies of.
        follow: Whether it reads the logs of running trainers.
    """
    transport = MortalTransport(connect)
    transport.lives = lives
    settings = Settings(trainer_image="finetune-trainer", status_interval_seconds=1)
    controller = Controller(settings, Client(transport), "test")
    reader = asyncio.create_task(controller._follower.work()) if follow else None
    try:
        async with asyncio.timeout(120):
            while True:
                await controller.resync()
                await controller.reconciler.reconcile(key)
                job = controller.store.job(key)
                if job is not None and job.ended:
                    return False
                await asyncio.sleep(0.2)
    except KilledError:
        return True
    finally:
        if reader:
            reader.cancel()
        await transport.close()
