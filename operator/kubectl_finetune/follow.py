"""Shows a job while it runs: a live display on a terminal, a line a change elsewhere.

Called by `__main__` for `status --watch` and `wait`; what is shown comes from `render`.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live

from kubectl_finetune.job import Job
from kubectl_finetune.render import line, summary

# Tables take what they need of it; a pipe has no edge to fold at.
PIPE_WIDTH = 400


def open_console(*, stderr: bool = False) -> Console:
    """A console for stdout or stderr; output into a pipe or a file is not folded."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=PIPE_WIDTH)


class Losses:
    """The training losses seen so far, one a step."""

    def __init__(self) -> None:
        self._by_step: dict[float, float] = {}

    def see(self, job: Job) -> list[float]:
        """Adds what the job reports; returns all, oldest step first."""
        step, loss = job.number("status.progress.step"), job.number("status.progress.loss")
        if step is not None and loss is not None:
            self._by_step[step] = loss
        return [self._by_step[key] for key in sorted(self._by_step)]


def show(console: Console, jobs: Iterable[Job], *, verbose: bool = False) -> Job | None:
    """Shows each state of a job until there are no more; returns the last one."""
    if console.is_terminal:
        return _live(console, jobs, verbose)
    return _lines(console, jobs, verbose)


def ascii_only(console: Console) -> bool:
    """Whether the console cannot show block characters."""
    return not console.encoding.lower().startswith("utf")


def _live(console: Console, jobs: Iterable[Job], verbose: bool) -> Job | None:
    losses, job = Losses(), None
    with Live(console=console, auto_refresh=False) as display:
        for job in jobs:
            now, seen = datetime.now(UTC), losses.see(job)
            shown = summary(job, now, seen, verbose=verbose, ascii_only=ascii_only(console))
            display.update(shown, refresh=True)
    return job


def _lines(console: Console, jobs: Iterable[Job], verbose: bool) -> Job | None:
    losses, job, last = Losses(), None, ""
    for job in jobs:
        losses.see(job)
        if (news := line(job)) != last:
            stamp = datetime.now(UTC).strftime("%H:%M:%S")
            console.print(f"{stamp} {news}", markup=False, highlight=False, soft_wrap=True)
            last = news
    if job is not None and job.outcome:
        now, plain = datetime.now(UTC), ascii_only(console)
        seen = losses.see(job)
        console.print("", summary(job, now, seen, verbose=verbose, ascii_only=plain), sep="\n")
    return job
