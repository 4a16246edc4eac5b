"""Importing what a job uses and nothing else: less time to its first step, and less memory.

Called by `run` and `recipes`. Some libraries import others for no other reason than that they are installed:
PEFT bitsandbytes, and with it torch's compiler; accelerate DeepSpeed, at the first save; transformers
SciPy. Which of them a job needs is in its spec.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from finetune_api.v1alpha1.job import FineTuneJobSpec

Library = Literal["bitsandbytes", "deepspeed", "scipy"]

_OPTIMIZERS = ("AdamW8bit", "PagedAdamW8bit")
"""Those of bitsandbytes."""


def unused(spec: FineTuneJobSpec) -> tuple[Library, ...]:
    """Libraries that a job does not use, though others would import them."""
    quantized = spec.tuning.quantization is not None
    found: list[Library] = []
    if not quantized:
        # LoftQ looks up normal quantiles in it, and starts from a quantised base alone.
        found.append("scipy")
    if not quantized and spec.training.optimizer not in _OPTIMIZERS:
        found.append("bitsandbytes")
    if not spec.distributed.strategy.startswith("ZeRO"):
        found.append("deepspeed")
    return tuple(found)


def shut_out(names: tuple[Library, ...]) -> None:
    """Have whoever looks for these libraries in this process find none, for good.

    Nothing happens to one that is imported already.
    """
    for name in names:
        # Python's own sign for a module that must not be imported.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: imports make a million objects and hardly any garbage among them."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
