"""Which head a model carries for its task: transformers' class, and what of it may be new.

Recipes name their head; `model` loads it. A head that the base does not have starts fresh, which
`model` tells; any other missing tensor is a damaged model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import transformers
from transformers.models.auto import modeling_auto

from finetune_api.v1alpha1.model import Task
from finetune_trainer.foreign import Foreign, ModelConfig


def name_labels(config: ModelConfig, labels: Sequence[str]) -> None:
    """Give a configuration these classes, by number."""
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}


def classify(config: ModelConfig, labels: Sequence[str]) -> None:
    """Have a model tell these classes apart, one of them right."""
    name_labels(config, labels)
    config.problem_type = "single_label_classification"


@dataclass(frozen=True)
class Head:
    """One kind of model.

    Attributes:
        words: What it is, for messages.
        auto_class: Name of transformers' automatic class.
        mapping: Name of the table that tells that class of each `model_type`.
        fresh: Name parts of the modules that may be missing in the base and then start fresh.
        peft_task: PEFT's task type.
    """

    words: str
    auto_class: str
    mapping: str
    fresh: tuple[str, ...] = ()
    peft_task: str | None = None

    @property
    def loader(self) -> Foreign:
        """The class with `from_pretrained`."""
        return getattr(transformers, self.auto_class)

    def labels(self, config: ModelConfig) -> list[str] | None:
        """Names of the classes by number, if the head has any."""
        if self not in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION):
            return None
        return [config.id2label[number] for number in range(config.num_labels)]

    def architectures(self, model_type: str) -> tuple[str, ...]:
        """Names of the classes that carry this head for a `model_type`; empty if none does."""
        found = getattr(modeling_auto, self.mapping).get(model_type)
        if found is None:
            return ()
        return tuple(found) if isinstance(found, tuple | list) else (found,)


CAUSAL = Head(
    "a causal language model",
    "AutoModelForCausalLM",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    peft_task="CAUSAL_LM",
)
SEQUENCE_TO_SEQUENCE = Head(
    "an encoder-decoder language model",
    "AutoModelForSeq2SeqLM",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    peft_task="SEQ_2_SEQ_LM",
)
SEQUENCE_CLASSIFICATION = Head(
    "a model that classifies texts",
    "AutoModelForSequenceClassification",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    # `pooler` belongs to BERT's classification head and is dropped by those who train encoders.
    fresh=("score.", "classifier.", "classification_head.", "pooler."),
    peft_task="SEQ_CLS",
)
TOKEN_CLASSIFICATION = Head(
    "a model that classifies tokens",
    "AutoModelForTokenClassification",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    fresh=("score.", "classifier."),
    peft_task="TOKEN_CLS",
)
MASKED = Head(
    "a masked language model",
    "AutoModelForMaskedLM",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    fresh=("cls.", "lm_head.", "vocab_"),
)

OF_TASK: dict[Task, Head] = {
    "text-generation": CAUSAL,
    "text2text-generation": SEQUENCE_TO_SEQUENCE,
    "text-classification": SEQUENCE_CLASSIFICATION,
    "token-classification": TOKEN_CLASSIFICATION,
    "fill-mask": MASKED,
}
