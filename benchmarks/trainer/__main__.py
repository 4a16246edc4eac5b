"""Ours against stock TRL on the same rows, in one run: tokens a second, peak memory, first step.

    make bench-trainer ARGS="--only SFT DPO --rounds 3 --minutes 25"

Each run is a process of its own; contestants take turns, so that a busy machine meets all of them. Losses
and norms of gradients are compared step by step; a contestant that trains otherwise, or fails, is left out,
and the benchmark ends with 1. All cases have their first round before any has its second, and no round
begins that would not end within `--minutes`. Writes `benchmarks/results/trainer.json` and the page that
shows it, after every round. `--rehearse` does all of it once with the least rows, and keeps nothing.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trainer import dpo, first_step, grpo, page, ppo, results, sft
from trainer.case import OURS, Case
from trainer.figures import differences
from trainer.measured import Measured, watch
from trainer.processes import import_libraries, in_process
from trainer.profiled import Profiling
from trainer.workplace import Workplace

CASES = {case.name: case for case in (sft.CASE, dpo.CASE, grpo.CASE, ppo.CASE, sft.BFLOAT16)}
# Where nothing else is said: single precision, sums in another order, a few updates on.
TOLERANCE = 1e-4
# Norms are rounded more often than losses.
NORMS = 10
_LIMIT_SECONDS = 900

Runs = dict[str, list[Measured]]


def main() -> int:
    """Run, compare, show, keep."""
    given = _arguments()
    end = time.monotonic() + 60 * given.minutes
    import_libraries()
    names = given.only or [*CASES, first_step.CASE]
    cases = [CASES[name] for name in names if name in CASES]
    if given.steps:
        cases = [replace(case, steps=given.steps) for case in cases]
    if given.rehearse:
        cases = [replace(case, steps=2, batch=1) for case in cases]
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(Path(folder), cases, first=first_step.CASE in names)
        for turn in range(1 if given.rehearse else given.rounds):
            contest.round(turn, end)
            rows = contest.rows()
            results.show(rows)
            result = results.of(rows, contest.profiles, contest.notes)
            text = page.written(result)
            if not (given.dry or given.rehearse):
                results.RESULTS.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
                page.PAGE.write_text(text, "utf-8")
    return int(contest.failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], choices=[*CASES, first_step.CASE])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contestant")
    parser.add_argument("--steps", type=int, help="of each run, at least 2")
    parser.add_argument("--minutes", type=float, default=25, help="begin no round that ends later")
    parser.add_argument("--rehearse", action="store_true", help="a row a step, once; keep nothing")
    parser.add_argument("--dry", action="store_true", help="keep nothing")
    return parser.parse_args()


class Contest:
    """Runs contestants, round by round.

    Args:
        folder: For everything that they write.
        cases: To be run.
        first: Whether the case of the first step is run too.

    Attributes:
        profiles: Of ours, by case.
        failed: Whether a contestant ended without a result, or with another one than ours.
    """

    def __init__(self, folder: Path, cases: Sequence[Case], *, first: bool) -> None:
        self._folder, self._cases = folder, cases
        self._runs: dict[str, Runs] = {
            case.name: {name: [] for name in case.contestants} for case in self._cases
        }
        self._first: first_step.Runs | None = {} if first else None
        self._seconds: dict[str, float] = {}
        self.profiles: dict[str, Any] = {}
        self.failed = False

    @property
    def notes(self) -> dict[str, str]:
        """What a reader must know, by case."""
        return {case.name: case.told for case in self._cases if case.told}

    def round(self, turn: int, end: float) -> None:
        """A run of each contestant in each case that may have one and would end in time."""
        for case in self._cases:
            if turn < (case.rounds or turn + 1):
                self._timed(case.name, partial(self._case, case, turn), end)
        if self._first is not None:
            _say(f"{first_step.CASE}, {turn + 1}")
            work = partial(first_step.add_round, self._folder, self._first, turn)
            if not self._succeeds(partial(self._timed, first_step.CASE, work, end)):
                self._first = None
        # A case of its own number of rounds repeats what another one measures.
        for case in [each for each in self._cases if turn == 0 and each.rounds is None]:
            _say(f"{case.name}, profile of ours")
            if self._succeeds(partial(self._train, case, OURS, Profiling())):
                self.profiles[case.name] = json.loads(self._out.read_text("utf-8"))

    def rows(self) -> list[results.Row | first_step.Row]:
        """Of everything that ran so far."""
        rows: list[results.Row | first_step.Row] = []
        for case in self._cases:
            if OURS in (runs := self._runs[case.name]):
                rows += results.compared(case, runs)
        return rows + first_step.compared(self._first or {})

    def _timed(self, name: str, work: Callable[[], None], end: float) -> None:
        began = time.monotonic()
        if began + self._seconds.get(name, 0) > end:
            _say(f"{name}: no time for another round")
            return
        work()
        self._seconds[name] = time.monotonic() - began

    def _case(self, case: Case, turn: int) -> None:
        runs = self._runs[case.name]
        for name in _in_turn(list(runs), turn):
            if OURS in runs and not self._succeeds(partial(self._run, case, name)):
                # Others need not be measured again because of it.
                del runs[name]

    def _run(self, case: Case, name: str) -> None:
        runs = self._runs[case.name]
        _say(f"{case.name}, {name}, {len(runs[name]) + 1}")
        self._train(case, name, Measured())
        runs[name].append(Measured.read(self._out))
        _require_equal(case, name, runs)

    def _succeeds(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except SystemExit as error:
            _say(f"FAILED: {error}")
            self.failed = True
            return False
        return True

    @property
    def _out(self) -> Path:
        return self._folder / "measured.json"

    def _train(self, case: Case, name: str, observer: Measured | Profiling) -> None:
        place = Workplace(self._folder, case.steps, case.batch)

        def work() -> None:
            watch(observer)
            case.contestants[name](place)
            observer.write(self._out)

        try:
            in_process(work, self._folder / "log.txt", _LIMIT_SECONDS)
        except SystemExit as error:
            raise SystemExit(f"{case.name}, {name}: {error}") from None


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def _in_turn(names: Sequence[str], turn: int) -> list[str]:
    """Ours first, the others in an order that changes: none always follows the same one."""
    others = [name for name in names if name != OURS]
    start = turn % max(1, len(others))
    return [OURS, *others[start:], *others[:start]]


def _require_equal(case: Case, name: str, runs: Runs) -> None:
    mine, theirs = runs[OURS][0], runs[name][-1]
    allowed = case.tolerances.get(name, TOLERANCE)
    losses = differences(mine.losses, theirs.losses)
    norms = differences(mine.norms, theirs.norms)
    if losses > allowed or norms > NORMS * allowed or mine.tokens != theirs.tokens:
        raise SystemExit(
            f"{case.name}, {name}: not the same training as ours: losses {theirs.losses} and "
            f"{mine.losses}, norms {theirs.norms} and {mine.norms}, "
            f"tokens {theirs.tokens} and {mine.tokens}"
        )


if __name__ == "__main__":
    sys.exit(main())
