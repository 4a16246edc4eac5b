"""The README.md of an output: what it is, from what it was made, how to load it, the whole recipe.

Used by `save`. It is short on purpose; the figures lie beside it as JSON.
"""

import json
from dataclasses import dataclass

from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.status import Evaluation, Plan, Resolved
from finetune_trainer.heads import OF_TASK, SEQUENCE_CLASSIFICATION
from finetune_trainer.sources import ModelSource


@dataclass(frozen=True)
class Facts:
    """What is known about a run when its output is put together.

    Attributes:
        run: The run file.
        base: The model that was tuned.
        resolved: What was chosen, and why.
        plan: Counts of rows and parameters.
        evaluation: Held-out figures.
        labels: Names of the classes, if the model has any.
    """

    run: RunFile
    base: ModelSource
    resolved: list[Resolved]
    plan: Plan
    evaluation: Evaluation | None
    labels: list[str] | None

    @property
    def full(self) -> bool:
        """Whether the output is a whole model."""
        return self.run.spec.tuning.type == "Full"

    @property
    def is_reward(self) -> bool:
        """Whether it scores texts."""
        return self.run.spec.method.type == "Reward"


def model_card(facts: Facts) -> str:
    """The model card as Markdown with its YAML head."""
    run, spec = facts.run, facts.run.spec
    parts = [
        _head(facts),
        f"# {run.job.name}\n",
        f"{spec.method.type} with {spec.tuning.type} tuning of `{spec.model.source}`, by the "
        f"FineTuneJob `{run.job.namespace}/{run.job.name}`, attempt {run.attempt}.\n",
        _lineage(facts),
        _data(facts.plan),
        _figures(facts.evaluation),
        f"## Load it\n\n```python\n{_load(facts)}\n```\n",
        _merged(facts),
        "`finetune-trainer generate URI --prompt ...` answers from the output's URI alone.\n",
        f"## Spec\n\n```json\n{json.dumps(spec.to_dict(), indent=2)}\n```\n",
        f"## Chosen by the trainer\n\n| field | value | why |\n|---|---|---|\n{_table(facts)}",
    ]
    return "\n".join(part for part in parts if part)


def _head(facts: Facts) -> str:
    task = "text-classification" if facts.is_reward else facts.run.spec.model.task
    tags = [facts.run.spec.method.type.lower()]
    if not facts.full:
        tags.append(facts.run.spec.tuning.type.lower())
    library = "transformers" if facts.full else "peft"
    listed = "".join(f"- {tag}\n" for tag in tags)
    return f"---\nlibrary_name: {library}\npipeline_tag: {task}\ntags:\n{listed}---\n"


def _lineage(facts: Facts) -> str:
    base = facts.base
    if len(base.chain) > 1:
        return f"It goes on from {' on '.join(f'`{each}`' for each in base.chain)}.\n"
    return f"Base model: `{base.identity}`.\n" if base.identity != base.uri else ""


def _data(plan: Plan) -> str:
    return (
        f"Trained on {plan.rows} rows with {plan.supervised_tokens} supervised tokens; "
        f"{plan.truncated_rows} rows were cut, {plan.skipped_rows} left out.\n"
    )


def _figures(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    lines = [
        f"| {metric.name} | {metric.before} | {metric.after} |\n"
        for metric in evaluation.metrics or ()
    ]
    if evaluation.loss_before is not None:
        before, after = evaluation.loss_before, evaluation.loss_after
        lines.insert(0, f"| loss | {before} | {after} |\n")
    return (
        f"| on held-out rows | before | after |\n|---|---|---|\n{''.join(lines)}" if lines else ""
    )


def _load(facts: Facts) -> str:
    head = SEQUENCE_CLASSIFICATION if facts.is_reward else OF_TASK[facts.run.spec.model.task]
    auto, folder = head.auto_class, '"path/to/this/folder"'
    names = f"from transformers import {auto}, AutoTokenizer\n"
    tokenizer = f"tokenizer = AutoTokenizer.from_pretrained({folder})"
    if facts.full:
        return f"{names}\nmodel = {auto}.from_pretrained({folder})\n{tokenizer}"
    classes = f", num_labels={len(facts.labels)}" if facts.labels else ""
    lines = [f'model = {auto}.from_pretrained("path/to/base"{classes})']
    lines += [
        f'model = PeftModel.from_pretrained(model, "path/to/adapter/{number}").merge_and_unload()'
        for number, _ in enumerate(facts.base.adapters, start=1)
    ]
    lines += [f"model = PeftModel.from_pretrained(model, {folder})", tokenizer]
    if head is SEQUENCE_CLASSIFICATION:
        # A decoder judges by the last token that is no padding; only the base's configuration is there.
        lines.append("model.config.get_text_config().pad_token_id = tokenizer.pad_token_id")
    return f"from peft import PeftModel\n{names}\n" + "\n".join(lines)


def _merged(facts: Facts) -> str:
    if not facts.run.spec.output.merged:
        return ""
    return (
        "The folder `merged` holds the same as one model, with the adapter added into the weights of "
        "its base, in the dtype of the base.\n"
    )


def _table(facts: Facts) -> str:
    rows = [f"| `{r.field}` | {_cell(r.value)} | {_cell(r.why)} |\n" for r in facts.resolved]
    return "".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
