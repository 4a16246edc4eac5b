"""The random numbers of this process: Python's, numpy's, torch's on the CPU and on its GPU.

Used by the parts of a checkpoint. Generators that belong to one object, such as PPO's, are saved by it.
"""

import random
from typing import Any

import numpy as np
import torch


def state() -> dict[str, Any]:
    """Where every generator of this process stands, for `tree`."""
    kind, keys, position, has_normal, normal = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (
            kind,
            torch.from_numpy(np.asarray(keys).astype("int64")),
            position,
            has_normal,
            normal,
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore(state: dict[str, Any]) -> None:
    """Put every generator where it stood.

    Args:
        state: Of `state`; a GPU's is passed over where there is none, and the other way round.
    """
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype("uint32"), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_of(seed: int, *numbers: int) -> int:
    """A seed for one of many draws: the same numbers always give the same.

    >>> seed_of(42, 1) == seed_of(42, 1), seed_of(42, 1) == seed_of(42, 2)
    (True, False)
    """
    return random.Random(repr((seed, *numbers))).getrandbits(63)  # noqa: S311 - no secret
