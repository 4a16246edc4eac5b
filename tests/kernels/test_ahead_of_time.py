"""Every kernel compiles for every chip, without spills, within its limits, as the committed table says."""

import json
import os
import subprocess
import sys

import pytest

from finetune_kernels.ahead_of_time import table
from finetune_kernels.ahead_of_time.chips import CHIPS
from finetune_kernels.ahead_of_time.compilation import Resources
from support.definition import ROOT


# Minutes where nothing is cached.
@pytest.mark.timeout(900)
def test_all_kernels_compile_as_the_committed_table_says() -> None:
    # A process of its own: kernels decorated for the interpreter cannot be compiled.
    command = [sys.executable, "-P", "-m", "finetune_kernels.ahead_of_time", "--check"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "kernels"), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=850, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_does_not_fit_is_said() -> None:
    a100, rtx = CHIPS[0], CHIPS[1]
    big = Resources(registers=200, local_bytes=0, shared_bytes=120 * 1024, warps=8)
    assert big.excess(a100) == []
    assert big.excess(rtx) == ["122880 bytes of shared memory, 101376 allowed"]
    assert len(Resources(256, 8, 0, 16).excess(a100)) == 3


def test_a_drifted_figure_is_named() -> None:
    committed = json.loads((ROOT / "docs/reference/kernel_resources.json").read_text())
    rows = json.loads(json.dumps(committed["kernels"]))
    assert table.drift(committed, rows) == []
    rows[0]["chips"]["sm_90"][0] += 1
    assert len(table.drift(committed, rows)) == 1
    assert len(table.drift(committed, rows[1:])) == 1
    assert table.drift({**committed, "triton": "0"}, rows) == []
