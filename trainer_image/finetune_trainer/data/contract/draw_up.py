"""Drawing up the contract of one job: count, judge, decode; and writing it into the output.

Called by `recipes.course` through the package.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune_api.meta import API_VERSION, ApiModel
from finetune_api.v1alpha1.data import Data
from finetune_api.v1alpha1.model import Task
from finetune_api.v1alpha1.status import Plan
from finetune_trainer.data.contract import samples
from finetune_trainer.data.contract.judge import Evidence, Finding, judge, refuse
from finetune_trainer.data.contract.measure import Measures, Tokens, histogram, measure
from finetune_trainer.data.contract.view import Viewer
from finetune_trainer.data.mapped import lengths
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.treatment import Treatment
from finetune_trainer.foreign import Tokenizer

CONTRACT = "data_contract.json"
SAMPLES = "data_samples.md"
_CLASSES_IN_STATUS = 32
_NAME_IN_STATUS = 64


@dataclass(frozen=True)
class Subject:
    """Whose rows are looked at.

    Attributes:
        data: The block of the spec.
        task: What the model does.
        tokenizer: Decodes, and knows its start token and the tokens that end a turn.
    """

    data: Data
    task: Task
    tokenizer: Tokenizer

    @property
    def tokens(self) -> Tokens:
        """The special tokens that are looked for."""
        tokenizer = self.tokenizer
        # Chat templates end turns with added tokens; these two kinds of them end nothing.
        never = {tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
        stops = {*tokenizer.added_tokens_decoder} - never | {tokenizer.eos_token_id}
        return Tokens(tokenizer.bos_token_id, frozenset(stops - {None}))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return str(
            self.tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )


class LengthBucket(ApiModel):
    """Rows by their length before they are cut."""

    up_to: int
    rows: int


class DataContract(ApiModel):
    """`data_contract.json`."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION
    kind: Literal["DataContract"] = "DataContract"
    max_length: int
    """Longest row in tokens; what is longer is cut."""

    plan: Plan
    """The counts that `status.plan` shows."""

    tokens: int
    """Tokens of the training rows, with and without loss."""

    tokens_lost: int
    """Tokens that cutting took away."""

    supervised_tokens_lost: int
    """Those of them that carried loss."""

    lengths: list[LengthBucket]
    """Training and held-out rows by length, before they are cut."""

    start_tokens: dict[str, int]
    """Sequences by the number of start tokens that they begin with: `0`, `1`, `2+`."""

    stop_token_share: float | None
    """Share of the answers that end with a stop token; absent where nothing is written."""

    classes: dict[str, int] | None
    """How often each class or tag stands in the training rows."""

    findings: list[Finding]
    """What is not as it should be, with the first rows; breaches have a reason."""


@dataclass(frozen=True)
class Contract:
    """The contract of a job.

    Attributes:
        content: All figures and findings.
        page: The decoded rows, as Markdown; empty if none are to be published.
    """

    content: DataContract
    page: str

    @property
    def plan(self) -> Plan:
        """The counts for the status."""
        return self.content.plan

    def refuse_breaches(self) -> None:
        """End the run if the data breaks a limit.

        Raises:
            TrainerError: With the reason of the first breach and the sentences of all.
        """
        refuse(self.content.findings)

    def publish(self, folder: Path) -> None:
        """Write both files into the output folder."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.content.to_dict(), indent=2, ensure_ascii=False)
        (folder / CONTRACT).write_text(text + "\n", "utf-8")
        if self.page:
            (folder / SAMPLES).write_text(self.page, "utf-8")


def draw_up(prepared: Prepared[Any], subject: Subject) -> Contract:
    """Look at all rows of a job.

    Args:
        prepared: The rows, and what became of those that are not among them.
        subject: Whose rows they are.
    """
    viewer = Viewer(
        tagged=subject.task == "token-classification",
        hidden=subject.task == "fill-mask",
        label_names=prepared.label_names,
    )
    rows = prepared.train
    found = measure(map(viewer.look, rows), map(viewer.look, prepared.evaluation), subject.tokens)
    treatment = _known(prepared)
    evidence = Evidence(found, treatment, len(rows), len(prepared.evaluation))
    findings = judge(evidence, subject.data.limits)
    shown = samples.choose(rows, subject.data.published_samples)
    page = samples.markdown([viewer.look(rows[index]) for index in shown], subject.decode)
    return Contract(_content(prepared, treatment, found, findings), page if shown else "")


def _known(prepared: Prepared[Any]) -> Treatment:
    if prepared.treatment.lengths:
        return prepared.treatment
    return Treatment((*lengths(prepared.train), *lengths(prepared.evaluation)))


def _content(
    prepared: Prepared[Any], treatment: Treatment, found: Measures, findings: list[Finding]
) -> DataContract:
    starts = found.starts
    answered, unstopped = len(found.answered), len(found.unstopped)
    return DataContract(
        max_length=prepared.max_length,
        plan=_plan(prepared.plan, treatment, found),
        tokens=sum(lengths(prepared.train)),
        tokens_lost=sum(cut.tokens for cut in treatment.cut),
        supervised_tokens_lost=sum(cut.supervised for cut in treatment.cut),
        lengths=[LengthBucket(up_to=b.up_to, rows=b.rows) for b in histogram(treatment.lengths)],
        start_tokens={
            "0": starts[0],
            "1": starts[1],
            "2+": sum(starts.values()) - starts[0] - starts[1],
        },
        stop_token_share=round(1 - unstopped / answered, 4) if answered else None,
        classes=dict(found.classes.most_common()) or None,
        findings=findings,
    )


def _plan(plan: Plan, treatment: Treatment, found: Measures) -> Plan:
    most = found.classes.most_common(_CLASSES_IN_STATUS)
    return plan.model_copy(
        update={
            "duplicate_rows": len(found.duplicates),
            "leaked_rows": len(found.leaked),
            "rows_without_stop_token": len(found.unstopped) if found.answered else None,
            "longest_row": max(treatment.lengths, default=None),
            "class_counts": {name[:_NAME_IN_STATUS]: count for name, count in most} or None,
        }
    )
