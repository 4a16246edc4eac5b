"""What `status.resolved` says of loss, padding, prompts and reference: which fast path runs, or why not.

Used by `fast.choice` for SFT, which decides before its trainer is built, and by all other recipes once
theirs is there. The kernels of the layers are told by `fast.kernels`.
"""

from dataclasses import dataclass

from finetune_api.v1alpha1.status import Resolved

LOSS, PADDING = "training.kernels.loss", "training.kernels.padding"
PROMPTS = "training.kernels.prompts"
REFERENCE = "training.kernels.reference"
_FUSED = "log-probabilities of answer tokens alone; no logits are kept"
_BESIDE = "each layer runs for both before the next one does; the numbers are those of two passes"
_ONE_ROW = "rows stand one after the other; what several of them begin with is computed once"


@dataclass(frozen=True)
class Fitted:
    """What `answer_head` put on a model.

    Attributes:
        against_head: Why the library's head projects every position; None where only labelled ones are.
        against_packing: Why rows are padded; None where they are packed, with common beginnings once.
    """

    against_head: str | None = None
    against_packing: str | None = None

    @property
    def head(self) -> bool:
        """Whether only labelled positions are projected."""
        return self.against_head is None

    @property
    def packed(self) -> bool:
        """Whether rows are packed."""
        return self.head and self.against_packing is None


def library(loss: str, padding: str) -> list[Resolved]:
    """Both are left to the library, for these reasons."""
    return [
        Resolved(field=LOSS, value="library", why=loss),
        Resolved(field=PADDING, value="padded", why=padding),
    ]


def prompts(against: str | None) -> Resolved:
    """How the prompt of a group is read before answers are written."""
    value = "read for each answer" if against else "read once"
    why = against or "its cache is handed to all answers to it"
    return Resolved(field=PROMPTS, value=value, why=why)


def reference(against: str | None) -> Resolved:
    """How a reference is asked in each step; `against` is what is against one pass."""
    value = "asked in a pass of its own" if against else "one pass for policy and reference"
    return Resolved(field=REFERENCE, value=value, why=against or _BESIDE)


def scores(against: str | None) -> list[Resolved]:
    """What a reward model runs; `against` is what is against packed rows."""
    why = "a score is one number a row, so there are no logits of a vocabulary to save"
    padding = "padded" if against else "none"
    return [
        Resolved(field=LOSS, value="library", why=why),
        Resolved(field=PADDING, value=padding, why=against or _ONE_ROW),
    ]


def answers(policy: Fitted, reference: Fitted | None = None) -> list[Resolved]:
    """What a method on log-probabilities of answers runs.

    Args:
        policy: Of the model that is trained.
        reference: Of the one that it is compared with, if that is another.
    """
    other = reference or policy
    loss, padding = policy.against_head, policy.against_head or policy.against_packing
    why_loss = _beside(loss or _FUSED, loss, other.against_head)
    theirs = other.against_head or other.against_packing
    why_padding = _beside(padding or _ONE_ROW, padding, theirs)
    return [
        Resolved(field=LOSS, value="library" if loss else "fused", why=why_loss),
        Resolved(field=PADDING, value="padded" if padding else "none", why=why_padding),
    ]


def _beside(said: str, ours: str | None, theirs: str | None) -> str:
    if ours == theirs:
        return said
    return f"{said}; not so for the reference: {theirs or 'nothing is against it there'}"
