"""Rows of all examples of a split, made in parts and kept in the store. Used by the preparers."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from finetune_trainer.data.encode import batched
from finetune_trainer.data.examples import Example
from finetune_trainer.data.given import Given
from finetune_trainer.data.rows import DataRow
from finetune_trainer.data.store import key_of

R = TypeVar("R", bound=DataRow)
Encode = Callable[[Given, Sequence[Example]], list[R]]

_BATCH = 512


def both_kept(
    given: Given, kind: type[R], encode: Encode[R], *, names: Sequence[str] = ()
) -> tuple[Sequence[R], Sequence[R]]:
    """Training and evaluation rows, uncut.

    Args:
        given: What the preparer was given.
        kind: Of the rows.
        encode: Makes the rows of some examples, whatever the others are.
        names: Of the classes or tags that it numbers.
    """
    examples = given.examples
    train, evaluation = (
        _kept(given, name, kind, encode, split, names)
        for name, split in (("train", examples.train), ("evaluation", examples.evaluation))
    )
    return train, evaluation


def _kept(
    given: Given,
    name: str,
    kind: type[R],
    encode: Encode[R],
    examples: Sequence[Example],
    names: Sequence[str],
) -> Sequence[R]:
    # Of a stream, only the first rows are looked at here.
    if given.store is None or given.examples.stream is not None:
        return encode(given, examples)

    def rows() -> Iterator[R]:
        for batch in batched(examples, _BATCH):
            yield from encode(given, batch)

    def key() -> str:
        return f"{encode.__module__}, {key_of(given, names, examples)}"

    return given.store.rows(name, kind, key, rows)
