"""What a preparer hands to a recipe: rows of one kind, and what was found out about them.

Made by the preparers of this folder, read by recipes and by the data contract.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from finetune_api.v1alpha1.status import Plan, Resolved
from finetune_trainer.data.packed_row import PackedRow
from finetune_trainer.data.rows import DataRow
from finetune_trainer.data.treatment import Treatment

R = TypeVar("R", bound=DataRow)


@dataclass(frozen=True)
class Prepared(Generic[R]):
    """Rows of one kind, checked, cut and counted.

    Attributes:
        train: Training rows.
        evaluation: Held-out rows; empty without evaluation.
        max_length: Longest row in tokens.
        plan: Counts.
        resolved: What was decided here.
        label_names: Names of the classes or tags by number; empty for other tasks.
        treatment: What was cut and left out; empty if no row was.
        packed: The training rows in sequences of several; None where each row stands alone.
        stream: Makes an endless iterator over the training rows, where `train` are but the first of
            them; None where `train` is all there is.
    """

    train: Sequence[R]
    evaluation: Sequence[R]
    max_length: int
    plan: Plan
    resolved: list[Resolved]
    label_names: tuple[str, ...] = ()
    treatment: Treatment = field(default_factory=Treatment)
    packed: Sequence[PackedRow] | None = None
    stream: Callable[[], Iterator[R]] | None = None
