"""Training in a process of its own that is a copy of this one, so that libraries are imported once.

Called for every run of every contestant: what is measured is training alone, and all begin alike. Time from
the start of a process to its first step is another case, `first_step`, with commands as users start them.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path


def import_libraries() -> None:
    """Import what contestants need, before the first of them; nothing is computed.

    What our trainer does not import for such jobs is kept from the others too, whose memory is then less than
    that of a user who has it installed.
    """
    from finetune_trainer import libraries

    libraries.shut_out(("bitsandbytes", "deepspeed", "scipy"))
    import peft  # noqa: F401
    from trl import DPOTrainer, GRPOTrainer, SFTTrainer  # noqa: F401

    from finetune_trainer import __main__, recipes  # noqa: F401
    from finetune_trainer.recipes import course, dpo, grpo, ppo, sft  # noqa: F401


def in_process(work: Callable[[], None], log: Path, limit: float) -> None:
    """Do it in a copy of this process.

    Args:
        work: What is done.
        log: Takes everything that it prints.
        limit: Seconds that it may take.

    Raises:
        SystemExit: It failed or did not end, with the end of its log.
    """
    # Threads of torch begin with the first computation, and this process never computes.
    process = multiprocessing.get_context("fork").Process(target=_quietly, args=(work, log))
    process.start()
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
    if process.exitcode:
        raise SystemExit(f"exit code {process.exitcode}:\n{log.read_text()[-3000:]}")


def _quietly(work: Callable[[], None], log: Path) -> None:
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    try:
        work()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
