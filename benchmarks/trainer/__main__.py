"""Ours against stock TRL on the same rows, in one run: tokens a second, peak memory, first step.

    make bench-trainer ARGS="--only SFT --rounds 3"

Each run is a fresh process; contestants take turns, so that a busy machine meets all of them. Losses are
compared step by step, and a difference ends the benchmark. Writes `benchmarks/results/trainer.json`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from trainer import dpo, sft
from trainer.case import OURS, Case
from trainer.measured import Measured, watch
from trainer.results import Row, compared, keep, show
from trainer.workplace import Workplace

CASES: dict[str, Case] = {case.name: case for case in (sft.CASE, dpo.CASE)}
# Relative, where nothing else is said: single precision, sums in another order, a few updates on.
TOLERANCE = 1e-4
_LIMIT_SECONDS = 900


def main() -> int:
    """Run, compare, show, keep."""
    given = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(given.folder or folder), given.steps, given.batch)
        if given.child:
            _train_here(CASES[given.child[0]], given.child[1], place, Path(given.out))
            return 0
        names = given.only or list(CASES)
        rows = [row for name in names for row in _case(CASES[name], place, given.rounds)]
    show(rows)
    if not given.dry:
        keep(rows, place)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contestant")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dry", action="store_true", help="keep nothing")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def _train_here(case: Case, contestant: str, place: Workplace, out: Path) -> None:
    measured = watch()
    case.contestants[contestant](place)
    measured.write(out)


def _case(case: Case, place: Workplace, rounds: int) -> list[Row]:
    runs: dict[str, list[Measured]] = {name: [] for name in case.contestants}
    for turn in range(rounds):
        for name in _in_turn(list(case.contestants), turn):
            print(f"{case.name}, {name}, {turn + 1} of {rounds}", file=sys.stderr, flush=True)
            runs[name].append(_in_process(case, name, place))
            _require_equal(case, name, runs)
        for name, command in _commands(case, place).items():
            seconds = _until_first_step(command, place)
            runs[name][-1].first_step = seconds
    return compared(case, runs)


def _in_turn(names: Sequence[str], turn: int) -> list[str]:
    """Ours first, the others in an order that changes: none always follows the same one."""
    others = [name for name in names if name != OURS]
    start = turn % len(others)
    return [OURS, *others[start:], *others[:start]]


def _in_process(case: Case, name: str, place: Workplace) -> Measured:
    out = place.folder / "measured.json"
    command = [sys.executable, "-P", "-m", "trainer", "--child", case.name, name]
    command += ["--out", str(out), "--folder", str(place.folder)]
    command += ["--steps", str(place.steps), "--batch", str(place.batch)]
    log = place.folder / "log.txt"
    with log.open("w") as stream:
        done = subprocess.run(
            command, stdout=stream, stderr=stream, timeout=_LIMIT_SECONDS, check=False
        )
    if done.returncode:
        raise SystemExit(f"{case.name}, {name} failed:\n{log.read_text()[-3000:]}")
    return Measured.read(out)


def _require_equal(case: Case, name: str, runs: dict[str, list[Measured]]) -> None:
    mine, theirs = runs[OURS][0], runs[name][-1]
    allowed = case.tolerances.get(name, TOLERANCE)
    pairs = zip(mine.losses, theirs.losses, strict=True)
    worst = max(abs(a - b) / abs(a) for a, b in pairs)
    if worst > allowed or mine.tokens != theirs.tokens:
        raise SystemExit(
            f"{case.name}, {name}: not the same training: losses {theirs.losses} and ours "
            f"{mine.losses}, tokens {theirs.tokens} and ours {mine.tokens}"
        )


def _commands(case: Case, place: Workplace) -> dict[str, list[str]]:
    if case.job is None or case.command is None:
        return {}
    own = [sys.executable, "-P", "-m", "finetune_trainer", "run", str(case.job(place))]
    return {OURS: own, case.best[0]: case.command(place)}


def _until_first_step(command: list[str], place: Workplace) -> float:
    """Seconds from the start of a process until it tells the loss of its first step."""
    environment = {**os.environ, "FINETUNE_SCRATCH": str(place.folder / "scratch-first")}
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        for line in process.stdout or ():
            if "loss" in line and ("grad_norm" in line or '"step":1' in line.replace(" ", "")):
                return time.monotonic() - began
    finally:
        process.kill()
        process.wait()
    raise SystemExit(f"{command[:4]} told of no step")


if __name__ == "__main__":
    sys.exit(main())
