"""Choosing the files of a data source: by its card if that says, else by the names of the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.data.layout.card import Subset, subsets
from finetune_trainer.data.layout.names import is_data, splits_by_name
from finetune_trainer.errors import TrainerError

FORMATS = "jsonl, json, csv, tsv, parquet or arrow"


@dataclass(frozen=True)
class Wish:
    """What is looked for in a folder.

    Attributes:
        uri: The folder, for messages.
        split: Of the spec, if it names one.
        subset: Of the spec, if it names one.
        usual: Splits that are taken when the spec names none, the best first.
    """

    uri: str
    split: str | None
    subset: str | None
    usual: tuple[str, ...] = ("train",)


@dataclass(frozen=True)
class Layout:
    """The files that are read.

    Attributes:
        files: Their names, sorted.
        split: The split they are; None if the folder has no splits.
        subset: The subset they are of; None if the folder has none.
        left_out: How many data files are not read.
    """

    files: tuple[str, ...]
    split: str | None
    subset: str | None
    left_out: int


def choose(names: Sequence[str], card: str | None, wish: Wish) -> Layout:
    """The files to read.

    Args:
        names: Every file of the place.
        card: Text of its `README.md`, if it has one.
        wish: What is looked for.

    Raises:
        TrainerError: RemoteCodeRefused if the data comes from a script; DataFormatUnknown if no file
            is data; DataNotFound if the split or the subset is not there.
    """
    usable = sorted(name for name in names if is_data(name))
    _refuse_script(names, usable, wish)
    if not usable:
        found = ", ".join(sorted(names)[:3])
        message = f"{wish.uri}: no {FORMATS} file; found {found}"
        hint = "Convert the data to JSON Lines."
        raise TrainerError(Reason.DATA_FORMAT_UNKNOWN, message, hint)
    subset = _subset(subsets(card, usable, wish.uri), wish)
    if not subset:
        splits = splits_by_name(usable) if len(usable) > 1 or wish.split else {}
    else:
        splits = subset.splits or splits_by_name(subset.below(usable))
    split = _split(splits, wish)
    files = splits[split] if split else usable
    return Layout(tuple(files), split, subset.name if subset else None, len(usable) - len(files))


def _refuse_script(names: Sequence[str], usable: Sequence[str], wish: Wish) -> None:
    scripts = [name for name in names if name.endswith(".py") and "/" not in name]
    own = PurePosixPath(wish.uri.rpartition("@")[0] or wish.uri).name
    # A script of the folder's own name says what the data is, even beside files.
    loader = [name for name in scripts if not usable or name == f"{own}.py"]
    if loader:
        message = f"{wish.uri}: the data set is made by the script {loader[0]}, which is never run"
        hint = "Run the script on a machine you trust, and give its rows as JSON Lines or Parquet."
        raise TrainerError(Reason.REMOTE_CODE_REFUSED, message, hint)


def _subset(known: Sequence[Subset], wish: Wish) -> Subset | None:
    named = {subset.name: subset for subset in known}
    if wish.subset is not None:
        if wish.subset not in named:
            raise _absent(wish, "subset", wish.subset, list(named))
        return named[wish.subset]
    usual = [subset for subset in known if subset.is_default]
    if len(known) > 1 and not usual:
        listed = ", ".join(named)
        message = f"{wish.uri} has the subsets {listed}"
        raise TrainerError(Reason.DATA_NOT_FOUND, message, "Name one in the source's `subset`.")
    return next(iter(usual or known), None)


def _split(splits: Mapping[str, Sequence[str]], wish: Wish) -> str | None:
    if wish.split is not None:
        if not splits.get(wish.split):
            raise _absent(wish, "split", wish.split, list(splits))
        return wish.split
    if not splits:
        return None
    for usual in wish.usual:
        if splits.get(usual):
            return usual
    # A single split is what there is, unless measuring on the rows of training is what it means.
    if len(splits) == 1 and "train" not in splits:
        return next(iter(splits))
    message = f"{wish.uri} has the splits {', '.join(splits)}, none of {', '.join(wish.usual)}"
    raise TrainerError(Reason.DATA_NOT_FOUND, message, "Name one in the source's `split`.")


def _absent(wish: Wish, what: str, wanted: str, known: Sequence[str]) -> TrainerError:
    there = f"there are {', '.join(known[:20])}" if known else f"it has no {what}s"
    message = f"{wish.uri} has no {what} {wanted!r}; {there}"
    hint = f"Correct the source's `{what}`. Slices such as train[:10%] are not known."
    return TrainerError(Reason.DATA_NOT_FOUND, message, hint)
