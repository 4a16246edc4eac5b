import io

import pytest

from finetune_api.records import ProgressRecord, ResolvedRecord, parse_record
from finetune_api.v1alpha1.status import Plan, Resolved
from finetune_trainer.progress import (
    RECORDS_BETWEEN_RESOLVED,
    MachineSink,
    PeopleSink,
    Reporter,
    choose_sink,
    duration,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def reporter(clock: Clock, stream: io.StringIO) -> Reporter:
    return Reporter(MachineSink(stream), 5, clock)


def sent(stream: io.StringIO) -> list[ProgressRecord | ResolvedRecord]:
    found = [parse_record(line) for line in stream.getvalue().splitlines()]
    return [record for record in found if record is not None]


def steps(stream: io.StringIO) -> list[int]:
    return [r.progress.step for r in sent(stream) if isinstance(r, ProgressRecord)]


def test_not_more_often_than_the_interval(
    reporter: Reporter, clock: Clock, stream: io.StringIO
) -> None:
    reporter.phase("Training")
    for step in range(1, 21):
        clock.now += 1
        reporter.step(final=False, step=step, total_steps=21, loss="1.0")
    assert steps(stream) == [0, 5, 10, 15, 20]


def test_last_step_and_new_phase_are_told_at_once(reporter: Reporter, stream: io.StringIO) -> None:
    reporter.phase("Training")
    reporter.step(final=True, step=7, total_steps=7)
    reporter.phase("Saving")
    assert [(r.progress.phase, r.progress.step) for r in sent(stream)] == [
        ("Training", 0),
        ("Training", 7),
        ("Saving", 7),
    ]
    assert reporter.latest is not None
    assert reporter.latest.phase == "Saving"


def test_held_out_loss_stays(reporter: Reporter, stream: io.StringIO) -> None:
    reporter.phase("Evaluating")
    reporter.evaluated("2.5")
    reporter.phase("Training")
    reporter.step(final=True, step=1, loss="2.0")
    last = sent(stream)[-1].progress
    assert (last.evaluation_loss, last.loss) == ("2.5", "2.0")
    assert last.update_time.endswith("Z")


def test_choices_are_told_again(reporter: Reporter, stream: io.StringIO) -> None:
    reporter.resolved([Resolved(field="training.epochs", value="3", why="w")], Plan(rows=5))
    for _ in range(2 * RECORDS_BETWEEN_RESOLVED):
        reporter.phase("Training")
    choices = [record for record in sent(stream) if isinstance(record, ResolvedRecord)]
    assert len(choices) == 3
    assert choices[2].plan == Plan(rows=5)


def test_lines_for_people_on_a_terminal(clock: Clock) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    assert isinstance(choose_sink(for_people=False, stream=terminal), MachineSink)
    assert isinstance(choose_sink(for_people=True, stream=io.StringIO()), MachineSink)
    sink = choose_sink(for_people=True, stream=terminal)
    assert isinstance(sink, PeopleSink)
    reporter = Reporter(sink, 5, clock)
    reporter.resolved([Resolved(field="training.epochs", value="3", why="few rows")], Plan(rows=5))
    reporter.phase("Training")
    reporter.step(final=True, step=3, total_steps=4, percent=75, loss="1.25", eta="4m10s")
    for words in ("training.epochs", "few rows", "step 3/4 (75 %)", "loss 1.25", "left 4m10s"):
        assert words in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (250, "4m10s"), (3600, "1h00m"), (7260, "2h01m")]
)
def test_duration(seconds: int, text: str) -> None:
    assert duration(seconds) == text
