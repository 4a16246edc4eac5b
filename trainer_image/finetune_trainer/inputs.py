"""What a run reads, and whether it may write: cheap checks first, downloads after.

`run` calls `check` before anything heavy is imported, so that a missing bucket, a wrong key or a
taken output is told in seconds; then `fetch_data` and `fetch_model` while the libraries load.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.data import DataSource
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import model_files
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Place, Storage, StoredFile

DATA_SUFFIXES = (".jsonl", ".json")


@dataclass(frozen=True)
class Source:
    """A place with the files of it that are used."""

    place: Place
    files: tuple[StoredFile, ...]


@dataclass(frozen=True)
class Inputs:
    """Everything that a run reads."""

    model: Source
    train: tuple[Source, ...]
    evaluation: tuple[Source, ...]


@dataclass(frozen=True)
class DataFile:
    """A data file on this machine.

    Attributes:
        path: Where it is.
        name: What messages call it.
    """

    path: Path
    name: str


def check(run: RunFile, storage: Storage) -> Inputs:
    """List the sources and look into small files.

    Raises:
        TrainerError: Anything about storage, or an unusable model.
    """
    spec = run.spec
    evaluation = spec.data.evaluation
    sources = (evaluation.sources or []) if evaluation else []
    train = tuple(_data_source(source, storage) for source in spec.data.train)
    held_out = tuple(_data_source(source, storage) for source in sources)
    model_place = storage.place(spec.model.source, Reason.MODEL_NOT_FOUND)
    chosen = model_files.choose(model_place, model_place.files())
    return Inputs(Source(model_place, chosen), train, held_out)


def probe_output(output: Place, run: RunFile, scratch: Path) -> None:
    """Write and delete a small object: a key that may only read is told before training."""
    name = f".write-probe-{run.job.uid[:8]}-{run.attempt}"
    probe = scratch / "write-probe"
    probe.write_bytes(b"finetune write probe\n")
    output.put(probe, name)
    output.delete(name)
    probe.unlink()


def fetch_data(sources: Sequence[Source], folder: Path) -> list[DataFile]:
    """Make data files readable locally, in the order of the sources."""
    found = []
    for index, source in enumerate(sources):
        root = source.place.fetch(source.files, folder / str(index))
        found += [DataFile(root / file.name, file.name) for file in source.files]
    return found


def fetch_model(source: Source, folder: Path) -> Path:
    """Make the model readable locally; returns its folder."""
    return source.place.fetch(source.files, folder)


def _data_source(source: DataSource, storage: Storage) -> Source:
    place = storage.place(source.source, Reason.DATA_NOT_FOUND)
    listing = place.files()
    usable = tuple(file for file in listing if _is_data(file.name))
    if not usable:
        names = ", ".join(file.name for file in listing[:3])
        message = f"{place.uri}: no {' or '.join(DATA_SUFFIXES)} file; found {names}"
        raise TrainerError(Reason.DATA_FORMAT_UNKNOWN, message, "Convert the data to JSON Lines.")
    return Source(place, usable)


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return path.suffix.lower() in DATA_SUFFIXES and not hidden
