"""`spec.data`: what the model learns from, in which format, and which tokens carry loss."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.meta import (
    AUTO,
    ApiModel,
    AutoOrCount,
    Kubernetes,
    Line,
    Rule,
    SecretReference,
    SourceUri,
    auto_or_between,
)
from finetune_api.v1alpha1.model import Task

DataFormat = Literal[
    "Auto",
    "Messages",
    "PromptCompletion",
    "Text",
    "Preference",
    "UnpairedPreference",
    "PromptOnly",
    "Alpaca",
    "ShareGPT",
    "Labelled",
    "Tokenized",
]
# What supervised fine-tuning learns from, by `model.task`.
_SFT_FORMATS: dict[Task, tuple[DataFormat, ...]] = {
    "text-generation": (
        "Messages",
        "PromptCompletion",
        "Text",
        "Alpaca",
        "ShareGPT",
        "Tokenized",
    ),
    "text2text-generation": ("Messages", "PromptCompletion", "Alpaca", "ShareGPT", "Tokenized"),
    "text-classification": ("Labelled",),
    "token-classification": ("Labelled",),
    "fill-mask": ("Text", "Tokenized"),
}
# What the other methods learn from.
_METHOD_FORMATS: dict[str, tuple[DataFormat, ...]] = {
    **dict.fromkeys(("Reward", "DPO", "IPO", "ORPO", "CPO", "SimPO"), ("Preference",)),
    "KTO": ("UnpairedPreference",),
    **dict.fromkeys(("PPO", "GRPO", "RLOO", "Distillation"), ("PromptOnly",)),
}


def accepted_formats(method: str, task: Task) -> tuple[DataFormat, ...]:
    """The formats that a job of this method and task learns from."""
    return _SFT_FORMATS[task] if method == "SFT" else _METHOD_FORMATS[method]


def format_rules() -> Iterator[Rule]:
    """The same as rules on the spec: `data.format` is `Auto` or one that the job learns from."""
    for task, formats in _SFT_FORMATS.items():
        yield _needs(f"SFT of {task}", "SFT", task, formats)
    for method, formats in _METHOD_FORMATS.items():
        yield _needs(method, method, None, formats)


def packing_rules() -> Iterator[Rule]:
    """What the rest of the spec must say for `data.packing`."""
    yield Rule(
        cel="self.data.packing != 'Enabled' || (self.method.type == 'SFT'"
        " && self.model.task == 'text-generation')",
        message="`data.packing: Enabled` is there for SFT of text-generation only",
        check=lambda s: (
            s.data.packing != "Enabled"
            or (s.method.type == "SFT" and s.model.task == "text-generation")
        ),
    )


def streaming_rules() -> Iterator[Rule]:
    """What the rest of the spec must say for `data.streaming`."""
    yield Rule(
        cel="!self.data.streaming || has(self.training.maxSteps)",
        message="`data.streaming` needs `training.maxSteps`, as the number of rows is not known",
        check=lambda s: not s.data.streaming or s.training.max_steps is not None,
    )
    yield Rule(
        cel="!self.data.streaming || (self.method.type == 'SFT'"
        " && self.model.task == 'text-generation')",
        message="`data.streaming` is there for SFT of text-generation only",
        check=lambda s: (
            not s.data.streaming or (s.method.type == "SFT" and s.model.task == "text-generation")
        ),
    )


def _needs(name: str, method: str, task: str | None, formats: tuple[DataFormat, ...]) -> Rule:
    listed = ", ".join(f"'{each}'" for each in (AUTO, *formats))
    of_task = f" || self.model.task != '{task}'" if task else ""
    return Rule(
        cel=f"self.method.type != '{method}'{of_task} || self.data.format in [{listed}]",
        message=f"{name} needs data of format {' or '.join(formats)}",
        check=lambda s: (
            s.method.type != method
            or (task is not None and s.model.task != task)
            or s.data.format in (AUTO, *formats)
        ),
    )


ColumnName = Annotated[str, Field(min_length=1, max_length=128)]
Share = Annotated[float, Field(ge=0, le=1)]


class DataSource(ApiModel):
    """One source of rows."""

    source: SourceUri
    """A file or a folder: `s3://`, `pvc://`, `hf://`, `job://`; `file://` on a laptop only. Rows are
    read from jsonl, json, csv, tsv, parquet and arrow files, the texts also packed by gzip or zstd."""

    weight: Annotated[float, Field(gt=0, le=1000)] = 1
    """How often rows of this source are drawn, relative to the other sources: with weights 1 and 2,
    each row of the second stands twice in one pass over the data."""

    split: Line | None = None
    """Split of the data set, as its card or its file names say. Unset: `train` for training,
    `validation` or `test` for evaluation; all files where no names tell splits apart."""

    subset: Line | None = None
    """Configuration of the data set, as its card (`README.md`) says. Unset: its default."""


class Evaluation(ApiModel):
    """Held-out rows: a fraction of the training rows, or sources of their own."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.fraction) != has(self.sources)",
            message="give exactly one of `fraction` and `sources`",
            check=lambda e: (e.fraction is None) != (e.sources is None),
        ),
        Rule(
            cel="!has(self.sources) || self.sources.all(source, source.weight == 1.0)",
            message="sources of evaluation rows have no `weight`: each row is measured once",
            check=lambda e: all(source.weight == 1 for source in e.sources or ()),
        ),
    )

    fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training rows that is held out, drawn by `training.seed`."""

    sources: (
        Annotated[list[DataSource], Field(min_length=1, max_length=16), Kubernetes("atomic")] | None
    ) = None
    """Sources that hold the evaluation rows."""


class Limits(ApiModel):
    """How much of the data may be amiss before the job is refused; shares from 0 to 1.

    What stays below is counted in `status.plan` and told in the output's `data_contract.json`.
    """

    max_truncated: Share = 0.5
    """Rows that are longer than `maxLength` and are cut."""

    max_skipped: Share = 0.1
    """Rows that are left out, because nothing is left to learn from once they are cut."""

    max_identical_pairs: Share = 0.1
    """Preference rows whose chosen and rejected answers are the same."""

    max_without_stop_token: Share = 0.1
    """Answers, of those that are not cut, that do not end with a token that ends a turn."""

    max_duplicates: Share = 1
    """Training rows that equal an earlier one; copies are a way to give rows more weight, so none are
    refused by default."""

    max_leaked: Share = 0.5
    """Held-out rows that stand among the training rows too."""


class Data(ApiModel):
    """The data, its format and its treatment."""

    rules: ClassVar[tuple[Rule, ...]] = (
        auto_or_between("max_length", 8, 1048576),
        Rule(
            cel="!self.streaming || !has(self.evaluation) || !has(self.evaluation.fraction)",
            message="no fraction can be held out of rows that are streamed; "
            "give `evaluation.sources`",
            check=lambda d: not (d.streaming and d.evaluation and d.evaluation.fraction),
        ),
        Rule(
            cel="!self.streaming || self.train.all(source, source.weight == 1.0)",
            message="sources that are streamed have no `weight`",
            check=lambda d: not d.streaming or all(source.weight == 1 for source in d.train),
        ),
        Rule(
            cel="!self.streaming || self.packing != 'Enabled'",
            message="rows that are streamed are not packed",
            check=lambda d: not d.streaming or d.packing != "Enabled",
        ),
    )

    train: Annotated[list[DataSource], Field(min_length=1, max_length=32), Kubernetes("atomic")]
    """Sources of training rows."""

    evaluation: Evaluation | None = None
    """Rows to measure on. Without it, loss is known on the training rows only."""

    credentials: SecretReference | None = None
    """Secret with key `HF_TOKEN`, for gated or private data sets."""

    format: DataFormat = "Auto"
    """Shape of a row. `Auto` recognises it by the columns."""

    columns: Annotated[dict[ColumnName, ColumnName], Field(max_length=16)] | None = None
    """Foreign column names, by the name that the format expects: `{prompt: question}`."""

    max_length: AutoOrCount = AUTO
    """Longest row in tokens (8 to 1048576); what is over is counted and reported, never silent."""

    packing: Literal["Auto", "Enabled", "Disabled"] = "Auto"
    """Several short rows in one sequence of `maxLength`, without attention across rows: proved with
    the model on real rows before training. Batches then count sequences. `Auto` packs where that
    saves at least half of the sequences, leaves at least 512, and batch size and steps are left open."""

    loss: Literal["Completions", "Assistant", "All"] = "Completions"
    """Which tokens carry loss: the completion (or the last assistant turn) only, every assistant
    turn, or all tokens."""

    streaming: bool = False
    """Read rows while training goes on, shuffled within a buffer, for data that does not fit into
    memory. Needs `training.maxSteps`; the data is checked beforehand by its first rows only."""

    chat_template: Annotated[str, Field(max_length=16384)] | None = None
    """Jinja chat template in place of the tokenizer's own; run in a sandbox."""

    limits: Limits = Limits()
    """How much of the data may be amiss before the job is refused."""

    published_samples: Annotated[int, Field(ge=0, le=10)] = 3
    """Training rows that are published as text with the output, in `data_samples.md`, so that people
    can see which tokens carry loss. 0 where the output's readers may not see the data."""
