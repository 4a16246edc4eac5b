"""What every preparer is given: checked examples, the tokenizer, and the limits of the model.

Built by the recipes; each preparer of this folder takes it and returns `Prepared` rows of its kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from finetune_api.v1alpha1.data import Data
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.load import Examples
from finetune_trainer.data.store import TokenStore
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Tokenizer

V = TypeVar("V")


@dataclass(frozen=True)
class Given:
    """One job's data before it is tokenized.

    Attributes:
        examples: Checked examples; in a pod with a store, those of its first process.
        data: The block of the spec.
        tokenizer: With the chat template that is to be used.
        limit: Positions that the model has; None if it names none.
        seed: Draws the held-out rows and the rows of weighted sources.
        vocabulary: Rows of the model's embedding; None if it is not known. Ids of tokenized rows
            must be below.
        answer_tokens: Tokens that the model writes after a prompt, for methods that let it.
        store: Where rows are kept once they are made; in memory without one.
    """

    examples: Examples
    data: Data
    tokenizer: Tokenizer
    limit: int | None
    seed: int
    vocabulary: int | None = None
    answer_tokens: int = 0
    store: TokenStore | None = None

    def once(self, name: str, kind: type[V], make: Callable[[], V]) -> V:
        """What is made of all examples, which only the first process of a pod has.

        Args:
            name: Of what is made, in this run.
            kind: Its type: plain values.
            make: Makes it.
        """
        return self.store.once(name, kind, make) if self.store else make()

    def require_template(self) -> None:
        """Refuse messages where no chat template can render them.

        Raises:
            TrainerError: ChatTemplateError.
        """
        if not self.tokenizer.chat_template:
            message = "the rows are messages, but the tokenizer has no chat template"
            raise TrainerError(Reason.CHAT_TEMPLATE_ERROR, message)
