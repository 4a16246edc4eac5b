"""The output folder on this machine: everything that will be published, but for the manifest.

Called by the recipe after training. Full weights are stored in the dtype of the base model; they are
rounded to it first, so that what is evaluated and verified is what is published.
"""

import json
from pathlib import Path

import torch
from ruamel.yaml import YAML

from finetune_trainer import processes, stopping, zero
from finetune_trainer.foreign import Model, Tokenizer
from finetune_trainer.model_card import Facts, model_card
from finetune_trainer.sharded import whole_state
from finetune_trainer.sources import ModelSource
from finetune_trainer.tuning import starts

# The job for people, to be applied again; and for `evaluate` the whole run file.
JOB, RUN_FILE = "job.yaml", "run.json"


def round_weights(model: Model, dtype: torch.dtype) -> None:
    """Round every weight to what `dtype` can hold; the weights keep their own dtype."""
    for parameter in model.parameters():
        with torch.no_grad(), zero.changing(parameter):
            parameter.copy_(parameter.to(dtype))


def save_model(
    model: Model,
    tokenizer: Tokenizer,
    base: ModelSource,
    folder: Path,
    *,
    full: bool,
    dtype: torch.dtype,
) -> None:
    """Write weights, configuration and tokenizer.

    Args:
        model: The trained model: PEFT's, or the whole.
        tokenizer: With the chat template that was trained on.
        base: The model that was tuned.
        folder: Where to write.
        full: Whether all weights were tuned.
        dtype: Of the stored weights, for full tuning.
    """
    state = whole_state(model)
    if not processes.is_main():
        return
    if state is not None and full:
        stored = {id(each): each.to(dtype) for each in state.values()}
        state = {name: stored[id(each)] for name, each in state.items()}
        model.config.dtype = dtype
        model.save_pretrained(folder, state_dict=state)
    elif full:
        model.to(dtype).save_pretrained(folder)
    else:
        save_adapter(model, folder, state)
    if model.can_generate():
        start = getattr(model.config, "decoder_start_token_id", None)
        stopping.write(folder, stopping.generation_config(base, tokenizer, start))
    tokenizer.save_pretrained(folder)


def save_adapter(model: Model, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    """Write the adapter, the same for equal runs.

    Args:
        model: PEFT's.
        folder: Where to write.
        state: Its tensors by name, if the model itself holds but parts of them.
    """
    # The base keeps its embeddings, and PEFT would look on the hub whether to store them.
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=state)
    starts.convert(folder, model)
    _sort_names(folder / "adapter_config.json")


def save_records(folder: Path, facts: Facts) -> None:
    """Write what is known about the run: its manifest, choices, evaluation, model card."""
    with (folder / JOB).open("w", encoding="utf-8") as file:
        YAML().dump(facts.run.manifest(), file)
    _write_json(folder / RUN_FILE, facts.run.to_dict())
    choices = [choice.to_dict() for choice in facts.resolved]
    _write_json(folder / "resolved.json", {"resolved": choices, "plan": facts.plan.to_dict()})
    if facts.evaluation:
        _write_json(folder / "evaluation.json", facts.evaluation.to_dict())
    (folder / "README.md").write_text(model_card(facts), "utf-8")


def _sort_names(path: Path) -> None:
    # PEFT keeps them in sets: equal runs would publish different files.
    config = json.loads(path.read_text("utf-8"))
    for name, value in config.items():
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            config[name] = sorted(set(value))
    _write_json(path, config)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
