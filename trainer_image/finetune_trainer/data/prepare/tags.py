"""Tag rows: words with one tag each, for token classification.

The words are joined by spaces and tokenized as one text; the tag stands at the first token of its word,
which the tokenizer's character offsets tell, and all other tokens carry no loss.
"""

from collections.abc import Iterator, Sequence

from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.data.encode import batched, require_offsets, wrapping
from finetune_trainer.data.examples import Example, Tagged
from finetune_trainer.data.finish import Findings, finish
from finetune_trainer.data.given import Given
from finetune_trainer.data.prepare.kept import both_kept
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.readers.row import invalid
from finetune_trainer.data.rows import IGNORED, TokenRow
from finetune_trainer.data.vocabulary import Label, label_names, numbered

_BATCH = 512


def tag_rows(given: Given) -> Prepared[TokenRow]:
    """Tag rows of all examples; the tags are those of the training rows, sorted.

    Raises:
        TrainerError: UnknownLabel; UnsupportedModel if the tokenizer has no offsets; DataInvalid if
            some rows have a text with a class instead.
    """
    require_offsets(given.tokenizer)
    names = given.once("labels", tuple[str, ...], lambda: _names(given))

    def encode(given: Given, examples: Sequence[Example]) -> list[TokenRow]:
        return _encode(given, _words(examples), names)

    rows = both_kept(given, TokenRow, encode, names=names)
    note = Resolved(field="data.labels", value=f"{len(names)} tags", why=", ".join(names)[:2000])
    return finish(given, *rows, findings=Findings(resolved=[note], label_names=names))


def _names(given: Given) -> tuple[str, ...]:
    train, _ = (_words(each) for each in (given.examples.train, given.examples.evaluation))
    return label_names(label for example in train for label in _tags(example))


def _words(examples: Sequence[object]) -> list[Tagged]:
    found = [example for example in examples if isinstance(example, Tagged)]
    if len(found) < len(examples):
        other = next(e for e in examples if not isinstance(e, Tagged))
        hint = "Set `model.task: text-classification`."
        raise invalid(str(getattr(other, "origin", "")), "a text, not words with tags", hint)
    return found


def _tags(example: Tagged) -> Iterator[Label]:
    return (Label(tag, example.origin) for tag in example.tags)


def _encode(given: Given, examples: Sequence[Tagged], names: Sequence[str]) -> list[TokenRow]:
    closing = len(wrapping(given.tokenizer)[1])
    rows = []
    for batch in batched(examples, _BATCH):
        texts = [" ".join(example.tokens) for example in batch]
        encoded = given.tokenizer(texts, return_offsets_mapping=True)
        columns = (encoded["input_ids"], encoded["offset_mapping"], batch)
        for ids, offsets, example in zip(*columns, strict=True):
            tags = numbered(list(_tags(example)), names)
            labels = _labels(offsets, example.tokens, tags)
            rows.append(TokenRow(list(ids), labels, example.origin, closing))
    return rows


def _labels(
    offsets: Sequence[tuple[int, int]], words: Sequence[str], tags: Sequence[int]
) -> list[int]:
    labels = [IGNORED] * len(offsets)
    index, start = 0, 0
    for word, tag in zip(words, tags, strict=True):
        end = start + len(word)
        # Special tokens are empty; a token before the word ends where the word begins, or sooner.
        while index < len(offsets) and (
            offsets[index][1] <= start or offsets[index][0] == offsets[index][1]
        ):
            index += 1
        if index < len(offsets) and offsets[index][0] < end:
            labels[index] = tag
            index += 1
        start = end + 1
    return labels
