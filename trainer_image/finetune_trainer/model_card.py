"""The README.md of an output: what it is, from what it was made, how to load it, the whole recipe.

Used by `save`. It is short on purpose; the figures lie beside it as JSON.
"""

import json

from finetune_api.run_file import RunFile
from finetune_api.v1alpha1.status import Evaluation, Plan, Resolved

_LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("path/to/base")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""

_LOAD_FULL = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""


def model_card(
    run: RunFile, resolved: list[Resolved], plan: Plan, evaluation: Evaluation | None
) -> str:
    """The model card as Markdown with its YAML head."""
    spec = run.spec
    full = spec.tuning.type == "Full"
    parts = [
        _head(full=full),
        f"# {run.job.name}\n",
        f"{spec.method.type} with {spec.tuning.type} tuning of `{spec.model.source}`, by the "
        f"FineTuneJob `{run.job.namespace}/{run.job.name}`, attempt {run.attempt}.\n",
        _data(plan),
        _losses(evaluation),
        f"## Load it\n\n```python\n{_LOAD_FULL if full else _LOAD_ADAPTER}\n```\n",
        f"## Spec\n\n```json\n{json.dumps(spec.to_dict(), indent=2)}\n```\n",
        "## Chosen by the trainer\n\n| field | value | why |\n|---|---|---|\n" + _table(resolved),
    ]
    return "\n".join(part for part in parts if part)


def _head(*, full: bool) -> str:
    library = "transformers" if full else "peft"
    tags = "" if full else "tags:\n- lora\n"
    return f"---\nlibrary_name: {library}\npipeline_tag: text-generation\n{tags}---\n"


def _data(plan: Plan) -> str:
    return (
        f"Trained on {plan.rows} rows with {plan.supervised_tokens} supervised tokens; "
        f"{plan.truncated_rows} rows were cut, {plan.skipped_rows} left out.\n"
    )


def _losses(evaluation: Evaluation | None) -> str:
    if evaluation is None or evaluation.loss_before is None:
        return ""
    before, after = evaluation.loss_before, evaluation.loss_after
    return f"Held-out loss a supervised token: {before} before, {after} after.\n"


def _table(resolved: list[Resolved]) -> str:
    rows = [f"| `{r.field}` | {_cell(r.value)} | {_cell(r.why)} |\n" for r in resolved]
    return "".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
