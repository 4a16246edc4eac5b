"""The commands ask the output of every method and task: figures are repeated, prompts are answered."""

import io
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from finetune_api.v1alpha1.compatibility import Cell
from finetune_api.v1alpha1.compatibility_rows import SUPERVISED
from finetune_api.v1alpha1.method import MethodType
from finetune_trainer import __main__ as program
from finetune_trainer.answers import Sampling
from finetune_trainer.commands import evaluate, generate
from finetune_trainer.commands.output import Stores
from finetune_trainer.commands.prompts import Asked
from invariant.matrix.jobs import Shelf, manifest_of

FAMILY = {"text2text-generation": "t5", "text-generation": "llama"}
CELLS = {
    **{m: Cell(m, "text-generation", "LoRA", "llama") for m in get_args(MethodType)},
    **{t: Cell("SFT", t, "LoRA", FAMILY.get(t, "bert")) for t in SUPERVISED},
    "full": Cell("SFT", "text-generation", "Full", "gpt2"),
    "prompt": Cell("DPO", "text-generation", "PromptTuning", "llama"),
    "quantised": Cell("SFT", "text-generation", "QLoRA", "llama", quantization="NF4"),
}
# What an answer to one prompt holds, by kind of output; the others write texts.
HOLDS = {
    "Reward": "score",
    "text-classification": "label",
    "token-classification": "label",
    "fill-mask": "token",
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("outputs"))


def train(shelf: Shelf, name: str) -> Path:
    job = manifest_of(CELLS[name], shelf, name.lower())
    job["spec"]["data"]["evaluation"] = {"fraction": 0.34}
    YAML().dump(job, shelf.folder / f"{name}.yaml")
    environment = {"FINETUNE_SCRATCH": str(shelf.folder / "scratch")}
    report = program.run_file(shelf.folder / f"{name}.yaml", environment, io.StringIO())
    assert report.outcome == "Complete", report.message
    published = [path.name for path in shelf.folder.glob(f"out/{name.lower()}/attempts/*/*")]
    assert not {"default", "ref", "reference"} & set(published), "one adapter, and no copy of it"
    return shelf.folder / "out" / name.lower()


def ask(output: Path, work: Any) -> str:
    stream = io.StringIO()
    code = program.run_command(str(output), Stores(), work, {}, stream)
    assert code == 0, stream.getvalue()
    return stream.getvalue()


@pytest.mark.parametrize("name", CELLS)
def test_an_output_repeats_its_figures_and_answers(shelf: Shelf, name: str) -> None:
    output = train(shelf, name)
    said = ask(output, lambda place, found, stream: evaluate.run(found, place, stream))
    assert "same" in said
    assert "DIFFERS" not in said
    text = "thing is [MASK]" if name == "fill-mask" else "Thing 1 is red."
    wanted = generate.Wanted(
        [Asked(text, "here")], Sampling(max_new_tokens=4), raw=False, system=None, json_lines=True
    )
    said = ask(output, lambda place, found, stream: generate.run(found, wanted, place, stream))
    [answer] = [json.loads(line) for line in said.splitlines()]
    assert HOLDS.get(name, "answer") in json.dumps(answer)
