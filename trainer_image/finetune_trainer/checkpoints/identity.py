"""What must be the same for a run to go on from a checkpoint.

Filled in by the training session, which knows the resolved settings; kept in the manifest of every
checkpoint and compared when one is found. It holds names, settings and digests, never rows or weights.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from finetune_api.meta import ApiModel
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.errors import TrainerError

_ABSENT = "nothing"


class Identity(ApiModel):
    """Model, recipe, data and settings of a run."""

    base_model: str
    """The model that is tuned, with its commit if it is from the hub."""

    base_digest: str | None = None
    """Digest of that model's manifest or files, if one is known."""

    method: dict[str, JsonValue]
    """`spec.method` as it stands in the manifest."""

    tuning: dict[str, JsonValue]
    """`spec.tuning` as it stands in the manifest."""

    data: str
    """Digest of the training rows in their order."""

    settings: dict[str, JsonValue]
    """Resolved settings that decide what a step is: seed, rows of a step, length, rate, steps."""

    def differences(self, other: "Identity") -> list[str]:
        """What `other` has that is not as here; empty if a run may go on.

        Args:
            other: Of the run that wants to go on; this one is the checkpoint's.

        Returns:
            One sentence a field, sorted, such as `tuning.lora.rank: 8 in the checkpoint, 16 now`.
        """
        mine, theirs = dict(_flat(self.to_dict())), dict(_flat(other.to_dict()))
        return [
            f"{name}: {mine.get(name, _ABSENT)} in the checkpoint, {theirs.get(name, _ABSENT)} now"
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name)
        ]


def require_same(saved: Identity, now: Identity, uri: str) -> None:
    """Refuse to go on from a checkpoint of another run.

    Args:
        saved: From the checkpoint's manifest.
        now: Of this run.
        uri: The checkpoint, for the message.

    Raises:
        TrainerError: ResumeIncompatible with every difference.
    """
    found = saved.differences(now)
    if found:
        message = f"{uri} was written by a run that differs: {'; '.join(found)}"
        raise TrainerError(Reason.RESUME_INCOMPATIBLE, message)


def _flat(block: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    for name, value in block.items():
        path = f"{above}{name}"
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}.")
        else:
            yield path, value
