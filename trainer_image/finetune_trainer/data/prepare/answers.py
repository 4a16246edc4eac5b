"""What rows with a prompt and an answer have in common. Used by the preparers of such rows."""

from collections.abc import Sequence

from finetune_trainer.data.examples import Messages
from finetune_trainer.data.given import Given
from finetune_trainer.data.rows import IGNORED, TokenRow


def border(row: TokenRow) -> int:
    """Index of the first token of the answer."""
    return next((i for i, label in enumerate(row.labels) if label != IGNORED), len(row.labels))


def answer(row: TokenRow, start: int) -> list[int]:
    """The answer from index `start` to its end token.

    What a template writes after it, mostly a line break, is not the model's to write.
    """
    end = max((i for i, label in enumerate(row.labels) if label != IGNORED), default=-1)
    return row.input_ids[start : end + 1]


def require_template(given: Given, prompts: Sequence[str | Messages]) -> None:
    """Refuse prompts that are messages where no chat template can render them.

    Raises:
        TrainerError: ChatTemplateError.
    """
    if any(not isinstance(prompt, str) for prompt in prompts):
        given.require_template()
