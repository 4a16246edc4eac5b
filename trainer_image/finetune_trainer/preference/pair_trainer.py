"""The trainer of ORPO, CPO and SimPO: pairs of answers, held against each other and nothing else.

Used by `recipes.reference_free`; the formulas are in `objectives`. TRL has trainers for these in its
experimental part, which tokenize rows their own way and take means over each pass.
"""

from dataclasses import dataclass

import torch

from finetune_trainer.batches import Batch
from finetune_trainer.data.rows import IGNORED
from finetune_trainer.foreign import Foreign, Model
from finetune_trainer.preference.answer_trainer import AnswerTrainer
from finetune_trainer.preference.objectives import Objective
from finetune_trainer.preference.pairs import PairFigures, answer_labels, forward
from finetune_trainer.preference.step import Size
from finetune_trainer.sanity import before_first_step


@dataclass(frozen=True)
class Terms:
    """Both terms of the loss, and what they are of; tensors of shape (pairs,).

    Attributes:
        preference: Losses of pairs.
        surprise: -ln π of what the likelihood term is of, summed over its tokens.
        tokens: How many these are.
        chosen: Log-probabilities of the better answers, as the loss takes them.
        rejected: Those of the worse ones.
    """

    preference: torch.Tensor
    surprise: torch.Tensor
    tokens: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor


class ReferenceFreePairs(AnswerTrainer):
    """Trains on pairs without a reference.

    Args:
        objective: The loss.
        arguments: Those of `AnswerTrainer`.

    Attributes:
        unchanged: The loss of the model before training on the rows of the first step; with several
            processes, this one's share.
    """

    def __init__(self, *, objective: Objective, **arguments: Foreign) -> None:
        super().__init__(**arguments)
        self._objective = objective
        self.unchanged = 0.0

    def size(self, batch: Batch) -> Size:
        """Pairs, and tokens of the likelihood term."""
        liked = self._liked(batch)
        return Size(len(liked), int(liked.sum()))

    def compute_loss(self, model: Model, inputs: Batch, *_: Foreign, **__: Foreign) -> torch.Tensor:
        """The share of one forward pass in the loss of its step."""
        if self.state.global_step == 0:
            with before_first_step(model), torch.no_grad():
                loss = float(self._of_pass(self._terms(model, inputs), inputs))
            self.unchanged += loss / len(self._passes)
        terms = self._terms(model, inputs)
        self.count(inputs)
        self._note(inputs, terms)
        return self._of_pass(terms, inputs)

    @torch.no_grad()
    def pair_figures(self, batch: Batch) -> PairFigures:
        """Loss and rewards of each pair alone."""
        terms, objective = self._terms(self.model, batch), self._objective
        loss = terms.preference + objective.likelihood * terms.surprise / terms.tokens
        chosen, rejected = objective.beta * terms.chosen, objective.beta * terms.rejected
        return PairFigures(loss, chosen, rejected, tie=0.0)

    def _of_pass(self, terms: Terms, batch: Batch) -> torch.Tensor:
        share = self.share(batch)
        likelihood = terms.surprise.sum() / terms.tokens.sum()
        return (
            terms.preference.mean() * share.rows
            + self._objective.likelihood * likelihood * share.tokens
        )

    def _terms(self, model: Model, batch: Batch) -> Terms:
        labels, answers = answer_labels(batch), batch["completion_mask"][:, 1:]
        liked = self._liked(batch)
        if self._objective.on_prompts:
            whole = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
            labels = torch.cat([whole.chunk(2)[0], labels.chunk(2)[1]])
        # Adapters that live in the prompt lengthen the sequence at its beginning.
        found = forward(model, batch, self._settings, labels).log_probs.float()
        found = found[:, -answers.shape[1] :]
        sums = (found * answers).sum(1)
        if self._objective.per_token:
            sums = sums / answers.sum(1)
        chosen, rejected = sums.chunk(2)
        surprise = -(found.chunk(2)[0] * liked).sum(1)
        losses = self._objective.preference(chosen, rejected)
        return Terms(losses, surprise, liked.sum(1), chosen, rejected)

    def _liked(self, batch: Batch) -> torch.Tensor:
        name = "attention_mask" if self._objective.on_prompts else "completion_mask"
        return batch[name][:, 1:].chunk(2)[0]

    def _note(self, batch: Batch, terms: Terms) -> None:
        beta, chosen, rejected = self._objective.beta, terms.chosen, terms.rejected
        self.rows.note(
            batch,
            **{
                "rewards/margins": beta * (chosen - rejected),
                "rewards/accuracies": (chosen > rejected).float(),
                "rewards/chosen": beta * chosen,
                "rewards/rejected": beta * rejected,
                "logps/chosen": chosen,
                "logps/rejected": rejected,
            },
        )
