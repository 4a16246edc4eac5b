"""Sequence rows: what an encoder-decoder model reads and what it writes, each with its end token."""

from collections.abc import Sequence

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.encode import batched, wrapping
from finetune_trainer.data.examples import Conversation, Example, Pair, Tokenized
from finetune_trainer.data.finish import finish
from finetune_trainer.data.given import Given
from finetune_trainer.data.prepare.kept import both_kept
from finetune_trainer.data.prepare.tokens import require_known
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.readers.row import invalid
from finetune_trainer.data.render import render_prompt
from finetune_trainer.data.rows import SequenceRow
from finetune_trainer.errors import TrainerError

_BATCH = 512


def sequence_rows(given: Given) -> Prepared[SequenceRow]:
    """Sequence rows of all examples: the prompt as input, the completion as labels.

    A chat is rendered by the chat template up to its last answer. Without a template, a chat of one
    question and one answer is used as these two texts.

    Raises:
        TrainerError: ChatTemplateError, DataInvalid, TokenOutOfRange or UnsupportedModel.
    """
    if given.tokenizer.eos_token_id is None:
        message = "the tokenizer has no end-of-sequence token, so the model could not learn to stop"
        raise TrainerError(Reason.UNSUPPORTED_MODEL, message)
    return finish(given, *both_kept(given, SequenceRow, _encode))


def _encode(given: Given, examples: Sequence[Example]) -> list[SequenceRow]:
    tokenized = [example for example in examples if isinstance(example, Tokenized)]
    if tokenized:
        return [_as_given(given, example) for example in tokenized]
    pairs = [_pair(given, example) for example in examples]
    return [row for batch in batched(pairs, _BATCH) for row in _rows(given, batch)]


def _rows(given: Given, pairs: Sequence[Pair]) -> list[SequenceRow]:
    tokenizer = given.tokenizer
    inputs = tokenizer([pair.prompt for pair in pairs])["input_ids"]
    labels = tokenizer(text_target=[pair.completion for pair in pairs])["input_ids"]
    _, after = wrapping(tokenizer)
    return [
        SequenceRow(
            list(ids), _ended(list(target), tokenizer.eos_token_id), pair.origin, len(after)
        )
        for ids, target, pair in zip(inputs, labels, pairs, strict=True)
    ]


def _ended(labels: list[int], end: int) -> list[int]:
    return labels if labels and labels[-1] == end else [*labels, end]


def _pair(given: Given, example: Example) -> Pair:
    if isinstance(example, Pair):
        return example
    if not isinstance(example, Conversation):
        raise TypeError(f"no sequence in a {type(example).__name__}")
    *before, last = example.messages
    if last["role"] != "assistant" or not before:
        raise invalid(example.origin, "the last message must be the assistant's, after a question")
    if not given.tokenizer.chat_template and len(before) == 1:
        return Pair(before[0]["content"], last["content"], example.origin)
    given.require_template()
    prompt = render_prompt(tuple(before), example.origin, given.tokenizer)
    return Pair(prompt.text, last["content"], example.origin)


def _as_given(given: Given, example: Tokenized) -> SequenceRow:
    if example.labels is None:
        what = "labels are needed beside input_ids, for what the decoder writes"
        raise invalid(example.origin, what)
    for name, values in (("input_ids", example.input_ids), ("labels", example.labels)):
        require_known(given, values, name, example.origin)
    return SequenceRow(list(example.input_ids), list(example.labels), example.origin)
