"""Which run a checkpoint belongs to: the model, the recipe, and every row, by digests.

Made for `checkpointing` of a run that is ready to train. What may change between attempts is left out:
the machine, and how a step's rows are split into passes.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from pydantic import JsonValue

from finetune_trainer.checkpoints import Identity
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.recipes.recipe import Ready

_MAY_CHANGE = (
    "device", "micro_batch_size", "gradient_checkpointing", "recomputation", "processes", "strategy",
)  # fmt: skip
# File and line: where a row was fetched to does not matter.
_WHERE = "origin"


def of_run(ready: Ready) -> Identity:
    """The identity of a run whose settings are final."""
    spec, base = ready.spec, ready.context.base
    settings = {n: v for n, v in asdict(ready.settings).items() if n not in _MAY_CHANGE}
    stopping = spec.training.early_stopping
    others: dict[str, JsonValue] = {
        path: each.identity for path, each in ready.context.models.items()
    }
    return Identity(
        base_model=base.identity,
        base_digest=base.digest,
        method=spec.method.to_dict(),
        tuning=spec.tuning.to_dict(),
        data=digest(ready.data),
        settings={
            **settings,
            "rows": len(ready.data.train),
            "earlyStopping": stopping.to_dict() if stopping else None,
            "models": others,
        },
    )


def digest(data: Prepared[Any]) -> str:
    """SHA-256 of all rows in their order; of a stream, of those that were looked at."""
    found = hashlib.sha256()
    for rows in (data.packed or data.train, data.evaluation):
        found.update(len(rows).to_bytes(8, "little"))
        for row in rows:
            for part in _parts(row):
                found.update(len(part).to_bytes(8, "little"))
                found.update(part)
    return f"sha256:{found.hexdigest()}"


def _parts(value: object) -> Iterable[bytes]:
    if is_dataclass(value):
        for field in fields(value):
            if field.name != _WHERE:
                yield from _parts(getattr(value, field.name))
    elif isinstance(value, tuple) and value and is_dataclass(value[0]):
        for each in value:
            yield from _parts(each)
    elif isinstance(value, list) and all(isinstance(each, int) for each in value):
        yield array("q", value).tobytes()
    else:
        yield json.dumps(value, sort_keys=True, default=str).encode()
