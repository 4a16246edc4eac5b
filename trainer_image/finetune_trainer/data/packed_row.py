"""Several rows in one sequence. Made by `data.packing`, read by `batches` and `isolation`."""

from dataclasses import dataclass

from finetune_trainer.data.rows import IGNORED, TokenRow


@dataclass(frozen=True)
class PackedRow:
    """Rows that stand in one sequence, one after the other, and must not see each other.

    Attributes:
        rows: The rows; their tokens are never cut or joined.
    """

    rows: tuple[TokenRow, ...]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [row.length for row in self.rows]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return sum(self.lengths)

    @property
    def input_ids(self) -> list[int]:
        """All tokens."""
        return [token for row in self.rows for token in row.input_ids]

    @property
    def labels(self) -> list[int]:
        """All labels; a row's first token is never predicted, least of all from the row before."""
        return [label for row in self.rows for label in (IGNORED, *row.labels[1:])]
