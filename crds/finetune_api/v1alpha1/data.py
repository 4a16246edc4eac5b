"""`spec.data`: what the model learns from, in which format, and which tokens carry loss."""

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
ColumnName = Annotated[str, Field(min_length=1, max_length=128)]
Share = Annotated[float, Field(ge=0, le=1)]


class DataSource(ApiModel):
    """One source of rows."""

    source: SourceUri
    """A file or a folder: `s3://`, `pvc://`, `hf://`, `job://`; `file://` on a laptop only."""

    weight: Annotated[float, Field(gt=0, le=1000)] = 1
    """How often rows of this source are drawn, relative to the other sources."""

    split: Line | None = None
    """Split of a hub data set."""

    subset: Line | None = None
    """Configuration of a hub data set."""


class Evaluation(ApiModel):
    """Held-out rows: a fraction of the training rows, or sources of their own."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.fraction) != has(self.sources)",
            message="give exactly one of `fraction` and `sources`",
            check=lambda e: (e.fraction is None) != (e.sources is None),
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

    rules: ClassVar[tuple[Rule, ...]] = (auto_or_between("max_length", 8, 1048576),)

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
    """Several short rows in one sequence, without attention across rows."""

    loss: Literal["Completions", "Assistant", "All"] = "Completions"
    """Which tokens carry loss: the completion (or the last assistant turn) only, every assistant
    turn, or all tokens."""

    chat_template: Annotated[str, Field(max_length=16384)] | None = None
    """Jinja chat template in place of the tokenizer's own; run in a sandbox."""

    limits: Limits = Limits()
    """How much of the data may be amiss before the job is refused."""

    published_samples: Annotated[int, Field(ge=0, le=10)] = 3
    """Training rows that are published as text with the output, in `data_samples.md`, so that people
    can see which tokens carry loss. 0 where the output's readers may not see the data."""
