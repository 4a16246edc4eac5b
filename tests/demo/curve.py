"""The loss curve of a finished run: a PNG for the eye, and one drawn in the terminal.

Made from `training_log.jsonl` of the published output; called by `outcome`.
"""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Curve:
    """Training loss by step."""

    steps: list[int]
    losses: list[float]

    @classmethod
    def read(cls, log: str) -> "Curve":
        """Reads the lines of a training log; entries without a training loss are left out."""
        entries = [json.loads(line) for line in log.splitlines() if line.strip()]
        found = [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]
        return cls([step for step, _ in found], [loss for _, loss in found])

    def text(self, width: int = 90, height: int = 16) -> str:
        """The curve as characters."""
        import plotext

        plotext.clear_figure()
        plotext.theme("clear")
        plotext.plotsize(width, height)
        plotext.plot(self.steps, self.losses)
        plotext.title("training loss (nats a supervised token)")
        plotext.xlabel("step")
        return str(plotext.uncolorize(plotext.build()))

    def save(self, file: Path, held_out: tuple[float, float]) -> None:
        """Writes the curve as PNG, with the held-out loss before and after as points."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        axes.plot(self.steps, self.losses, label="training")
        axes.plot([0, self.steps[-1]], held_out, "o--", label="held out, before and after")
        axes.set(xlabel="step", ylabel="loss (nats a supervised token)", ylim=(0, None))
        axes.legend()
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150)
        pyplot.close(figure)
