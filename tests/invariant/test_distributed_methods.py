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
from support.tiny_models import pairs, tiny_llama, write_jsonl
from support.two_processes import Bench

ROWS, STEPS = 22, 6
PAIRS, JUDGED = ({"data.train": name} for name in ("preferences", "judgements"))
KEPT_REFERENCE = {"reference": {"precompute": False}}
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
}
ALIKE = 1e-5


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("methods")
    tiny_llama(root / "model", hidden=32, layers=1)
    write_jsonl(root / "rows.jsonl", pairs(ROWS))
    write_jsonl(root / "preferences.jsonl", preferences(ROWS))
    write_jsonl(root / "judgements.jsonl", judgements(ROWS))
    common = {
        "model.source": f"file://{root}/model",
        "training.maxSteps": STEPS,
        "training.batchSize": 8,
        "training.microBatchSize": 4,
        "training.learningRate": 1e-3,
        "training.logEverySteps": 1,
        "training.scheduler": {"type": "Constant", "warmupSteps": 0},
        "distributed.strategy": "DDP",
    }
    return Bench(root, common)


def changes(bench: Bench, name: str) -> dict[str, Any]:
    rows = RUNS[name].get("data.train", "rows")
    return RUNS[name] | {"data.train": [{"source": f"file://{bench.root}/{rows}.jsonl"}]}


@pytest.fixture(scope="module")
def together(bench: Bench) -> dict[str, tuple[Report, Report]]:
    return bench.together({name: changes(bench, name) for name in RUNS})


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.usefixtures("together")
def test_two_processes_learn_what_one_learns(bench: Bench, name: str) -> None:
    expected = bench.alone(f"{name}-alone", changes(bench, name))
    output = bench.output(name)
    told, wanted = output.log(), expected.log()
    assert len(told) == len(wanted) == STEPS
    assert told[-1]["loss"] != told[0]["loss"]
    for entry, other in zip(told, wanted, strict=True):
        assert entry == pytest.approx(other, abs=ALIKE, rel=ALIKE), f"step {entry['step']}"
    mine, theirs = output.weights(), expected.weights()
    assert mine.keys() == theirs.keys()
    for tensor, value in mine.items():
        torch.testing.assert_close(value, theirs[tensor], atol=10 * ALIKE, rtol=0, msg=tensor)
