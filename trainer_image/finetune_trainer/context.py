"""What a recipe is given: the run, its inputs on this machine, and where to write and report.

Built by `run`, which has done everything that is the same for all recipes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.data.load import Examples
from finetune_trainer.data.store import TokenStore
from finetune_trainer.progress import Reporter
from finetune_trainer.sources import ModelSource
from finetune_trainer.storage import Place


@dataclass(frozen=True)
class Context:
    """One run, ready for its recipe.

    Attributes:
        run: The run file.
        models: Every model that is read, on this machine, by its path below `spec`.
        resolved: What their URIs turned out to be.
        examples: The checked data.
        output: The place of `spec.output.uri`.
        scratch: Folder for everything that is written here.
        reporter: Told about phases and steps.
        laptop: Whether this is a manifest that is run without Kubernetes.
        tokens: Where token rows are kept; in memory without one.
    """

    run: RunFile
    models: Mapping[str, ModelSource]
    resolved: tuple[Resolved, ...]
    examples: Examples
    output: Place
    scratch: Path
    reporter: Reporter
    laptop: bool = False
    tokens: TokenStore | None = None

    @property
    def base(self) -> ModelSource:
        """The model that is tuned."""
        return self.models["model.source"]

    @property
    def output_folder(self) -> Path:
        """Where the output is put together."""
        return self.scratch / "output"
