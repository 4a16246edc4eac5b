"""What is made for a GPU, rehearsed on a CPU: it runs whole, and counts the least work right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.kernel_cases import SMALL

ROOT = Path(__file__).parents[2]


def rehearse(module: str, *options: str) -> str:
    """What it prints."""
    command = [sys.executable, "-P", "-m", module, "--rehearse", *options]
    path = os.pathsep.join(str(ROOT / each) for each in ("kernels", "tests", "benchmarks"))
    # A rehearsal turns the interpreter on for itself.
    environment = os.environ | {"PYTHONPATH": path, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_rehearsal_runs_every_contestant(tmp_path) -> None:
    output = tmp_path / "figures.json"
    rehearse("gpu_ops", "--only", "glu", "--output", str(output))
    kept = json.loads(output.read_text())
    names = {(row["operation"], row["part"], row["contestant"]) for row in kept["rows"]}
    parts, who = ("forward", "both"), ("eager", "ours", "compiled")
    assert names == {(op, part, c) for op in ("swiglu", "geglu") for part in parts for c in who}
    for row in kept["rows"]:
        assert len(row["microseconds"]) == 3
        assert row["difference"] < 0.01
        assert row["share"] is None
    assert "rehearsal" in kept["hardware"]["device"]


def test_a_rehearsal_of_whole_steps_has_equal_losses() -> None:
    rows = [
        json.loads(line) for line in rehearse("gpu_training", "--methods", "QLoRA").splitlines()
    ]
    assert [row["contestant"] for row in rows] == ["sdpa", "eager", "ours"]
    # Two steps move the loss by 2e-3 of it; two ways to the same loss differ by less.
    for row in rows:
        pairs = zip(row["losses"], rows[0]["losses"], strict=True)
        assert all(abs(a - b) < 5e-4 * a for a, b in pairs)
    assert rows[2]["losses"][2] < rows[2]["losses"][0]
    assert {"LoraQKV", "LoraMLP", "RMSNorm", "RoPE"} <= rows[2]["patched"].keys()


def test_a_contestant_that_is_not_installed_has_a_row_that_says_so(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_training.__main__ import _in_a_process
    from gpu_training.libraries import NEEDS

    monkeypatch.setitem(NEEDS, "unsloth", "no_such_library")
    outcome = _in_a_process({"contestant": "unsloth"})
    assert outcome["failed"] == "no_such_library is not installed"
    assert not outcome["seconds"]


def test_the_folder_for_unsloth_has_the_model_and_its_words(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_training.contestants import write_folder
    from gpu_training.models import SHAPES
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_folder("rehearsal", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.bfloat16
    words = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(words) == model.config.vocab_size == SHAPES["rehearsal"]["vocab_size"]


def test_the_least_work_of_every_operation(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_ops.contestants import NAMES
    from gpu_ops.work import work

    assert all(work(name, SMALL).forward > 0 for name in NAMES)
    # x read and y written; then x and dy read and dx written: 24 rows of 64 columns of 2 bytes.
    assert work("rms_norm", SMALL).forward == 2 * 24 * 64 * 2
    assert work("rms_norm", SMALL).both == 5 * 24 * 64 * 2
    # 16 of 24 rows count; three products of 64 x 150 each.
    assert work("linear_cross_entropy", SMALL).both == 3 * 2 * 16 * 64 * 150
    # Two documents of 12, half of each square: two products forward, five backward, heads of 16.
    assert work("attention", SMALL).both == 4 * 16 * 2 * (12 * 12 / 2) * 2 * (2 + 5)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
    ],
)
def test_chips_by_name(device, name, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_ops.chips import chip_of

    chip = chip_of(device)
    assert chip is not None
    assert chip.name == name
    assert chip_of("NVIDIA Unheard-of") is None
