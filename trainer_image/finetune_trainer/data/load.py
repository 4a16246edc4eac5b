"""From files to checked examples, without torch: broken rows are told within seconds.

`run` calls it while the heavy libraries load. It decides the format and, for plain text, the loss.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.data import Data, DataFormat, accepted_formats
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import processes
from finetune_trainer.data.columns import rename
from finetune_trainer.data.examples import Example
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.formats import recognise, to_examples
from finetune_trainer.data.read import read_rows
from finetune_trainer.data.readers.row import Row
from finetune_trainer.data.stream import Stream, first_rows
from finetune_trainer.errors import TrainerError


@dataclass(frozen=True)
class Examples:
    """All examples of a job.

    Attributes:
        train: Training examples, source after source; none where another process of the pod has them.
        evaluation: Examples of the evaluation sources; empty without such sources.
        data_format: Their format.
        loss: On which tokens: `Completions`, `Assistant` or `All`.
        resolved: What was decided here.
        sources: Index of its source by the origin of a training row; empty with one source.
        stream: All training rows, where `train` are but the first of them; None without
            `data.streaming`.
    """

    train: list[Example]
    evaluation: list[Example]
    data_format: DataFormat
    loss: str
    resolved: list[Resolved]
    sources: Mapping[str, int] = field(default_factory=dict)
    stream: Stream | None = None

    def release(self) -> None:
        """Let the texts go, once token rows are made of them."""
        self.train.clear()
        self.evaluation.clear()


def load(
    spec: FineTuneJobSpec, train: Sequence[DataFile], evaluation: Sequence[DataFile]
) -> Examples:
    """Read, recognise and check.

    Args:
        spec: Of the job.
        train: Its training files.
        evaluation: Its evaluation files.

    Raises:
        TrainerError: A reason of the data, naming file and line.
    """
    data, task = spec.data, spec.model.task
    train_rows, sources = _read_train(train, data)
    evaluation_rows = list(rename(read_rows(evaluation), data.columns))
    accepted = accepted_formats(spec.method.type, task)
    job = f"{spec.method.type} of {task}"
    data_format = recognise([*train_rows, *evaluation_rows], data.format, accepted, job)
    loss, resolved = _loss(data.loss, data_format)
    return Examples(
        to_examples(train_rows, data_format),
        to_examples(evaluation_rows, data_format),
        data_format,
        loss,
        [*_recognised(data, data_format, train_rows[0]), *resolved],
        sources,
        _stream(spec, train, data_format),
    )


def load_once(
    gang: Path | None,
    spec: FineTuneJobSpec,
    train: Sequence[DataFile],
    evaluation: Sequence[DataFile],
) -> Examples:
    """The same, read by the first process of a pod: the others are told all but the examples.

    They need none, since token rows are made by the first one too. Of a stream, each reads its own.

    Args:
        gang: Folder by which the processes of the pod tell each other; None if there is one.
        spec: Of the job.
        train: Its training files.
        evaluation: Its evaluation files.

    Raises:
        TrainerError: A reason of the data, naming file and line, in the first process.
    """
    if spec.data.streaming:
        return load(spec, train, evaluation)
    read: list[Examples] = []

    def told() -> Examples:
        read.append(load(spec, train, evaluation))
        return replace(read[0], train=[], evaluation=[])

    found = processes.once_a_pod(gang, "examples", TypeAdapter(Examples), told)
    return read[0] if read else found


def _stream(
    spec: FineTuneJobSpec, files: Sequence[DataFile], data_format: DataFormat
) -> Stream | None:
    if not spec.data.streaming:
        return None
    return Stream(tuple(files), spec.data.columns, data_format, spec.training.seed)


def _read_train(files: Sequence[DataFile], data: Data) -> tuple[list[Row], dict[str, int]]:
    rows: list[Row] = []
    sources: dict[str, int] = {}
    if data.streaming:
        return first_rows(files, data.columns), sources
    for file in files:
        found = list(rename(read_rows([file]), data.columns))
        if len(data.train) > 1:
            sources |= _origins(found, file.source)
        rows += found
    return rows, sources


def _origins(rows: Iterable[Row], source: int) -> dict[str, int]:
    return {row.origin: source for row in rows}


def _recognised(data: Data, data_format: str, row: Row) -> list[Resolved]:
    if data.format != AUTO:
        return []
    why = f"the columns are {', '.join(sorted(row.columns))}"
    return [Resolved(field="data.format", value=data_format, why=why[:2000])]


def _loss(wanted: str, data_format: str) -> tuple[str, list[Resolved]]:
    without_turns = {"Text": "plain text has", "Tokenized": "tokenized rows have"}
    if data_format not in without_turns or wanted == "All":
        return wanted, []
    what = without_turns[data_format]
    if wanted == "Assistant":
        message = f"`data.loss: Assistant` needs messages, but {what} none"
        raise TrainerError(Reason.INVALID_SPEC, message, "Set `data.loss: All`.")
    given = " but for the rows' own labels" if data_format == "Tokenized" else ""
    why = f"{what} no completion, so every token carries loss{given}"
    return "All", [Resolved(field="data.loss", value="All", why=why)]
