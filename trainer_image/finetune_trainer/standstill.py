"""Where every thread stands when training stands still, written down before the gang is killed.

Made by `recipes.session`, one in each process. Its thread needs no word of the main thread, which may
wait in a collective for ever: it prints the stacks, and stores them below `diagnostics/` of the output,
for the pods and their logs go with the attempt. It ends nothing: that is the operator's, after twice
the time (`plan/hang.py`). A process that is frozen as a whole writes nothing; those that wait for it do.
"""

import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_api.run_file import RunFile
from finetune_trainer import processes
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Place

logger = logging.getLogger(__name__)

SHORTEST = 300.0
"""Seconds of silence that are no standstill, however short steps are."""
STEPS = 10
"""So many times as long as a step usually takes, it may take at least."""
UNHURRIED = 6
"""So many times longer may what has no usual time take: the first step, and evaluations."""
FOLDER = "diagnostics"


def name(run: RunFile, rank: int) -> str:
    """Path of the stacks of one process below the output."""
    return f"{FOLDER}/{run.job.uid[:8]}-{run.attempt}-{rank}.txt"


class Standstill:
    """Watches one process in training.

    Args:
        run: The run file.
        output: Gets the stacks.
        scratch: Folder of this process.
        clock: Seconds.
    """

    def __init__(
        self,
        run: RunFile,
        output: Place,
        scratch: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._output, self._scratch, self._clock = run, output, scratch, clock
        self._shortest = SHORTEST
        self._began = self._last = clock()
        self._steps = 0
        self._unhurried = False
        self._told = False
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, steps are expected."""
        self._began = self._last = self._clock()
        thread = threading.Thread(target=self._watch, name="standstill", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()

    def step_done(self) -> None:
        """A step is over."""
        self._last, self._steps, self._told = self._clock(), self._steps + 1, False

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Within, nothing is known of the time that it takes."""
        entered = self._last = self._clock()
        self._unhurried = True
        try:
            yield
        finally:
            self._last, self._unhurried = self._clock(), False
            # No part of what steps usually take.
            self._began += self._last - entered

    def allowed(self) -> float:
        """Seconds that the present step may take before it is told of."""
        if self._unhurried or not self._steps:
            return UNHURRIED * self._shortest
        return max(self._shortest, STEPS * (self._last - self._began) / self._steps)

    def _watch(self) -> None:
        while not self._over.wait(self._shortest / 10):
            silent = self._clock() - self._last
            if silent > self.allowed() and not self._told:
                self._told = True
                self._tell(silent)

    def _tell(self, silent: float) -> None:
        path, rank = self._scratch / "stacks.txt", processes.rank()
        with path.open("w", encoding="utf-8") as file:
            print(
                f"process {rank} has done no step for {silent:.0f} s, after {self._steps} in this "
                "attempt; each thread stands here:",
                file=file, flush=True,
            )  # fmt: skip
            faulthandler.dump_traceback(file, all_threads=True)
        sys.stderr.write(path.read_text("utf-8"))
        sys.stderr.flush()
        try:
            self._output.put(path, name(self._run, rank))
        except TrainerError as error:
            logger.warning("where the threads stand is in this log only: %s", error)
