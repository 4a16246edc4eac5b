"""Class rows: texts (or pairs of texts) with the number of their class, for text classification."""

from collections.abc import Sequence

from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.data.encode import batched, wrapping
from finetune_trainer.data.examples import Example, Labelled
from finetune_trainer.data.finish import Findings, finish
from finetune_trainer.data.given import Given
from finetune_trainer.data.prepare.kept import both_kept
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.readers.row import invalid
from finetune_trainer.data.rows import ClassRow
from finetune_trainer.data.vocabulary import Label, label_names, numbered

_BATCH = 512


def class_rows(given: Given) -> Prepared[ClassRow]:
    """Class rows of all examples; the classes are those of the training rows, sorted.

    Raises:
        TrainerError: UnknownLabel; DataInvalid if some rows have words with tags instead.
    """
    names = given.once("labels", tuple[str, ...], lambda: _names(given))

    def encode(given: Given, examples: Sequence[Example]) -> list[ClassRow]:
        return _encode(given, _texts(examples), names)

    rows = both_kept(given, ClassRow, encode, names=names)
    note = Resolved(field="data.labels", value=f"{len(names)} classes", why=", ".join(names)[:2000])
    return finish(given, *rows, findings=Findings(resolved=[note], label_names=names))


def _names(given: Given) -> tuple[str, ...]:
    train, evaluation = (_texts(each) for each in (given.examples.train, given.examples.evaluation))
    names = label_names(map(_label, train))
    # Rows are made in parts; here one message tells all that are unknown.
    numbered([_label(example) for example in evaluation], names)
    return names


def _texts(examples: Sequence[object]) -> list[Labelled]:
    found = [example for example in examples if isinstance(example, Labelled)]
    if len(found) < len(examples):
        other = next(e for e in examples if not isinstance(e, Labelled))
        hint = "Set `model.task: token-classification`."
        raise invalid(str(getattr(other, "origin", "")), "words with tags, not a text", hint)
    return found


def _label(example: Labelled) -> Label:
    return Label(example.label, example.origin)


def _encode(given: Given, examples: Sequence[Labelled], names: Sequence[str]) -> list[ClassRow]:
    numbers = numbered([_label(example) for example in examples], names)
    rows: list[ClassRow] = []
    for batch in batched(zip(examples, numbers, strict=True), _BATCH):
        rows += _rows(given, batch)
    return rows


def _rows(given: Given, batch: Sequence[tuple[Labelled, int]]) -> list[ClassRow]:
    texts = [example.text for example, _ in batch]
    pairs = [example.text_pair or "" for example, _ in batch]
    paired = any(example.text_pair is not None for example, _ in batch)
    encoded = given.tokenizer(texts, pairs if paired else None, return_token_type_ids=paired)
    segments = encoded.get("token_type_ids") or [[] for _ in batch]
    closing = len(wrapping(given.tokenizer)[1])
    return [
        ClassRow(list(ids), number, example.origin, list(segment), closing)
        for ids, segment, (example, number) in zip(
            encoded["input_ids"], segments, batch, strict=True
        )
    ]
