"""Where token rows are kept once they are made: files that are mapped, one set for all processes of a pod.

Made by `run`, used by the preparers. Rows are made anew unless a file of an earlier attempt on the same
scratch volume was made of the very same examples, tokenizer and settings, and is whole.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from finetune_trainer import processes
from finetune_trainer.data.rows import DataRow

if TYPE_CHECKING:
    from finetune_trainer.data.given import Given
    from finetune_trainer.data.mapped import MappedRows, Measured

logger = logging.getLogger(__name__)

R = TypeVar("R", bound="Measured")
D = TypeVar("D", bound=DataRow)
V = TypeVar("V")

_FORMAT = 1
"""Grows with each change of what a row of the same example holds."""
_LIBRARIES = ("tokenizers", "transformers")


@dataclass(frozen=True)
class TokenStore:
    """Files of token rows.

    Attributes:
        folder: Where they lie; all processes of the pod see it.
        gang: Folder by which these processes tell each other; None if there is one.
    """

    folder: Path
    gang: Path | None = None

    def rows(
        self, name: str, kind: type[R], key: Callable[[], str], make: Callable[[], Iterable[R]]
    ) -> "MappedRows[R]":
        """The rows of a file, made by the first process of the pod if they are not there.

        In the others, `key` and `make` are not called.

        Args:
            name: Of the file; the same in every process, and used once in a run.
            kind: Of the rows.
            key: Tells what they are made of: another key, other rows.
            make: Makes them; only a few are held at a time.
        """
        from finetune_trainer.data.mapped import MappedRows

        def made() -> tuple[Path, str]:
            found = key()
            return self._made(name, kind, found, make), found

        path, told = self.once(f"rows-{name}", tuple[Path, str], made)
        return MappedRows(path, kind, told)

    def once(self, name: str, kind: type[V], make: Callable[[], V]) -> V:
        """What the first process of the pod makes, told to the others; plain values of one type."""
        return processes.once_a_pod(self.gang, name, TypeAdapter(kind), make)

    def derived(
        self,
        name: str,
        kind: type[R],
        rows: "MappedRows[Any]",
        how: str,
        make: Callable[[], Iterable[R]],
    ) -> "MappedRows[R]":
        """What is made of other rows, in a file of its own.

        Args:
            name: Of the file.
            kind: Of what is made.
            rows: What it is made of.
            how: In words: another way, another file.
            make: Makes it.
        """
        return self.rows(name, kind, lambda: f"{rows.key}, {rows.digest}, {how}", make)

    def cut(self, rows: "MappedRows[D]", length: int) -> "MappedRows[D]":
        """The rows, each of at most `length` tokens: in a file of their own if one is longer."""
        if max(rows.lengths, default=0) <= length:
            return rows

        def made() -> Iterable[D]:
            return (row.truncated(length) for row in rows)

        name, how = f"{rows.path.stem}-cut", f"at most {length} tokens"
        return self.derived(name, rows.kind, rows, how, made)

    def _made(self, name: str, kind: type[R], key: str, make: Callable[[], Iterable[R]]) -> Path:
        from finetune_trainer.data import mapped

        path = self.folder / f"{name}.arrow"
        if _is_whole(path, key):
            logger.info("%s: the rows of an earlier attempt are used again", path)
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        # `datasets` keeps what it makes of a file beside it.
        for old in (_mark(path), *self.folder.glob("cache-*.arrow")):
            old.unlink(missing_ok=True)
        part = path.with_suffix(".part")
        mapped.write(part, kind, make())
        part.rename(path)
        # Last, so that a file that was not finished has none.
        _mark(path).write_text(json.dumps({"key": key, "digest": _digest(path)}), "utf-8")
        return path


def key_of(given: "Given", names: Sequence[str], examples: Iterable[object]) -> str:
    """The digest of all that token rows follow from: examples, tokenizer, settings, libraries.

    Args:
        given: What their preparer was given.
        names: Of classes or tags.
        examples: What they are made of.
    """
    found = hashlib.sha256()
    settings = (given.data.model_dump_json(), given.limit, given.vocabulary, given.answer_tokens)
    parts = (_FORMAT, *map(version, _LIBRARIES), *settings, given.examples.loss, *_tokenizer(given))
    for part in chain(parts, [tuple(names)], examples):
        text = repr(part).encode()
        found.update(len(text).to_bytes(8, "little"))
        found.update(text)
    return found.hexdigest()


def _tokenizer(given: "Given") -> list[object]:
    tokenizer = given.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend else sorted(tokenizer.get_vocab().items())
    template = tokenizer.chat_template
    # A template may write the date into every prompt.
    day = datetime.now(UTC).date() if "strftime_now" in str(template) else None
    return [words, sorted(tokenizer.special_tokens_map.items()), template, day]


def _mark(path: Path) -> Path:
    return path.with_suffix(".json")


def _is_whole(path: Path, key: str) -> bool:
    try:
        told = json.loads(_mark(path).read_text("utf-8"))
        return bool(told == {"key": key, "digest": _digest(path)})
    except (OSError, ValueError):
        # Not there, or not finished.
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
