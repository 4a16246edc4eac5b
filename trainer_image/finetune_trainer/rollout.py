"""A batch of prompts with the answers that were written to them, as tensors.

Made by `answering`; read by PPO and by the evaluation of the online methods.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """A batch of prompts with their answers.

    Attributes:
        prompts: Token ids, padded on the left, shape (rows, prompt tokens).
        prompt_mask: True at real prompt tokens.
        answers: Token ids, padded on the right, shape (rows, answer tokens).
        mask: True at written answer tokens, the stop token included.
        ended: Whether each answer ended with a stop token, shape (rows,).
    """

    prompts: Tensor
    prompt_mask: Tensor
    answers: Tensor
    mask: Tensor
    ended: Tensor

    def rows(self, index: Tensor | slice) -> "Rollout":
        """Some of the rows, at the same width."""
        parts = (self.prompts, self.prompt_mask, self.answers, self.mask, self.ended)
        return Rollout(*(part[index] for part in parts))
