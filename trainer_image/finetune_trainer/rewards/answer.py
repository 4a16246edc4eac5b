"""What a policy wrote, as rewards see it."""

from dataclasses import dataclass

# A reward reads no more of an answer than this; what a policy can write is far shorter.
MAX_CHARACTERS = 200_000


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: Decoded, without special tokens.
        tokens: Its length in tokens, the stop token included.
        ended: Whether it ended with a stop token, and not because it may be no longer.
    """

    text: str
    tokens: int
    ended: bool = True

    @property
    def bounded(self) -> str:
        """The text, cut to what a reward reads."""
        return self.text[:MAX_CHARACTERS]
