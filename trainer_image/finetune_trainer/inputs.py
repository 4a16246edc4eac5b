"""What a run reads, and whether it may write: cheap checks first, downloads after.

`run` calls `check` before anything heavy is imported, so that a missing bucket, a wrong key or a
taken output is told in seconds; then `fetch_data` and `fetch_models` while the libraries load.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.data import DataSource
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.errors import TrainerError
from finetune_trainer.selection import Selection
from finetune_trainer.sources import Finder, FoundModel, ModelSource
from finetune_trainer.storage import Place, Storage

DATA_SUFFIXES = (".jsonl", ".json")


@dataclass(frozen=True)
class Inputs:
    """Everything that a run reads."""

    models: Mapping[str, FoundModel]
    """By path below `spec`: the base model at `model.source`, others of the method beside it."""

    train: tuple[Selection, ...]
    evaluation: tuple[Selection, ...]
    resolved: tuple[Resolved, ...] = ()
    """What each URI turned out to be, where that is not the URI itself."""


@dataclass(frozen=True)
class DataFile:
    """A data file on this machine.

    Attributes:
        path: Where it is.
        name: What messages call it.
    """

    path: Path
    name: str


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
    data = {path: _data_source(source, storage) for path, source in run.spec.data_sources()}
    resolved = [choice for path, model in models.items() for choice in model.resolved(path)]
    resolved += [choice for path, found in data.items() for choice in _pinned(path, found)]
    train = tuple(found for path, found in data.items() if path.startswith("data.train"))
    held_out = tuple(found for path, found in data.items() if not path.startswith("data.train"))
    return Inputs(models, train, held_out, tuple(resolved))


def probe_output(output: Place, run: RunFile, scratch: Path) -> None:
    """Write and delete a small object: a key that may only read is told before training."""
    name = f".write-probe-{run.job.uid[:8]}-{run.attempt}"
    probe = scratch / "write-probe"
    probe.write_bytes(b"finetune write probe\n")
    output.put(probe, name)
    output.delete(name)
    probe.unlink()


def fetch_data(sources: Sequence[Selection], folder: Path) -> list[DataFile]:
    """Make data files readable locally, in the order of the sources."""
    found = []
    for index, source in enumerate(sources):
        root = source.place.fetch(source.files, folder / str(index))
        found += [DataFile(root / file.name, file.name) for file in source.files]
    return found


def fetch_models(found: Mapping[str, FoundModel], folder: Path) -> dict[str, ModelSource]:
    """Make the models readable locally, each once, whatever number of fields names it."""
    fetched: dict[str, ModelSource] = {}
    for number, model in enumerate(found.values()):
        if model.identity not in fetched:
            fetched[model.identity] = model.fetch(folder / str(number))
    return {path: replace(fetched[each.identity], uri=each.uri) for path, each in found.items()}


def _pinned(path: str, found: Selection) -> list[Resolved]:
    identity = found.place.identity
    if identity == found.place.uri:
        return []
    why = "what it stood for when the run began"
    return [Resolved(field=f"{path}.source", value=identity[:256], why=why)]


def _data_source(source: DataSource, storage: Storage) -> Selection:
    place = storage.source(source.source, Reason.DATA_NOT_FOUND, "dataset")
    listing = place.files()
    usable = tuple(file for file in listing if _is_data(file.name))
    if not usable:
        names = ", ".join(file.name for file in listing[:3])
        message = f"{place.uri}: no {' or '.join(DATA_SUFFIXES)} file; found {names}"
        raise TrainerError(Reason.DATA_FORMAT_UNKNOWN, message, "Convert the data to JSON Lines.")
    return Selection(place, usable)


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return path.suffix.lower() in DATA_SUFFIXES and not hidden
