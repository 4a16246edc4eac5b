"""Which format rows have, by their columns and by what the job can learn from.

Used by `data.load`. A row that shows more than the job reads (a pair with a verdict, say, in a job that
would take any completion for good) is refused unless the format is declared.
"""

from collections.abc import Sequence

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.data import DataFormat
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.formats.table import FORMATS, described
from finetune_trainer.data.readers.row import Row
from finetune_trainer.errors import TrainerError

_ONE_FORMAT = "One job trains on one format; convert the rows, or make two jobs."


def recognise(
    rows: Sequence[Row], declared: str, accepted: Sequence[DataFormat], job: str
) -> DataFormat:
    """The format of the rows.

    Args:
        rows: At least one.
        declared: `data.format`.
        accepted: Formats that the job learns from.
        job: What the job is, for messages, such as `SFT of text-generation`.

    Raises:
        TrainerError: DataFormatUnknown if rows fit no format, several, one that the job does not
            learn from, or not the declared one; ColumnNotFound if the declared one lacks columns.
    """
    known: dict[frozenset[str], DataFormat] = {}
    for row in rows:
        columns = frozenset(row.columns)
        if columns in known:
            continue
        found = _declared(row, declared) if declared != AUTO else _found(row, accepted, job)
        first = next(iter(known.values()), found)
        if found != first:
            message = f"{row.origin} is {found}, but {rows[0].origin} is {first}"
            raise TrainerError(Reason.DATA_FORMAT_UNKNOWN, message, _ONE_FORMAT)
        known[columns] = found
    return next(iter(known.values()))


def _declared(row: Row, declared: str) -> DataFormat:
    name: DataFormat = next(name for name in FORMATS if name == declared)
    if FORMATS[name].fit(row.columns) is None:
        message = (
            f"{row.origin}: `data.format` needs the columns of {described([name])}; "
            f"found {_listed(row)}"
        )
        hint = "Map them by `data.columns`, or declare another `data.format`."
        raise TrainerError(Reason.COLUMN_NOT_FOUND, message, hint)
    return name


def _found(row: Row, accepted: Sequence[DataFormat], job: str) -> DataFormat:
    if len(accepted) == 1 and FORMATS[accepted[0]].fit(row.columns):
        return accepted[0]
    fitting = _largest(row)
    if len(fitting) > 1:
        what = f"fit several formats ({', '.join(fitting)})"
        raise _unknown(row, what, accepted, "Declare `data.format`, or leave out columns.")
    if not fitting:
        hint = "Map the columns by `data.columns`, such as `{prompt: question}`."
        raise _unknown(row, "fit no known format", accepted, hint)
    if fitting[0] not in accepted:
        raise _foreign(row, fitting[0], accepted, job)
    return fitting[0]


def _largest(row: Row) -> list[DataFormat]:
    fits = {name: known.fit(row.columns) for name, known in FORMATS.items()}
    shapes = {name: shape for name, shape in fits.items() if shape}
    return [
        name for name, shape in shapes.items() if not any(shape < one for one in shapes.values())
    ]


def _unknown(row: Row, what: str, accepted: Sequence[DataFormat], hint: str) -> TrainerError:
    message = (
        f"{row.origin}: the columns ({_listed(row)}) {what}. This job learns from "
        f"{described(accepted)}"
    )
    return TrainerError(Reason.DATA_FORMAT_UNKNOWN, message, hint)


def _foreign(row: Row, found: DataFormat, accepted: Sequence[DataFormat], job: str) -> TrainerError:
    message = f"{row.origin} is {found}, but {job} learns from {', '.join(accepted)}"
    also = [name for name in accepted if FORMATS[name].fit(row.columns)]
    hint = "Choose the `method.type` and `model.task` that learn from such rows."
    if also:
        hint += f" To use only its columns as {also[0]}, declare `data.format: {also[0]}`."
    return TrainerError(Reason.DATA_FORMAT_UNKNOWN, message, hint)


def _listed(row: Row) -> str:
    names = sorted(row.columns)
    shown = ", ".join(name[:60] for name in names[:30]) or "none"
    return shown if len(names) <= 30 else f"{shown} and {len(names) - 30} more"
