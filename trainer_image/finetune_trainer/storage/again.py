"""Doing it again: at once where bytes were damaged, later where the store is away.

`storage.s3` and `selection` read again what came damaged; `publish` waits for a store that is away,
because the work of the whole run would be lost. Everything is bounded.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 3
"""How often bytes are read or sent before they count as damaged."""

PATIENCE_SECONDS: dict[Reason, float] = {
    Reason.STORAGE_UNAVAILABLE: 600,
    Reason.STORAGE_CORRUPTED: 60,
    # Rotated keys are in the store at once, and in the mounted files up to two minutes later.
    Reason.STORAGE_CREDENTIALS_INVALID: 150,
}
"""How long a failure may last before the publication is given up."""

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 20.0


def undamaged(action: Callable[[], T]) -> T:
    """The result of an action that is begun again when bytes were damaged.

    Raises:
        TrainerError: StorageCorrupted if they were so every time; any other failure at once.
    """
    for _ in range(TRIES - 1):
        try:
            return action()
        except TrainerError as error:
            if error.reason is not Reason.STORAGE_CORRUPTED:
                raise
            logger.warning("%s; trying again", error.message)
    return action()


def patiently(action: Callable[[], T]) -> T:
    """The result of an action that is begun again while the store is away.

    Args:
        action: Must be safe to repeat.

    Raises:
        TrainerError: The last failure, when its patience is at an end; any other failure at once.
    """
    begin, pause = time.monotonic(), _FIRST_PAUSE
    while True:
        try:
            return action()
        except TrainerError as error:
            if time.monotonic() + pause - begin > PATIENCE_SECONDS.get(error.reason, 0):
                raise
            logger.warning("%s; trying again in %.0f s", error.message, pause)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
