"""Rows with labels or ready token ids: Labelled (of texts, and of words) and Tokenized.

Used by `data.formats`. Labels stay as they are; `data.vocabulary` numbers them.
"""

from collections.abc import Sequence

from finetune_trainer.data.examples import Labelled, Tagged, Tokenized
from finetune_trainer.data.formats.texts import string
from finetune_trainer.data.readers.row import Row, invalid, kind

TAG_COLUMNS = ("tags", "ner_tags", "labels")


def from_labelled(row: Row) -> Labelled | Tagged:
    """Format Labelled: `text` and `label`, or `tokens` and one of `tags`, `ner_tags`, `labels`."""
    return _tagged(row) if "tokens" in row.columns else _classified(row)


def from_tokenized(row: Row) -> Tokenized:
    """Format Tokenized: `input_ids`, with optional `labels` and `attention_mask`."""
    ids = _whole_numbers(row, "input_ids", least=0)
    if not ids:
        raise invalid(row.origin, "input_ids is empty")
    labels = None
    if row.columns.get("labels") is not None:
        labels = _whole_numbers(row, "labels", least=-100)
        if any(-100 < label < 0 for label in labels):
            raise invalid(row.origin, "labels: negative numbers other than -100 mean nothing")
    start, end = _unpadded(row, len(ids))
    if (start, end) == (0, len(ids)):
        return Tokenized(tuple(ids), None if labels is None else tuple(labels), row.origin)
    if labels is not None and len(labels) == len(ids):
        labels = labels[start:end]
    return Tokenized(tuple(ids[start:end]), None if labels is None else tuple(labels), row.origin)


def _classified(row: Row) -> Labelled:
    text = string(row, "text")
    if not text.strip():
        raise invalid(row.origin, "text is empty")
    pair = row.columns.get("text_pair")
    if pair is not None:
        pair = string(row, "text_pair")
    return Labelled(text, pair, _label(row.columns["label"], "label", row.origin), row.origin)


def _tagged(row: Row) -> Tagged:
    column = next(name for name in TAG_COLUMNS if name in row.columns)
    tokens, tags = row.columns["tokens"], row.columns[column]
    for name, value in (("tokens", tokens), (column, tags)):
        if not isinstance(value, list) or not value:
            raise invalid(row.origin, f"{name} must be a list with at least one item")
    if len(tokens) != len(tags):
        raise invalid(row.origin, f"{len(tokens)} tokens, but {len(tags)} {column}")
    for number, token in enumerate(tokens, start=1):
        if not isinstance(token, str) or not token.strip():
            raise invalid(row.origin, f"tokens, item {number}: expected a word")
    checked = tuple(
        _label(tag, f"{column}, item {number}", row.origin)
        for number, tag in enumerate(tags, start=1)
    )
    return Tagged(tuple(tokens), checked, row.origin)


def _label(value: object, where: str, origin: str) -> str | int:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        if value < 0:
            raise invalid(origin, f"{where}: {value} is no class (data sets use -1 for unknown)")
        return value
    if isinstance(value, str) and value.strip():
        return value.strip()
    found = "an empty string" if isinstance(value, str) else kind(value)
    raise invalid(origin, f"{where}: expected a name or a whole number, found {found}")


def _whole_numbers(row: Row, column: str, least: int) -> list[int]:
    value = row.columns[column]
    if not isinstance(value, list):
        raise invalid(row.origin, f"{column} must be a list of whole numbers, found {kind(value)}")
    for number, item in enumerate(value, start=1):
        if type(item) is not int or item < least:
            raise invalid(row.origin, f"{column}, item {number}: {item!r} is no token id"[:300])
    return value


def _unpadded(row: Row, length: int) -> tuple[int, int]:
    if row.columns.get("attention_mask") is None:
        return 0, length
    mask = _whole_numbers(row, "attention_mask", least=0)
    if len(mask) != length:
        raise invalid(row.origin, f"attention_mask has {len(mask)} items, input_ids {length}")
    return _ones(mask, row.origin)


def _ones(mask: Sequence[int], origin: str) -> tuple[int, int]:
    if not any(mask):
        raise invalid(origin, "attention_mask hides every token")
    start = next(index for index, item in enumerate(mask) if item)
    end = len(mask) - next(index for index, item in enumerate(reversed(mask)) if item)
    if not all(mask[start:end]):
        raise invalid(origin, "attention_mask hides tokens in the middle of the row")
    return start, end
