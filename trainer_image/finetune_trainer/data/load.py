"""From files to checked examples, without torch: broken rows are told within seconds.

`run` calls it while the heavy libraries load. It decides the format and, for plain text, the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.data import Data
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.data.formats import Example, recognise, to_examples
from finetune_trainer.data.read import read_rows
from finetune_trainer.errors import TrainerError
from finetune_trainer.inputs import DataFile


@dataclass(frozen=True)
class Examples:
    """All examples of a job.

    Attributes:
        train: Training examples.
        evaluation: Examples of the evaluation sources; empty without such sources.
        data_format: Their format.
        loss: On which tokens: `Completions`, `Assistant` or `All`.
        resolved: What was decided here.
    """

    train: list[Example]
    evaluation: list[Example]
    data_format: str
    loss: str
    resolved: list[Resolved]


def load(data: Data, train: Sequence[DataFile], evaluation: Sequence[DataFile]) -> Examples:
    """Read, recognise and check.

    Raises:
        TrainerError: DataInvalid, DataEmpty or DataFormatUnknown, naming file and line.
    """
    train_rows, evaluation_rows = read_rows(train), read_rows(evaluation)
    data_format = recognise([*train_rows, *evaluation_rows], data.format)
    loss, resolved = _loss(data.loss, data_format)
    if data.format == AUTO:
        columns = ", ".join(sorted(train_rows[0].columns))
        why = f"the columns are {columns}"
        resolved.insert(0, Resolved(field="data.format", value=data_format, why=why[:2000]))
    return Examples(
        to_examples(train_rows, data_format),
        to_examples(evaluation_rows, data_format),
        data_format,
        loss,
        resolved,
    )


def _loss(wanted: str, data_format: str) -> tuple[str, list[Resolved]]:
    if data_format != "Text" or wanted == "All":
        return wanted, []
    if wanted == "Assistant":
        message = "`data.loss: Assistant` needs messages, but the rows are plain text"
        raise TrainerError(Reason.INVALID_SPEC, message, "Set `data.loss: All`.")
    why = "plain text has no completion, so every token carries loss"
    return "All", [Resolved(field="data.loss", value="All", why=why)]
