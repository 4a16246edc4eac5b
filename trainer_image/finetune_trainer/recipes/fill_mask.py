"""Supervised fine-tuning of a masked language model on texts: guess the tokens that are hidden.

Devlin et al. 2019 (arXiv 1810.04805): 15 % of the tokens are chosen; of these 80 % are replaced by the
mask token, 10 % by a random one, and 10 % stay. Training draws anew in each pass, evaluation always
the same. The loop is that of transformers' Trainer.
"""

from dataclasses import replace

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.batches import dataset
from finetune_trainer.context import Context
from finetune_trainer.data.prepare import masked_rows
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.errors import TrainerError
from finetune_trainer.foreign import Foreign, Model, ModelConfig, Tokenizer
from finetune_trainer.recipes.recipe import Ready, given
from finetune_trainer.recipes.supervised import Supervised
from finetune_trainer.supervised.collators import MaskingCollator
from finetune_trainer.supervised.metrics import accuracy
from finetune_trainer.supervised.origin import brings_head, origin_of_head
from finetune_trainer.supervised.scores import Scores
from finetune_trainer.watch import Measures


class FillMask(Supervised):
    """The method SFT for filling masks."""

    def prepare(
        self, context: Context, tokenizer: Tokenizer, config: ModelConfig
    ) -> Prepared[TokenRow]:
        """Texts in pieces, whose labels name the tokens that may be hidden.

        Raises:
            TrainerError: As for `load`, if the configuration tells already.
        """
        bare = all(name.endswith("Model") for name in config.architectures or ("?",))
        if context.run.spec.tuning.type != "Full" and bare and not context.base.adapters:
            raise _headless(context.base.uri)
        return masked_rows(given(context, tokenizer, config))

    def load(self, ready: Ready) -> Model:
        """The model with its trainable parameters.

        Raises:
            TrainerError: UnsupportedModel for an adapter on a base without the head: the head would
                stay as random as it starts.
        """
        base = ready.context.base
        if ready.spec.tuning.type != "Full" and not brings_head(base, self.head(ready.spec)):
            raise _headless(base.uri)
        return super().load(ready)

    def settle(self, ready: Ready, net: Model) -> Ready:
        """The run, which also tells whether the head is new."""
        note = origin_of_head(ready.context.base, self.head(ready.spec))
        return replace(ready, resolved=[*ready.resolved, note])

    def batches(self, ready: Ready) -> MaskingCollator:
        """Hides tokens, drawn from the run's seed."""
        return MaskingCollator(ready.tokenizer, ready.settings.seed)

    def dataset(self, ready: Ready) -> Foreign:
        """The training rows."""
        return dataset(ready.data.train)

    def figures_of(self, scores: Scores, ready: Ready) -> Measures:
        """Share of the hidden tokens that are likeliest where they stood."""
        return {"accuracy": accuracy(scores.pairs)}


def _headless(uri: str) -> TrainerError:
    message = f"{uri} has no head that fills masks, and an adapter would not train a new one"
    hint = "Use `tuning.type: Full`, or a base that was published with its head."
    return TrainerError(Reason.UNSUPPORTED_MODEL, message, hint)
