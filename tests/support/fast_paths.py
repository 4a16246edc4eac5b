"""What a report says of the fast paths that a job took."""

from finetune_api.records import Report


def fast_paths(report: Report) -> tuple[str, str]:
    """How the loss was computed, and what became of padding; each is told once."""
    told = [(each.field, each.value) for each in report.resolved or []]
    loss, padding = (
        [value for field, value in told if field == f"training.kernels.{name}"]
        for name in ("loss", "padding")
    )
    assert len(loss) == len(padding) == 1, told
    return loss[0], padding[0]
