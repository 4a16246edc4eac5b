"""Token rows of a causal language model: chats, completions, text, and rows that are tokens already."""

from collections.abc import Iterable, Sequence

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.examples import Conversation, Document, Example, Pair, Tokenized
from finetune_trainer.data.finish import finish
from finetune_trainer.data.given import Given
from finetune_trainer.data.prepare.kept import both_kept
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.readers.row import invalid
from finetune_trainer.data.render import render
from finetune_trainer.data.rows import IGNORED, TokenRow
from finetune_trainer.data.streamed import streamed
from finetune_trainer.errors import TrainerError


def token_rows(given: Given) -> Prepared[TokenRow]:
    """Token rows of all examples, with -100 where no loss is taken.

    Raises:
        TrainerError: ChatTemplateError, NoSupervisedTokens, RowsTooLong, TokenOutOfRange,
            UnsupportedModel or InvalidSpec.
    """
    found = finish(given, *both_kept(given, TokenRow, encode))
    return found if given.examples.stream is None else streamed(given, found, encode)


def encode(given: Given, examples: Sequence[Example]) -> list[TokenRow]:
    """The token row of each example, uncut."""
    if examples and isinstance(examples[0], Conversation):
        given.require_template()
    tokenized = [example for example in examples if isinstance(example, Tokenized)]
    if tokenized:
        return [_as_given(given, example) for example in tokenized]
    texts = (e for e in examples if isinstance(e, Conversation | Pair | Document))
    return list(_rendered(given, texts))


def _rendered(
    given: Given, examples: Iterable[Conversation | Pair | Document]
) -> Iterable[TokenRow]:
    loss, tokenizer = given.examples.loss, given.tokenizer
    return Encoder(tokenizer).encode(render(example, loss, tokenizer) for example in examples)


def _as_given(given: Given, example: Tokenized) -> TokenRow:
    ids = list(example.input_ids)
    labels = ids if example.labels is None else list(example.labels)
    if len(labels) != len(ids):
        raise invalid(example.origin, f"{len(ids)} input_ids, but {len(labels)} labels")
    for name, values in (("input_ids", ids), ("labels", labels)):
        require_known(given, values, name, example.origin)
    # Nothing comes before the first token that could predict it.
    return TokenRow(ids, [IGNORED, *labels[1:]], example.origin)


def require_known(given: Given, ids: Sequence[int], column: str, origin: str) -> None:
    """Refuse ids that the model has no embedding for.

    Raises:
        TrainerError: TokenOutOfRange naming the row.
    """
    highest = max(ids)
    if given.vocabulary is not None and highest >= given.vocabulary:
        message = (
            f"{origin}: {column} has the id {highest}, but the model has {given.vocabulary} "
            f"embeddings (0 to {given.vocabulary - 1})"
        )
        raise TrainerError(Reason.TOKEN_OUT_OF_RANGE, message)
