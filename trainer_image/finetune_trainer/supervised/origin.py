"""Whether a head comes with the base or starts fresh, read from the weights' files.

Used by the recipes whose head may be new, for `status.resolved`: who tunes a classifier further, and
finds it fresh, has named the wrong model or other classes.
"""

from collections.abc import Iterator, Sequence

from safetensors import safe_open

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer.errors import TrainerError
from finetune_trainer.heads import Head
from finetune_trainer.model_files import ADAPTER, weight_files
from finetune_trainer.sources import ModelSource

# It is part of BERT's body for most, and says nothing about the classes.
_BODY = "pooler."


def origin_of_head(base: ModelSource, head: Head, labels: Sequence[str] = ()) -> Resolved:
    """Tell where the head comes from.

    Args:
        base: The model that is tuned, with its adapters.
        head: Which head the task needs.
        labels: Names of the classes, if the head has any.
    """
    if brings_head(base, head, len(labels)):
        return Resolved(field="model.head", value="from the base", why=_before(base, labels))
    classes = f" for {len(labels)} classes" if labels else ""
    why = f"the base has no head{classes}, so it is new and starts from the seed"
    return Resolved(field="model.head", value="fresh", why=why)


def require_classes(base: ModelSource, labels: Sequence[str]) -> None:
    """Refuse to go on from an adapter whose stored head tells another number of classes apart.

    A whole model gets a new head then; an adapter without its head would be no whole adapter.

    Raises:
        TrainerError: UnsupportedModel naming both.
    """
    if not base.adapters or not base.labels or len(base.labels) == len(labels):
        return
    message = (
        f"{base.uri} is an adapter with a head for {len(base.labels)} classes "
        f"({', '.join(base.labels)}), but the rows have {len(labels)} ({', '.join(labels)})"
    )
    hint = "Tune from the base model of that adapter, or on rows with the same classes."
    raise TrainerError(Reason.UNSUPPORTED_MODEL, message[:1900], hint)


def brings_head(base: ModelSource, head: Head, classes: int = 0) -> bool:
    """Whether files of the base hold a head, for so many classes if any."""
    parts = [part for part in head.fresh if part != _BODY]
    return any(
        any(f".{part}" in f".{name}" for part in parts) and (not classes or shape[0] == classes)
        for name, shape in _shapes(base)
    )


def _shapes(base: ModelSource) -> Iterator[tuple[str, list[int]]]:
    files = [*weight_files(base.folder), *(folder / ADAPTER for folder in base.adapters)]
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_slice(name).get_shape()


def _before(base: ModelSource, labels: Sequence[str]) -> str:
    if labels and base.labels and list(base.labels) != list(labels):
        return f"it is trained on, though its classes were {', '.join(base.labels)}"[:2000]
    return "it is trained on"
