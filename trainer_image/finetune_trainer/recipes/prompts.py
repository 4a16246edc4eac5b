"""TRL's on-policy trainers on our prompts: ids that we made, draws of ours, positions of ours.

Draws follow from the seed and a row's number in its step, and padding shifts no positions.
Mixed into the trainers of the group methods and of distillation. TRL is given the number of each row as
its prompt, so that it can neither render nor tokenize nor cut; rows are looked up by that number.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import PrinterCallback

from finetune_trainer import processes
from finetune_trainer.answering import Sampling, write_answers
from finetune_trainer.data.rows import PromptRow
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.reference import positions
from finetune_trainer.resume.randomness import seed_of
from finetune_trainer.resume.trainer import Resumable


def numbered(rows: Sequence[PromptRow]) -> Dataset:
    """The rows as TRL takes them."""
    return Dataset.from_dict({"prompt": [str(number) for number in range(len(rows))]})


class OurPrompts(Resumable):
    """Overrides of a TRL trainer; stands before it among the bases."""

    def __init__(self, *, rows: Sequence[PromptRow], how: Sampling, **arguments: Foreign) -> None:
        self.prompt_rows, self._how = rows, how
        trainer: Foreign = super()
        trainer.__init__(train_dataset=numbered(rows), **arguments)
        # It prints Python dictionaries to stdout.
        trainer.remove_callback(PrinterCallback)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The ids of the rows with these numbers; no images, nothing else."""
        return [list(self.prompt_rows[int(number)].prompt_ids) for number in prompts], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *_: Foreign, **__: Foreign
    ) -> Foreign:
        """Answers to this process's part of a step's prompts."""
        trainer: Foreign = self
        rollout = write_answers(
            trainer.model,
            prompt_ids,
            self._how,
            seed=seed_of(trainer.args.seed, trainer.state.global_step),
            first=processes.rank() * len(prompt_ids),
        )
        pairs = zip(rollout.answers.cpu(), rollout.mask.cpu(), strict=True)
        return [answer[there].tolist() for answer, there in pairs]

    def train(self, *arguments: Foreign, **named: Foreign) -> Foreign:
        """All steps, with the positions that the answers were written at."""
        trainer: Foreign = super()
        with unshifted_positions(self.model):  # type: ignore[attr-defined]
            return trainer.train(*arguments, **named)


@contextmanager
def unshifted_positions(net: Model) -> Iterator[None]:
    """Tell the positions of tokens in rows that are padded on the left.

    TRL leaves them to the model, which counts the padding; a model with absolute positions would then
    learn about other probabilities than those it wrote by.
    """
    inner = net.get_base_model() if hasattr(net, "get_base_model") else net
    hook = inner.base_model.register_forward_pre_hook(_add_positions, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _add_positions(
    _backbone: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    mask, ids = named.get("attention_mask"), named.get("input_ids")
    if named.get("position_ids") is not None or ids is None or mask is None:
        return arguments, named
    # Generation tells positions itself, but for models that take none of them from outside.
    if mask.dim() != 2 or mask.shape != ids.shape:
        return arguments, named
    return arguments, {**named, "position_ids": positions(mask)}
