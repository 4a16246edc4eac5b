"""The tasks with labels, by transformers' trainers as they come; see `stock`."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
    set_seed,
)

from finetune_trainer.resume.randomness import seed_of
from invariant.parity.curves import Curve
from invariant.parity.stock import common, curve, lora
from invariant.parity.workplace import SEED, Row, Workplace

ATTENTION = ["query", "key", "value"]


def text2text(place: Workplace, rows: Sequence[Row]) -> Curve:
    """transformers' Seq2SeqTrainer."""
    set_seed(SEED)
    words = AutoTokenizer.from_pretrained(place.model("t5"))
    model = AutoModelForSeq2SeqLM.from_pretrained(place.model("t5"), dtype=torch.float32)
    inputs = words([row["prompt"] for row in rows])["input_ids"]
    labels = words([row["completion"] for row in rows])["input_ids"]
    trainer = Seq2SeqTrainer(
        model=get_peft_model(model, lora("SEQ_2_SEQ_LM")),
        args=Seq2SeqTrainingArguments(**common(place)),
        train_dataset=Dataset.from_dict({"input_ids": inputs, "labels": labels}),
        data_collator=DataCollatorForSeq2Seq(words),
        processing_class=words,
    )
    return curve(trainer)


def text_classification(place: Workplace, rows: Sequence[Row]) -> Curve:
    """transformers' Trainer with BERT."""
    words, names = encoder(place), sorted({row["label"] for row in rows})
    model = loaded(place, AutoModelForSequenceClassification, num_labels=len(names))
    ids = words([row["text"] for row in rows])["input_ids"]
    labels = [names.index(row["label"]) for row in rows]
    trainer = Trainer(
        model=get_peft_model(model, attention("SEQ_CLS", ["pooler"])),
        args=TrainingArguments(**common(place)),
        train_dataset=Dataset.from_dict({"input_ids": ids, "labels": labels}),
        data_collator=DataCollatorWithPadding(words),
        processing_class=words,
    )
    return curve(trainer)


def token_classification(place: Workplace, rows: Sequence[Row]) -> Curve:
    """transformers' Trainer with BERT; the tag stands at the first piece of its word."""
    words, names = encoder(place), sorted({tag for row in rows for tag in row["tags"]})
    model = loaded(place, AutoModelForTokenClassification, num_labels=len(names))
    encoded = words([row["tokens"] for row in rows], is_split_into_words=True)
    labels = [
        first_pieces(encoded.word_ids(number), [names.index(tag) for tag in row["tags"]])
        for number, row in enumerate(rows)
    ]
    trainer = Trainer(
        model=get_peft_model(model, attention("TOKEN_CLS")),
        args=TrainingArguments(**common(place)),
        train_dataset=Dataset.from_dict({"input_ids": encoded["input_ids"], "labels": labels}),
        data_collator=DataCollatorForTokenClassification(words),
        processing_class=words,
    )
    return curve(trainer)


def fill_mask(place: Workplace, rows: Sequence[Row]) -> Curve:
    """transformers' Trainer with BERT and the collator of the library."""
    words = encoder(place)
    encoded = words([row["text"] for row in rows], return_special_tokens_mask=True)
    columns = ("input_ids", "special_tokens_mask", "attention_mask")
    trainer = Trainer(
        model=get_peft_model(loaded(place, AutoModelForMaskedLM), attention(None)),
        args=TrainingArguments(**common(place), remove_unused_columns=False),
        train_dataset=Dataset.from_dict({name: encoded[name] for name in columns}),
        data_collator=OurDraws(words, mlm_probability=0.15, seed=SEED),
        processing_class=words,
    )
    return curve(trainer)


class OurDraws(DataCollatorForLanguageModeling):
    """The collator of the library, whose seed is ours for each batch: a run can go on from any of them."""

    batches = 0

    def torch_call(self, examples: list[Any]) -> dict[str, Any]:
        """A batch with hidden tokens."""
        self.seed, self.generator = seed_of(SEED, self.batches), None
        self.batches += 1
        return dict(super().torch_call(examples))


def encoder(place: Workplace) -> Any:
    """BERT's tokenizer."""
    return AutoTokenizer.from_pretrained(place.model("bert"))


def loaded(place: Workplace, kind: Any, **options: Any) -> Any:
    """BERT with a head, which is drawn by the seed where it is new."""
    set_seed(SEED)
    return kind.from_pretrained(place.model("bert"), dtype=torch.float32, **options)


def attention(task: str | None, whole: list[str] | None = None) -> LoraConfig:
    """An adapter on the attention; the head of a classifier is trained whole."""
    shape = {"r": 8, "lora_alpha": 16, "target_modules": ATTENTION}
    return LoraConfig(**shape, task_type=task, modules_to_save=whole)


def first_pieces(words: Sequence[int | None], tags: Sequence[int]) -> list[int]:
    """Tags at the first piece of each word, -100 elsewhere."""
    before = [None, *words]
    return [
        -100 if word is None or word == last else tags[word]
        for last, word in zip(before, words, strict=False)
    ]
