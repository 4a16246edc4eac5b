"""What a recipe is given: the run, its inputs on this machine, and where to write and report.

Built by `run`, which has done everything that is the same for all recipes.
"""

from dataclasses import dataclass
from pathlib import Path

from finetune_api.run_file import RunFile
from finetune_trainer.data.load import Examples
from finetune_trainer.progress import Reporter
from finetune_trainer.storage import Place


@dataclass(frozen=True)
class Context:
    """One run, ready for its recipe.

    Attributes:
        run: The run file.
        model_folder: The base model on this machine.
        examples: The checked data.
        output: The place of `spec.output.uri`.
        scratch: Folder for everything that is written here.
        reporter: Told about phases and steps.
        laptop: Whether this is a manifest that is run without Kubernetes.
    """

    run: RunFile
    model_folder: Path
    examples: Examples
    output: Place
    scratch: Path
    reporter: Reporter
    laptop: bool = False

    @property
    def output_folder(self) -> Path:
        """Where the output is put together."""
        return self.scratch / "output"
