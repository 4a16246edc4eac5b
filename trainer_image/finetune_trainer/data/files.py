"""The data files of a job's sources: found by their listing, then made readable on this machine.

`inputs` finds them before anything heavy is imported; `data.readers` reads them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api.v1alpha1.data import Data, DataSource
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.data.layout import Layout, Wish, choose
from finetune_trainer.storage import Source, Storage, StoredFile

CARD = "README.md"
_TRAINED = ("train",)
_MEASURED = ("validation", "test")


@dataclass(frozen=True)
class DataFile:
    """A data file on this machine.

    Attributes:
        path: Where it is.
        name: What messages call it.
        source: Index of its source.
    """

    path: Path
    name: str
    source: int = 0


@dataclass(frozen=True)
class FoundData:
    """A source with the files of it that are read.

    Attributes:
        place: Where they lie.
        files: Those that are read.
        resolved: Which split and subset they are, where that was a choice.
    """

    place: Source
    files: tuple[StoredFile, ...]
    resolved: list[Resolved]


def find_train(data: Data, storage: Storage) -> tuple[FoundData, ...]:
    """The training sources.

    Raises:
        TrainerError: Anything about storage, or about what lies there.
    """
    return tuple(
        _find(source, storage, f"data.train[{index}]", _TRAINED)
        for index, source in enumerate(data.train)
    )


def find_evaluation(data: Data, storage: Storage) -> tuple[FoundData, ...]:
    """The evaluation sources; without a named split, a validation or test split if there are any."""
    sources = (data.evaluation.sources or []) if data.evaluation else []
    return tuple(
        _find(source, storage, f"data.evaluation.sources[{index}]", _MEASURED)
        for index, source in enumerate(sources)
    )


def fetch(sources: Sequence[FoundData], folder: Path) -> list[DataFile]:
    """Make data files readable locally, in the order of the sources."""
    found = []
    shared = Counter(file.name for source in sources for file in source.files)
    for index, source in enumerate(sources):
        root = source.place.fetch(source.files, folder / str(index))
        for file in source.files:
            # Two sources may have files of one name; then messages name the source too.
            name = file.name if shared[file.name] == 1 else _full_name(source, file)
            found.append(DataFile(root / file.name, name, index))
    return found


def _find(source: DataSource, storage: Storage, path: str, usual: tuple[str, ...]) -> FoundData:
    place = storage.source(source.source, Reason.DATA_NOT_FOUND, "dataset")
    listing = {file.name: file for file in place.files()}
    card = place.read(CARD) if CARD in listing else None
    text = card.decode("utf-8", errors="replace") if card else None
    wish = Wish(place.uri, source.split, source.subset, usual)
    layout = choose(list(listing), text, wish)
    files = tuple(listing[name] for name in layout.files)
    return FoundData(place, files, [*_pinned(place, path), *_resolved(layout, source, path)])


def _pinned(place: Source, path: str) -> list[Resolved]:
    if place.identity == place.uri:
        return []
    why = "what it stood for when the run began"
    return [Resolved(field=f"{path}.source", value=place.identity[:256], why=why)]


def _resolved(layout: Layout, source: DataSource, path: str) -> list[Resolved]:
    why = f"{len(layout.files)} data files are read, {layout.left_out} are not"
    found = []
    if source.subset is None and layout.subset is not None:
        found.append(Resolved(field=f"{path}.subset", value=layout.subset[:256], why=why))
    if source.split is None and layout.split is not None and layout.left_out:
        found.append(Resolved(field=f"{path}.split", value=layout.split[:256], why=why))
    return found


def _full_name(source: FoundData, file: StoredFile) -> str:
    uri = source.place.uri
    return uri if uri.endswith(f"/{file.name}") else f"{uri}/{file.name}"
