"""Methods and tasks learned by two processes that each hold a part: step by step what one process learns.

One torchrun runs all jobs, and this process runs each alone. Of 22 rows 4 are held out, so that a pass ends
with a step of which one process has no rows. Adapters and whole models; of preferences with the reference
asked once, by a switched-off adapter, as a frozen copy and as another model.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_api.records import Report
from support.label_data import classes
from support.preference_data import judgements, preferences
from support.tiny_models import pairs, tiny_llama, tiny_model, write_jsonl
from support.two_processes import STEPS_OF_EIGHT, Bench, Output

pytestmark = pytest.mark.timeout(600)
ROWS, STEPS = 22, 4
FULL = {"tuning": {"type": "Full"}}
KEPT = {"reference": {"precompute": False}}
PAIRS, JUDGED = ({"data.train": name} for name in ("preferences", "judgements"))
OTHER = "method.dpo.reference.source"
GROUPS = {
    "generation": {"maxNewTokens": 6},
    "rewards": [{"type": "Regex", "pattern": "e"}],
    "answersPerPrompt": 4,
    "beta": 0.05,
}
# Name of a run, which ends with its strategy -> what it changes.
RUNS: dict[str, dict[str, Any]] = {
    "dpo-zero2": {**PAIRS, "method": {"type": "DPO", "dpo": KEPT}, OTHER: "other"},
    "dpo-zero3": {
        **PAIRS,
        "method": {"type": "DPO"},
        "training.microBatchSize": 2,
        "training.gradientCheckpointing": "Enabled",
    },
    "dpo-full-zero3": {**PAIRS, **FULL, "method": {"type": "DPO", "dpo": KEPT}},
    "ipo-fsdp": {**PAIRS, "method": {"type": "IPO", "ipo": KEPT}, "training.microBatchSize": 2},
    "orpo-full-fsdp": {
        **PAIRS,
        **FULL,
        "method": {"type": "ORPO"},
        "training.precision": "BFloat16",
    },
    "simpo-ia3-zero1": {**PAIRS, "tuning": {"type": "IA3"}, "method": {"type": "SimPO"}},
    "kto-zero3": {**JUDGED, "method": {"type": "KTO", "kto": KEPT}},
    "reward-fsdp": {**PAIRS, "method": {"type": "Reward"}},
    "classes-fsdp": {
        "data.train": "classes",
        "model": {"source": "encoder", "task": "text-classification"},
    },
    "text2text-full-zero3": {
        "data.train": "pairs",
        **FULL,
        "model": {"source": "seq2seq", "task": "text2text-generation"},
    },
    "grpo-zero2": {
        "data.train": "prompts",
        "method": {"type": "GRPO", "grpo": GROUPS},
        "training.microBatchSize": 16,
        "training.maxSteps": 3,
    },
}
# These have none of the fast paths of language models, or tell them by other names.
OTHERS = ("reward-fsdp", "classes-fsdp", "text2text-full-zero3", "grpo-zero2")
# GRPO logs means over passes, and the two have one each: then so must the one.
ALONE = {"grpo-zero2": {"training.microBatchSize": 32}}
STRATEGIES = {each.lower(): each for each in ("FSDP", "ZeRO1", "ZeRO2", "ZeRO3")}
# DPO's first gradients are alike in many places: Adam turns their rounding into signs.
ALIKE, WEIGHTS = 1e-5, 1e-4


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("sharded")
    tiny_llama(root / "model", hidden=32, layers=1)
    tiny_llama(root / "other", hidden=32, layers=1, seed=3)
    without_dropout(tiny_model(root / "encoder", "bert"), "hidden_dropout_prob")
    without_dropout(root / "encoder", "attention_probs_dropout_prob")
    without_dropout(tiny_model(root / "seq2seq", "t5"), "dropout_rate")
    write_jsonl(root / "preferences.jsonl", preferences(ROWS))
    write_jsonl(root / "classes.jsonl", classes(ROWS))
    write_jsonl(root / "pairs.jsonl", pairs(ROWS))
    write_jsonl(root / "prompts.jsonl", [{"prompt": f"Say {number}:"} for number in range(ROWS)])
    write_jsonl(root / "judgements.jsonl", judgements(ROWS))
    common = {
        "model.source": f"file://{root}/model",
        "data.evaluation": {"fraction": 0.2},
        "data.limits": {"maxLeaked": 1, "maxDuplicates": 1},
        "training.maxSteps": STEPS,
        **STEPS_OF_EIGHT,
    }
    return Bench(root, common)


def without_dropout(folder: Path, name: str) -> None:
    """Each process would draw it by itself."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: 0.0}))


def changes(bench: Bench, name: str) -> dict[str, Any]:
    rows = RUNS[name]["data.train"]
    found = RUNS[name] | {"data.train": [{"source": f"file://{bench.root}/{rows}.jsonl"}]}
    if model := found.get("model"):
        found["model"] = {**model, "source": f"file://{bench.root}/{model['source']}"}
    if OTHER in found:
        found[OTHER] = f"file://{bench.root}/{found[OTHER]}"
    return found


@pytest.fixture(scope="module")
def together(bench: Bench) -> dict[str, tuple[Report, Report]]:
    strategy = {name: STRATEGIES[name.rpartition("-")[2]] for name in RUNS}
    return bench.together(
        {name: changes(bench, name) | {"distributed.strategy": strategy[name]} for name in RUNS}
    )


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_with_parts_learn_what_one_learns(
    bench: Bench, together: dict[str, tuple[Report, Report]], name: str
) -> None:
    expected = bench.alone(f"{name}-alone", changes(bench, name) | ALONE.get(name, {}))
    output = bench.output(name)
    told, wanted = output.log(), expected.log()
    assert len(told) == len(wanted) == RUNS[name].get("training.maxSteps", STEPS)
    for entry, other in zip(told, wanted, strict=True):
        assert entry == pytest.approx(other, abs=ALIKE, rel=ALIKE), f"step {entry['step']}"
    assert evaluation(output) == evaluation(expected)
    mine, theirs = output.weights(), expected.weights()
    assert mine.keys() == theirs.keys()
    for tensor, value in mine.items():
        torch.testing.assert_close(value, theirs[tensor], atol=WEIGHTS, rtol=0, msg=tensor)
    resolved = {each.field: each.value for each in together[name][0].resolved or ()}
    strategy = STRATEGIES[name.rpartition("-")[2]]
    assert resolved["distributed"] == f"{strategy} on 2 processes over gloo"
    if name in OTHERS:
        return
    # No strategy costs the fast paths.
    fast = {"training.kernels.loss": "fused", "training.kernels.padding": "none"}
    assert {field: resolved[field] for field in fast} == fast


def evaluation(output: Output) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output.folder / "evaluation.json").read_text())
    return found


@pytest.mark.usefixtures("together")
def test_what_was_published_opens_without_us(bench: Bench) -> None:
    """Adapter and whole model, of ZeRO-3, by the libraries alone."""
    from peft import PeftModel

    whole = AutoModelForCausalLM.from_pretrained(bench.output("dpo-full-zero3").folder)
    assert all(each.numel() for each in whole.parameters())
    base = AutoModelForCausalLM.from_pretrained(bench.root / "model")
    adapted = PeftModel.from_pretrained(base, bench.output("dpo-zero3").folder)
    assert any(bool(each.any()) for name, each in adapted.named_parameters() if "lora_B" in name)
