"""The names of classes or tags, numbered: the same numbers for the same training rows, always.

Used by the preparers of labelled rows. Names are sorted; labels that are whole numbers are sorted as
numbers, so that labels 0 to n-1 keep theirs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError

MAX_LABELS = 1000
_SHOWN = 5


@dataclass(frozen=True)
class Label:
    """A label of a row.

    Attributes:
        value: Name or number.
        origin: File and line.
    """

    value: str | int
    origin: str

    @property
    def name(self) -> str:
        """The name under which it is counted."""
        return str(self.value)


def label_names(labels: Iterable[Label]) -> tuple[str, ...]:
    """Every label of the training rows, by number.

    Raises:
        TrainerError: UnknownLabel if names and numbers are mixed, or if there are so many that they
            are hardly labels; OneClassOnly if there is but one.
    """
    first: dict[str, Label] = {}
    for label in labels:
        first.setdefault(label.name, label)
    _refuse_mixture(list(first.values()))
    if len(first) < 2:
        message = f"all training rows have the label {next(iter(first))!r}; nothing to tell apart"
        raise TrainerError(Reason.ONE_CLASS_ONLY, message)
    if len(first) > MAX_LABELS:
        example = list(first.values())[MAX_LABELS]
        message = (
            f"{example.origin}: {example.name[:80]!r} is the label number {MAX_LABELS + 1}; "
            f"at most {MAX_LABELS} are told apart"
        )
        raise TrainerError(Reason.UNKNOWN_LABEL, message, "Is the label column the right one?")
    numbers = all(name.isdecimal() for name in first)
    return tuple(sorted(first, key=int) if numbers else sorted(first))


def numbered(labels: Sequence[Label], names: Sequence[str]) -> list[int]:
    """The number of each label.

    Raises:
        TrainerError: UnknownLabel naming rows whose label no training row has.
    """
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [label for label in labels if label.name not in numbers]
    if unknown:
        listed = ", ".join(f"{u.origin} ({u.name[:80]!r})" for u in unknown[:_SHOWN])
        message = (
            f"{len(unknown)} labels of the evaluation rows are not in the training rows: {listed}. "
            f"Known are {', '.join(names[:20])}"
        )
        raise TrainerError(Reason.UNKNOWN_LABEL, message)
    return [numbers[label.name] for label in labels]


def _refuse_mixture(labels: Sequence[Label]) -> None:
    other = next((x for x in labels if type(x.value) is not type(labels[0].value)), None)
    if other:
        message = (
            f"{other.origin} has the label {other.value!r}, but {labels[0].origin} has "
            f"{labels[0].value!r}; labels are all names or all whole numbers"
        )
        raise TrainerError(Reason.UNKNOWN_LABEL, message)
