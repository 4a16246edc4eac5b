"""The card of a data set: the subsets and splits that the YAML at the head of its README.md declares.

Used by `data.layout.choose`. Only `configs` is read: names, default, and patterns of data files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.layout.patterns import matching
from finetune_trainer.errors import TrainerError

_HEAD = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MAX_HEAD = 2**18


@dataclass(frozen=True)
class Subset:
    """One configuration of a data set.

    Attributes:
        name: Its name.
        is_default: Whether it is meant when none is named.
        folder: Folder of its files; empty for all of them.
        splits: Files by split; empty if the card leaves that to the names.
    """

    name: str
    is_default: bool
    folder: str
    splits: dict[str, list[str]]

    def below(self, names: Sequence[str]) -> list[str]:
        """The files in its folder."""
        prefix = f"{self.folder.strip('/')}/" if self.folder.strip("/") else ""
        return [name for name in names if name.startswith(prefix)]


def subsets(card: str | None, names: Sequence[str], uri: str) -> list[Subset]:
    """The subsets that a card declares; none without a card.

    Raises:
        TrainerError: DataInvalid if the head of the card cannot be understood; DataNotFound if a
            pattern of it fits no file.
    """
    head = _HEAD.match(card) if card else None
    if not head:
        return []
    found = _load(head[1], uri)
    configs = found.get("configs") if isinstance(found, dict) else None
    if configs is None:
        return []
    if not isinstance(configs, list):
        raise _invalid(uri, "`configs` is no list")
    return [_subset(config, names, uri) for config in configs]


def _load(head: str, uri: str) -> object:
    if len(head) > _MAX_HEAD:
        raise _invalid(uri, "its head is larger than 256 KiB")
    try:
        return YAML(typ="safe", pure=True).load(head)
    except (YAMLError, RecursionError, ValueError) as error:
        lines = str(error).splitlines()
        raise _invalid(uri, lines[0] if lines else "not YAML") from None


def _subset(config: object, names: Sequence[str], uri: str) -> Subset:
    if not isinstance(config, dict):
        raise _invalid(uri, "an entry of `configs` is no mapping")
    name = str(config.get("config_name", "default"))
    folder = str(config.get("data_dir") or "")
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    patterns = _patterns(config.get("data_files"), uri)
    splits = {
        split: _files(wanted, prefix, names, f"{uri}, subset {name}, split {split}")
        for split, wanted in patterns.items()
    }
    return Subset(name, config.get("default") is True or name == "default", folder, splits)


def _patterns(value: object, uri: str) -> dict[str, list[str]]:
    if value is None:
        return {}
    if isinstance(value, dict):
        return {str(split): _strings(paths, uri) for split, paths in value.items()}
    entries = value if isinstance(value, list) else [value]
    named = [entry for entry in entries if isinstance(entry, dict)]
    if named:
        return {str(each.get("split")): _strings(each.get("path"), uri) for each in named}
    return {"train": _strings(value, uri)}


def _strings(value: object, uri: str) -> list[str]:
    entries: list[object] = value if isinstance(value, list) else [value]
    names = [entry for entry in entries if isinstance(entry, str)]
    if not names or len(names) < len(entries):
        raise _invalid(uri, "`data_files` must hold names or patterns")
    return names


def _files(wanted: Sequence[str], prefix: str, names: Sequence[str], where: str) -> list[str]:
    found: list[str] = []
    for pattern in wanted:
        fitting = matching(prefix + pattern.removeprefix("./"), names, where)
        if not fitting:
            message = f"{where}: no data file is called {pattern[:200]!r}, as the card says"
            raise TrainerError(Reason.DATA_NOT_FOUND, message)
        found += [name for name in fitting if name not in found]
    return found


def _invalid(uri: str, what: str) -> TrainerError:
    message = f"{uri}: the head of README.md cannot be understood: {what}"
    return TrainerError(Reason.DATA_INVALID, message[:1500])
