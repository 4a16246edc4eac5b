"""What a training method adds to the common course of a run.

Each method is one module of this folder with one subclass; `recipes.course` calls its methods in the
order in which they stand here. What is the same for all methods is not here but there.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.status import Resolved
from finetune_trainer import heads, model
from finetune_trainer.batches import Batch
from finetune_trainer.context import Context
from finetune_trainer.data.given import Given
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.early_stopping import Criterion
from finetune_trainer.fast import told
from finetune_trainer.foreign import Foreign, Model, ModelConfig, Tokenizer
from finetune_trainer.resolve import Machine, Settings, resolve
from finetune_trainer.sanity import KnownAnswer
from finetune_trainer.tuning import virtual_tokens
from finetune_trainer.tuning.apply import apply
from finetune_trainer.tuning.base import keeping_dtypes, load_base
from finetune_trainer.tuning.starts import start
from finetune_trainer.watch import Measures, Watch


@dataclass(frozen=True)
class Ready:
    """A run with its data and settings, before the weights are loaded.

    Attributes:
        context: The run, its inputs and where to write.
        tokenizer: With the chat template that is used.
        config: The base model's configuration.
        data: Token rows.
        settings: Every setting.
        resolved: What was chosen, and why.
        before: The model before training, if the one that is measured is trained already; what is
            measured against the start is measured against this one.
        flat: Whether the rows of a forward pass stand in one long row, without padding.
    """

    context: Context
    tokenizer: Tokenizer
    config: ModelConfig
    data: Prepared[Any]
    settings: Settings
    resolved: list[Resolved]
    before: Model | None = None
    flat: bool = False

    @property
    def spec(self) -> FineTuneJobSpec:
        """The job's spec."""
        return self.context.run.spec


def given(
    context: Context, tokenizer: Tokenizer, config: ModelConfig, *, answer_tokens: int = 0
) -> Given:
    """What the preparers of `data.prepare` take.

    Args:
        context: The run.
        tokenizer: With the chat template that is used.
        config: The base model's configuration.
        answer_tokens: Tokens that the model writes after a prompt, for methods that let it.
    """
    return Given(
        examples=context.examples,
        data=context.run.spec.data,
        tokenizer=tokenizer,
        limit=virtual_tokens.room(model.position_limit(config), context.run.spec.tuning),
        seed=context.run.spec.training.seed,
        vocabulary=config.get_text_config().vocab_size,
        answer_tokens=answer_tokens,
        store=context.tokens,
    )


class Recipe(ABC):
    """One training method for one kind of model.

    Attributes:
        criterion: The held-out figure that early stopping looks at.
    """

    criterion = Criterion()

    def head(self, spec: FineTuneJobSpec) -> heads.Head:
        """The kind of model that is trained."""
        return heads.OF_TASK[spec.model.task]

    def pad(self, tokenizer: Tokenizer) -> list[Resolved]:
        """Give the tokenizer a pad token if it has none, and say which."""
        return model.set_pad_token(tokenizer)

    @abstractmethod
    def prepare(self, context: Context, tokenizer: Tokenizer, config: ModelConfig) -> Prepared[Any]:
        """The rows as token ids."""

    def resolve(
        self, spec: FineTuneJobSpec, machine: Machine, data: Prepared[Any]
    ) -> tuple[Settings, list[Resolved]]:
        """Every setting."""
        return resolve(spec, machine, len(data.train), data.max_length)

    def load(self, ready: Ready) -> Model:
        """The model with its trainable parameters, on the device."""
        spec, settings, source = ready.spec, ready.settings, ready.context.base
        head = self.head(spec)
        base = load_base(
            source,
            ready.config,
            settings.weights,
            settings.device,
            head,
            quantization=spec.tuning.quantization,
            scratch=ready.context.scratch,
        )
        model.check_vocabulary(ready.tokenizer, base, source.uri)
        checkpointing = settings.gradient_checkpointing
        net = apply(base, spec.tuning, source.identity, head, checkpointing=checkpointing)
        virtual_tokens.start(net, spec.tuning, ready.tokenizer)
        return start(net, spec.tuning, partial(model.load_merged, source, ready.config, head))

    def settle(self, ready: Ready, net: Model) -> Ready:
        """The run with what only the loaded model can decide."""
        return ready

    def outline(self, ready: Ready) -> Model:
        """The same model without memory: every shape and every target, and not one weight.

        Raises:
            TrainerError: What `load` raises about tuning and vocabulary.
        """
        spec, source = ready.spec, ready.context.base
        head = self.head(spec)
        base = model.outline(ready.config, head)
        model.check_vocabulary(ready.tokenizer, base, source.uri)
        with model.on_meta():
            return apply(base, spec.tuning, source.identity, head, checkpointing=False)

    def updates(self, ready: Ready) -> int:
        """How often the weights are updated."""
        return ready.settings.total_steps

    def make_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """What `build_trainer` gives, with every number in the dtype that it had before."""
        with keeping_dtypes(net):
            return self.build_trainer(ready, net, watch)

    @abstractmethod
    def build_trainer(self, ready: Ready, net: Model, watch: Watch) -> Foreign:
        """What trains: an object with `train()` and `state.global_step`, which tells the watch."""

    def fast_paths(self, ready: Ready, trainer: Foreign) -> list[Resolved]:
        """Which loss and which batches the trainer has, as the status tells it."""
        return told.library("no loss of ours fits this task", "the library pads rows to one length")

    def before_training(self, trainer: Foreign, checkpoint: Path | None) -> list[Resolved]:
        """What is done once before the first step, as the status tells it; all processes do it.

        Args:
            trainer: Of this recipe.
            checkpoint: The folder that training goes on from.
        """
        return []

    def known_answer(self, ready: Ready, trainer: Foreign) -> KnownAnswer | None:
        """What the loss of the first step must be; None where nothing is known.

        Asked for after that step, so a trainer may have looked at the very batch.
        """
        return None

    @abstractmethod
    def measure(self, ready: Ready, trainer: Foreign) -> Measures:
        """Figures on the held-out rows, by camelCase names; `loss` is in nats."""

    def figures(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """The method's own figures in a log entry of its trainer, by camelCase names."""
        return {}

    @abstractmethod
    def probe(self, ready: Ready) -> Batch:
        """A few real rows as model inputs, on the CPU; the published model is compared on them."""
