"""What a method takes beside its passes of training, where the model answers prompts meanwhile. Counted.

Called by `recipes.passes`. Answers are written, judged and compared before a pass of training begins, so
of these only the largest counts, and only where it is larger than that pass. Models that judge or teach stay.
"""

from dataclasses import dataclass

from finetune_trainer import activations
from finetune_trainer.answering import ROWS_AT_ONCE
from finetune_trainer.foreign import Model, ModelConfig
from finetune_trainer.layer_shape import WIDTHS, Shape
from finetune_trainer.resolve import Settings

ONLINE = ("PPO", "GRPO", "RLOO", "Distillation")
"""Methods whose model answers prompts while it is trained."""
# Of a row and token of the vocabulary, while the next one is drawn: logits as they are, in float32, at the
# temperature, and in float64 as they are, as shares and summed.
_DRAWN = 4 + 4 + 4 + 3 * 8
# Of two distributions that are compared: their logarithms, the shares of one, a difference, a product.
_COMPARED = 5 * 4


@dataclass(frozen=True)
class Beside:
    """Bytes beside a pass of training.

    Attributes:
        judges: Of reward models and teachers, which stay.
        answers: Of what is over before a pass of training begins, at its largest.
        reading: Of passes without gradients that run while the layers keep what they computed.
    """

    judges: int = 0
    answers: int = 0
    reading: int = 0


NOTHING = Beside()


@dataclass(frozen=True)
class Answering:
    """The answers of a step, as one process writes them.

    Attributes:
        answers: How many, in training.
        group: To each prompt.
        held_out: How many are written to be measured.
        prompt: Tokens of the longest prompt, virtual ones among them.
        answer: Tokens of the longest answer.
    """

    answers: int
    group: int
    held_out: int
    prompt: int
    answer: int

    @property
    def rows(self) -> int:
        """Answers that are written side by side."""
        return min(ROWS_AT_ONCE, max(self.answers, self.held_out))

    @property
    def prompts(self) -> int:
        """Different prompts among them."""
        # Of the answers that are written together, both ends may belong to groups that are cut.
        grouped = min(self.answers, -(-min(ROWS_AT_ONCE, self.answers) // self.group) + 1)
        return min(self.rows, max(grouped, self.held_out))


def written(outline: Model, config: ModelConfig, settings: Settings, how: Answering) -> int:
    """Bytes while answers are written: keys and values of all tokens, and what draws the next ones."""
    shape = Shape.of(outline, config, settings)
    width = WIDTHS[settings.weights]
    token = 2 * shape.keys * width
    length = how.prompt + how.answer
    # A layer's keys and values are copied whenever a token comes, and for queries that share them.
    cache = how.rows * length * (token * (shape.layers + 1) + 2 * shape.queries * width)
    cache += how.prompts * how.prompt * token * shape.layers
    vocabulary = config.get_text_config().vocab_size
    read = activations.without_gradients(outline, config, settings, how.prompts * how.prompt)
    return cache + max(read, _DRAWN * how.rows * vocabulary)


def compared(config: ModelConfig, settings: Settings, how: Answering) -> int:
    """Bytes while held-out answers are compared with a reference or a teacher, over the whole vocabulary."""
    rows = min(how.held_out, settings.micro_batch_size)
    return _COMPARED * rows * (how.answer + 1) * int(config.get_text_config().vocab_size)


def read(outline: Model, config: ModelConfig, settings: Settings, tokens: int) -> int:
    """Bytes of a pass without gradients that judges, or says what is compared with."""
    hidden = tokens * config.get_text_config().hidden_size * (WIDTHS[settings.weights] + 4)
    return hidden + activations.without_gradients(outline, config, settings, tokens)


def weights(outline: Model, settings: Settings) -> int:
    """Bytes of a model that judges or teaches."""
    return WIDTHS[settings.weights] * sum(each.numel() for each in outline.parameters())
