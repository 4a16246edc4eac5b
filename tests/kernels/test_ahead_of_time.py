"""Kernels compile for every chip, without spills, within its limits, as the committed table says.

Here the first row of each kernel is compiled; of the others the table must be made of what they are now.
"""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from finetune_kernels.ahead_of_time import table
from finetune_kernels.ahead_of_time.chips import CHIPS
from finetune_kernels.ahead_of_time.compilation import Resources
from finetune_kernels.ahead_of_time.launches import Entry, Launch
from support.definition import ROOT


# Minutes where nothing is cached.
@pytest.mark.timeout(900)
def test_kernels_compile_as_the_committed_table_says() -> None:
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
    rows = json.loads(json.dumps(committed["kernels"][:2]))
    assert table.drift(committed, rows) == []
    rows[0]["chips"]["sm_90"][0] += 1
    assert len(table.drift(committed, rows)) == 1
    rows[1]["chips"]["sm_80"][1] = 8
    assert [x.rpartition(": ")[2] for x in table.excesses(rows)] == ["8 bytes spilled, 0 allowed"]


def test_rows_have_keys_of_their_own() -> None:
    # One kernel rotates forward and backward: two rows of one key would hide a drift of the first.
    committed = json.loads((ROOT / "docs/reference/kernel_resources.json").read_text())
    keys = [(row["kernel"], row["shape"]) for row in committed["kernels"]]
    assert len(set(keys)) == len(keys)
    assert len([kernel for kernel, _ in keys if kernel == "rope.kernel"]) == 6


def entry(warps: int = 4, label: str = "H=8") -> Entry:
    # No interpreter in this process would let it compile; nothing here does.
    kernel = SimpleNamespace(fn=lambda: None, src="")
    return Entry((Launch(label, kernel, {}, {}, (), {"num_warps": warps}),) * len(CHIPS))


def test_a_row_that_was_made_of_something_else_is_named() -> None:
    one, other = entry(), entry(label="H=16")
    rows = [{"kernel": e.key[0], "shape": e.key[1], "digest": e.digest} for e in (one, other)]
    assert table.stale({"kernels": rows}, [one, other]) == []
    assert len(table.stale({"kernels": rows}, [entry(warps=8), other])) == 1
    assert len(table.stale({"kernels": rows}, [one])) == 1
    assert len(table.stale({"kernels": rows[:1]}, [one, other])) == 1
