"""The manifest of a cell: a tiny model of its family, a few rows of its task, two steps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.compatibility import Cell
from support.jobs import manifest
from support.preference_data import judgements, preferences
from support.taste import taste_model
from support.tiny_models import COLOURS, pairs, tiny_model, tokenizer_for, write_jsonl

ROWS = 6
# Kinds of adapters whose own sizes are larger than a tiny model, or that have to be told something.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 100},
    "MISS": {"r": 4},
    "PSOFT": {"r": 4},
    "ROAD": {"group_size": 16},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": list(range(60))},
    "VBLORA": {"vector_length": 8},
    "WAVEFT": {"n_frequency": 100},
}
# Long enough for virtual tokens, prompt and answer.
POSITIONS = 128


@dataclass(frozen=True)
class Shelf:
    """Models and data below one folder, made when they are first asked for."""

    folder: Path

    def model(self, family: str) -> str:
        """URI of a tiny model."""
        folder = self.folder / family
        if not folder.exists():
            tiny_model(folder, family, hidden=32, layers=2, positions=POSITIONS)
        return f"file://{folder}"

    def teacher(self, family: str) -> str:
        """URI of another model with the same tokens."""
        folder = self.folder / f"{family}-teacher"
        if not folder.exists():
            tiny_model(folder, family, hidden=32, layers=1, positions=POSITIONS, seed=1)
        return f"file://{folder}"

    def judge(self, family: str) -> str:
        """URI of a reward model with the family's tokenizer."""
        folder = self.folder / f"{family}-judge"
        if not folder.exists():
            taste_model(folder, tokenizer_for(family))
        return f"file://{folder}"

    def data(self, name: str) -> str:
        """URI of a file of rows, by the method or the task."""
        path = self.folder / "data" / f"{name}.jsonl"
        if not path.exists():
            write_jsonl(path, _DATA.get(name, pairs)(ROWS))
        return f"file://{path}"


def manifest_of(cell: Cell, shelf: Shelf, name: str) -> dict[str, Any]:
    """The job that a cell means; its output is `<shelf>/out/<name>`."""
    return manifest(name, {
        "model": {"source": shelf.model(str(cell.family)), "task": cell.task},
        "data.train": [{"source": shelf.data(_rows_of(cell))}],
        "data.limits": {"maxDuplicates": 1},
        "method": {"type": cell.method, **_block(cell, shelf)},
        "tuning": _tuning(cell),
        "training": {"maxSteps": 2, "batchSize": 2, "microBatchSize": 2, "learningRate": 1e-3,
                     "gradientCheckpointing": "Enabled" if cell.checkpointing else "Disabled"},
        "output": {"uri": f"file://{shelf.folder}/out/{name}", "merged": cell.merged},
    })  # fmt: skip


def _tuning(cell: Cell) -> dict[str, Any]:
    tuning: dict[str, Any] = {"type": cell.tuning}
    if cell.variant:
        tuning["lora"] = {"variant": cell.variant, "rank": 4}
    if cell.quantization:
        tuning["quantization"] = {"type": cell.quantization}
    if cell.tuning == "AdaLoRA":
        tuning["adalora"] = {"initialRank": 4, "targetRank": 2}
    if cell.tuning in ("PrefixTuning", "PromptTuning", "PTuning"):
        tuning["virtualTokens"] = {"virtualTokens": 4}
    if cell.other:
        tuning["other"] = {"name": cell.other, "arguments": _ARGUMENTS.get(cell.other, {})}
    return tuning


def _block(cell: Cell, shelf: Shelf) -> dict[str, Any]:
    family, short = str(cell.family), {"maxNewTokens": 6}
    group = {"rewardModel": shelf.judge(family), "answersPerPrompt": 4}
    blocks: dict[str, dict[str, Any]] = {
        "PPO": {"rewardModel": shelf.judge(family), "epochs": 1, "generation": short},
        "GRPO": {**group, "generation": short},
        "RLOO": {**group, "generation": short},
        "Distillation": {"teacher": shelf.teacher(family), "generation": short},
    }
    return {cell.method.lower(): blocks[cell.method]} if cell.method in blocks else {}


def _rows_of(cell: Cell) -> str:
    return cell.method if cell.method != "SFT" else cell.task


def _prompts(count: int) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"]} for row in pairs(count)]


def _classes(count: int) -> list[dict[str, Any]]:
    # Every class appears, in turn.
    rows = [(number, COLOURS[number % 2]) for number in range(count)]
    return [{"text": f"thing {n} is {colour}", "label": colour} for n, colour in rows]


def _tags(count: int) -> list[dict[str, Any]]:
    words = [row["text"].split() for row in _classes(count)]
    return [{"tokens": each, "tags": ["O", "O", "O", "B-COLOUR"]} for each in words]


def _texts(count: int) -> list[dict[str, Any]]:
    return [{"text": row["text"]} for row in _classes(count)]


_DATA = {
    **dict.fromkeys(("Reward", "DPO", "IPO", "ORPO", "CPO", "SimPO"), preferences),
    "KTO": judgements,
    **dict.fromkeys(("PPO", "GRPO", "RLOO", "Distillation"), _prompts),
    "text-classification": _classes,
    "token-classification": _tags,
    "fill-mask": _texts,
}
