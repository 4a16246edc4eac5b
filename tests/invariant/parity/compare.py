"""What a comparison finds: ours against the peer's, and ours against ours with a step split otherwise."""

from dataclasses import dataclass

from invariant.parity.cases import SPLIT_STEPS, Case
from invariant.parity.curves import Curve
from invariant.parity.workplace import Workplace


@dataclass(frozen=True)
class Parity:
    """One method against its peer.

    Attributes:
        case: The method.
        curve: Ours.
        loss: Largest difference between losses; None without a peer.
        norm: Largest difference between gradient norms, relative above 1; None without a peer.
    """

    case: Case
    curve: Curve
    loss: float | None
    norm: float | None


@dataclass(frozen=True)
class Split:
    """One method with the same batch in one, two and many passes; the largest differences.

    Attributes:
        case: The method.
        loss: Between losses.
        norm: Between gradient norms, relative above 1.
        weight: Between elements of the published adapters.
    """

    case: Case
    loss: float
    norm: float
    weight: float


def parity(case: Case, place: Workplace) -> Parity:
    """Run both sides."""
    curve = case.ours(place).curve
    if case.stock is None:
        return Parity(case, curve, None, None)
    peer = case.stock(place, case.rows())
    return Parity(case, curve, curve.loss_difference(peer), curve.norm_difference(peer))


def split(case: Case, place: Workplace) -> Split | None:
    """Run ours with all rows in a pass, with half of them, and with one; None if they cannot be."""
    if not case.splits:
        return None
    sizes = (case.batch_size, case.batch_size // 2, 1)
    whole, *others = (case.ours(place, microBatchSize=size, maxSteps=SPLIT_STEPS) for size in sizes)
    return Split(
        case,
        max(other.curve.loss_difference(whole.curve) for other in others),
        max(other.curve.norm_difference(whole.curve) for other in others),
        max(other.weight_difference(whole) for other in others),
    )
