"""Several short rows in one sequence: which rows go together, and whether it is worth it. Pure.

Called by the recipe of SFT. That no row sees another is not promised here but proved by `isolation`,
with the loaded model, on real rows.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from finetune_api.meta import AUTO
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.status import Resolved
from finetune_api.v1alpha1.tuning import VIRTUAL_TOKENS
from finetune_trainer.data.packed_row import PackedRow, PackedRows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import TokenRow

WORTH_IT = 0.5
"""Share of the sequences that packing must save to be chosen."""
ENOUGH = 512
"""Sequences that must be left: a step takes several, and fewer steps learn less."""


def pack(rows: Sequence[TokenRow], capacity: int) -> PackedRows:
    """Put rows together so that few tokens are wasted: best fit, the longest rows first.

    The same rows always give the same sequences. Best-fit decreasing needs at most 11/9 of the
    fewest possible sequences (Johnson et al. 1974, doi 10.1137/0203025).

    Args:
        rows: None longer than `capacity`.
        capacity: Tokens of a sequence.

    Returns:
        Sequences in the order of their first rows, each with its rows in the order given.
    """
    bins: list[list[int]] = []
    # Room that is left, with the number of the bin, in ascending order.
    room: list[tuple[int, int]] = []
    lengths = [row.length for row in rows]
    for index in sorted(range(len(rows)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        place = bisect_left(room, (length, 0))
        if place == len(room):
            left, number = capacity, len(bins)
            bins.append([])
        else:
            left, number = room.pop(place)
        bins[number].append(index)
        insort(room, (left - length, number))
    return PackedRows(rows, sorted(sorted(each) for each in bins))


def decide(
    spec: FineTuneJobSpec, data: Prepared[TokenRow]
) -> tuple[Prepared[TokenRow], list[Resolved]]:
    """The rows, packed if that is wanted or worth it, and what was decided.

    Args:
        spec: Of the job.
        data: Rows, cut to the longest length.
    """
    wanted = spec.data.packing
    if wanted == "Disabled" or data.stream is not None:
        return data, []
    if wanted == AUTO and spec.tuning.type in VIRTUAL_TOKENS:
        why = "virtual tokens stand once before a sequence, so only its first row would follow them"
        return data, [Resolved(field="data.packing", value="Disabled", why=why)]
    packed = pack(data.train, data.max_length)
    against = _against(spec, len(data.train), len(packed)) if wanted == AUTO else None
    if against:
        return data, [Resolved(field="data.packing", value="Disabled", why=against)]
    why = (
        f"{len(data.train)} rows in {len(packed)} sequences of at most {data.max_length} tokens, "
        f"{_filled(packed, data.max_length):.0%} full; a batch counts sequences"
    )
    return replace(data, packed=packed), [Resolved(field="data.packing", value="Enabled", why=why)]


def _against(spec: FineTuneJobSpec, rows: int, sequences: int) -> str | None:
    """Why not, where nobody asked for it."""
    if spec.training.batch_size != AUTO or spec.training.max_steps is not None:
        return "`training.batchSize` or `training.maxSteps` was chosen for rows, not for sequences"
    saved = 1 - sequences / rows
    if saved < WORTH_IT:
        return f"it would save {saved:.0%} of the sequences, which is less than {WORTH_IT:.0%}"
    if sequences < ENOUGH:
        return f"it would leave {sequences} sequences, which is less than {ENOUGH}"
    return None


def _filled(packed: Sequence[PackedRow], capacity: int) -> float:
    return sum(chain.from_iterable(each.lengths for each in packed)) / (capacity * len(packed))
