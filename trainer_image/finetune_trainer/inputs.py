"""What a run reads, and whether it may write: cheap checks first, downloads after.

`run` calls `check` before anything heavy is imported, so that a missing bucket, a wrong key or a
taken output is told in seconds; then `fetch_data` and `fetch_models` while the libraries load.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.data import files
from finetune_trainer.data.files import DataFile, FoundData
from finetune_trainer.sources import Finder, FoundModel, ModelSource
from finetune_trainer.storage import Place, Storage

FetchedData = tuple[list[DataFile], list[DataFile]]
"""Files of training and of evaluation."""

FetchedModels = dict[str, ModelSource]
"""By path below `spec`."""


@dataclass(frozen=True)
class Inputs:
    """Everything that a run reads."""

    models: Mapping[str, FoundModel]
    """By path below `spec`: the base model at `model.source`, others of the method beside it."""

    train: tuple[FoundData, ...]
    evaluation: tuple[FoundData, ...]
    resolved: tuple[Resolved, ...] = ()
    """What each URI turned out to be, where that is not the URI itself."""


def check(run: RunFile, storage: Storage, *, laptop: bool) -> Inputs:
    """List every source that the run reads, and look into small files.

    Args:
        run: The run file.
        storage: Opens the sources.
        laptop: Whether `file://` may stand in the manifest of an output.

    Raises:
        TrainerError: Anything about storage, or an unusable model.
    """
    finder = Finder(storage, run.sources, local=laptop)
    models = {path: finder.model(uri) for path, uri in run.spec.model_uris()}
    train = files.find_train(run.spec.data, storage)
    held_out = files.find_evaluation(run.spec.data, storage)
    resolved = [choice for path, model in models.items() for choice in model.resolved(path)]
    resolved += [choice for found in (*train, *held_out) for choice in found.resolved]
    return Inputs(models, train, held_out, tuple(resolved))


def probe_output(output: Place, run: RunFile, scratch: Path) -> None:
    """Write and delete a small object: a key that may only read is told before training."""
    name = f".write-probe-{run.job.uid[:8]}-{run.attempt}"
    probe = scratch / "write-probe"
    probe.write_bytes(b"finetune write probe\n")
    output.put(probe, name)
    output.delete(name)
    probe.unlink()


def fetch_data(found: Inputs, folder: Path) -> FetchedData:
    """Make the training and the evaluation files readable locally."""
    train = files.fetch(found.train, folder / "train")
    return train, files.fetch(found.evaluation, folder / "evaluation")


def fetch_models(found: Mapping[str, FoundModel], folder: Path) -> FetchedModels:
    """Make the models readable locally, each once, whatever number of fields names it."""
    fetched: dict[str, ModelSource] = {}
    for number, model in enumerate(found.values()):
        if model.identity not in fetched:
            fetched[model.identity] = model.fetch(folder / str(number))
    return {path: replace(fetched[each.identity], uri=each.uri) for path, each in found.items()}
