"""Where the documents of a packed or padded batch begin and end: what `attention` has to know.

Made once for a batch and handed to every layer; making it from a mask or from cumulative lengths never
waits for the device. Called by the trainer's attention and by tests.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Spans of tokens that see each other and nobody else.

    Attributes:
        starts: `(B,)` integers, the first token of each.
        ends: `(B,)`, one past the last; equal to the start for a document without tokens.
        longest: No document has more tokens; a larger number only costs time.
    """

    starts: Tensor
    ends: Tensor
    longest: int

    @classmethod
    def packed(cls, cumulative: Tensor, longest: int) -> "Documents":
        """Documents that follow each other: `cumulative` is `(B + 1,)`, from 0 to the number of tokens."""
        return cls(cumulative[:-1], cumulative[1:], longest)

    @classmethod
    def rows(cls, batch: int, length: int, device: torch.device | str = "cpu") -> "Documents":
        """One document a row of a batch without padding."""
        return cls.packed(torch.arange(batch + 1, device=device) * length, length)

    @classmethod
    def padded(cls, mask: Tensor) -> "Documents":
        """One document a row, from its first to its last 1 in `mask` `(B, S)`; padding on either side."""
        batch, length = mask.shape
        kept = mask.to(torch.int32)
        row = torch.arange(batch, device=mask.device) * length
        first = row + kept.argmax(1)
        last = row + length - kept.flip(1).argmax(1)
        return cls(first, torch.where(kept.any(1), last, first), length)

    @classmethod
    def from_positions(cls, positions: Tensor) -> "Documents":
        """Documents of packed tokens, each of whose positions `(T,)` begin at 0; waits for the device."""
        starts = (positions == 0).nonzero().squeeze(1)
        ends = torch.cat((starts[1:], starts.new_tensor([positions.numel()])))
        return cls(starts, ends, int((ends - starts).max()))

    def spans(self) -> list[tuple[int, int]]:
        """The spans as numbers; waits for the device."""
        return list(zip(self.starts.tolist(), self.ends.tolist(), strict=True))
