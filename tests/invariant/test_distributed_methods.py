"""Every method and tuning on two processes: each step's figures and the weights are those of one process.

The rows are 22 in batches of 8, so that each pass ends with a step that the processes share unequally:
of its six rows one takes four and the other two, or one takes a pass more. Every figure of the log is
compared, because a mean over a step's rows is easily one over rank 0's.
"""

from typing import Any

import pytest
import torch

from finetune_api.records import Report
from support.preference_data import judgements, preferences
from support.taste import taste_model
from support.tiny_models import pairs, tiny_llama, tiny_tokenizer, write_jsonl
from support.two_processes import STEPS_OF_EIGHT, Bench

# Both processes take all runs at once, before the first test.
pytestmark = pytest.mark.timeout(900)
ROWS, STEPS = 22, 6
PAIRS, JUDGED = ({"data.train": name} for name in ("preferences", "judgements"))
KEPT_REFERENCE = {"reference": {"precompute": False}}
ANSWERS = {"generation": {"maxNewTokens": 6}}
GROUPS = {
    **ANSWERS,
    "rewards": [{"type": "Regex", "pattern": "e"}],
    "answersPerPrompt": 4,
    "beta": 0.05,
}
PROMPTS = {"data.train": "prompts", "training.maxSteps": 4}
# Name of a run -> what it changes. The split must not matter: two passes of two rows, or one of four.
RUNS: dict[str, dict[str, Any]] = {
    "reward": {**PAIRS, "method": {"type": "Reward", "reward": {"centerCoefficient": 0.01}}},
    "orpo": {**PAIRS, "method": {"type": "ORPO"}, "training.microBatchSize": 2},
    "cpo": {**PAIRS, "method": {"type": "CPO"}},
    "simpo": {**PAIRS, "method": {"type": "SimPO"}, "training.microBatchSize": 2},
    "kto": {**JUDGED, "method": {"type": "KTO"}},
    "kto-kept": {
        **JUDGED,
        "method": {"type": "KTO", "kto": KEPT_REFERENCE},
        "training.microBatchSize": 2,
    },
    "dpo-kept": {
        **PAIRS,
        "method": {"type": "DPO", "dpo": KEPT_REFERENCE},
        "training.microBatchSize": 2,
    },
    "adalora": {
        "tuning": {"type": "AdaLoRA", "adalora": {"initialRank": 4, "targetRank": 2}},
        "training.microBatchSize": 2,
    },
    "streamed": {"data.streaming": True, "training.microBatchSize": 2},
    "distillation": {**PROMPTS, "method": {"type": "Distillation", "distillation": ANSWERS}},
    "grpo": {
        **PROMPTS,
        "method": {"type": "GRPO", "grpo": GROUPS},
        "training.microBatchSize": 16,
    },
    "ppo": {
        **PROMPTS,
        "method": {"type": "PPO", "ppo": {**ANSWERS, "minibatches": 2, "epochs": 2}},
        "training.microBatchSize": 1,
    },
    "rloo": {
        **PROMPTS,
        "method": {"type": "RLOO", "rloo": GROUPS},
        "training.microBatchSize": 16,
    },
}
MODELS = {
    "distillation": {"method.distillation.teacher": "teacher"},
    "ppo": {"method.ppo.rewardModel": "taste"},
    "grpo": {"method.grpo.rewardModel": "taste"},
}
# TRL logs means over passes, and the two have one each: then so must the one.
ALONE = {"distillation": 8, "grpo": 32, "rloo": 32}
ALIKE = 1e-5


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("methods")
    tiny_llama(root / "model", hidden=32, layers=1)
    tiny_llama(root / "teacher", hidden=32, layers=1, seed=3)
    taste_model(root / "taste", tiny_tokenizer())
    write_jsonl(root / "rows.jsonl", pairs(ROWS))
    write_jsonl(root / "preferences.jsonl", preferences(ROWS))
    write_jsonl(root / "judgements.jsonl", judgements(ROWS))
    write_jsonl(root / "prompts.jsonl", [{"prompt": f"Say {number}:"} for number in range(ROWS)])
    common = {
        "model.source": f"file://{root}/model",
        "training.maxSteps": STEPS,
        **STEPS_OF_EIGHT,
        "distributed.strategy": "DDP",
    }
    return Bench(root, common)


def changes(bench: Bench, name: str) -> dict[str, Any]:
    rows = RUNS[name].get("data.train", "rows")
    found = RUNS[name] | {"data.train": [{"source": f"file://{bench.root}/{rows}.jsonl"}]}
    for path, model in MODELS.get(name, {}).items():
        found[path] = f"file://{bench.root}/{model}"
    return found


@pytest.fixture(scope="module")
def together(bench: Bench) -> dict[str, tuple[Report, Report]]:
    return bench.together({name: changes(bench, name) for name in RUNS})


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.usefixtures("together")
def test_two_processes_learn_what_one_learns(bench: Bench, name: str) -> None:
    micro = {"training.microBatchSize": ALONE[name]} if name in ALONE else {}
    expected = bench.alone(f"{name}-alone", changes(bench, name) | micro)
    output = bench.output(name)
    told, wanted = output.log(), expected.log()
    assert len(told) == len(wanted) == RUNS[name].get("training.maxSteps", STEPS)
    assert told[-1]["loss"] != told[0]["loss"]
    for entry, other in zip(told, wanted, strict=True):
        assert entry == pytest.approx(other, abs=ALIKE, rel=ALIKE), f"step {entry['step']}"
    mine, theirs = output.weights(), expected.weights()
    assert mine.keys() == theirs.keys()
    for tensor, value in mine.items():
        torch.testing.assert_close(value, theirs[tensor], atol=10 * ALIKE, rtol=0, msg=tensor)
