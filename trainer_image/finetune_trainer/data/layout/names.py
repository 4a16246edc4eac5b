"""What file names say: whether a file is data, and which split it belongs to.

The hub's convention: shards `data/SPLIT-00000-of-00001.ext`, else folders, else files whose name has a
word such as train, validation or test; if no name says anything, all files are training rows.
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

_PACKED = (".gz", ".zst")
_TEXT = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_TABLES = (".parquet", ".arrow")
# What libraries write beside the rows.
_NOTES = {
    "config.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "state.json",
}
_SHARD = re.compile(r"data/(?P<split>\w+(?:\.\w+)*)-[0-9]{5}-of-[0-9]{5}[^/]*\.[^/]*")
_WORDS = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
_KEYWORDS = {
    split: re.compile(rf"(?:^|[-._ 0-9])(?:{words})(?:$|[-._ 0-9])")
    for split, words in _WORDS.items()
}


def is_data(name: str) -> bool:
    """Whether a file of this name can hold rows."""
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    if hidden or path.name in _NOTES:
        return False
    lower = path.name.lower()
    packed = next((end for end in _PACKED if lower.endswith(end)), None)
    if packed:
        return lower.removesuffix(packed).endswith(_TEXT)
    return lower.endswith((*_TEXT, *_TABLES))


def splits_by_name(names: Sequence[str]) -> dict[str, list[str]]:
    """Files by split; everything is `train` if no name says otherwise."""
    return (
        _by_shard(names)
        or _by_word(names, of_folder=True)
        or _by_word(names, of_folder=False)
        or {"train": list(names)}
    )


def _by_shard(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        if match := _SHARD.fullmatch(name):
            found.setdefault(match["split"], []).append(name)
    return found


def _by_word(names: Sequence[str], *, of_folder: bool) -> dict[str, list[str]]:
    found = {
        split: [name for name in names if _says(name, word, of_folder=of_folder)]
        for split, word in _KEYWORDS.items()
    }
    return {split: files for split, files in found.items() if files}


def _says(name: str, word: re.Pattern[str], *, of_folder: bool) -> bool:
    *folders, base = PurePosixPath(name).parts
    return any(word.search(part) for part in (folders if of_folder else (base,)))
