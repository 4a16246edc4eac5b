"""What was measured and found, as text: metrics of the run, of the held-out rows, and the data.

Pure. Called by `render`. What is zero or absent in the data is no finding and is left out.
"""

from collections.abc import Iterator, Mapping

from kubectl_finetune.job import Block, Job, clean

COUNTS = (
    ("evaluationRows", "held out"),
    ("truncatedRows", "cut"),
    ("skippedRows", "left out"),
    ("duplicateRows", "duplicates"),
    ("identicalPairs", "pairs of equal answers"),
    ("rowsWithoutStopToken", "without a stop token"),
)
MAX_CLASSES = 8


def change(job: Job) -> str:
    """The held-out loss before and after; empty where there is none."""
    before = job.number("status.evaluation.lossBefore")
    after = job.number("status.evaluation.lossAfter")
    if before is None or after is None:
        return ""
    return f"{before:.3f} → {after:.3f}"


def measured(job: Job) -> Iterator[str]:
    """Every metric of the held-out rows, such as `accuracy 0.51 → 0.83`."""
    for metric in job.blocks("status.evaluation.metrics"):
        if text := _both(metric.text("before"), metric.text("after")):
            yield f"{metric.text('name') or '?'} {text}"


def _both(before: str | None, after: str | None) -> str:
    if before and after:
        return f"{before} → {after}"
    return after or (f"{before} before" if before else "")


def metrics(job: Job) -> str:
    """What the method measures while it trains, besides the loss."""
    found = _mapping(job, "status.progress.metrics")
    return ", ".join(f"{name} {value}" for name, value in found.items())


def data(job: Job) -> str:
    """The rows, and what is odd about them."""
    plan = Block(_mapping(job, "status.plan"))
    rows = plan.number("rows")
    if rows is None:
        return ""
    counts = [(plan.number(name), words) for name, words in COUNTS]
    found = [f"{rows:.0f} rows", *(f"{count:.0f} {words}" for count, words in counts if count)]
    if longest := plan.number("longestRow"):
        found.append(f"longest {longest:.0f} tokens")
    return ", ".join(found)


def classes(value: Mapping[str, object]) -> str:
    """A map of counts, the first few of them."""
    shown = [f"{clean(name)}: {clean(count)}" for name, count in value.items()]
    rest = len(shown) - MAX_CLASSES
    return ", ".join(shown[:MAX_CLASSES]) + (f" and {rest} more" if rest > 0 else "")


def _mapping(job: Job, path: str) -> Mapping[str, object]:
    found = job.mapping(path)
    return {clean(name): clean(value) for name, value in found.items()}
