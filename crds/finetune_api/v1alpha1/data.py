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
