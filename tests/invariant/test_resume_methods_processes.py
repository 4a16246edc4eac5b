"""Methods whose models answer, pairs and streamed rows: two processes that lost one go on to the bit.

As `test_resume_processes`, with the jobs of `test_resume`; there is what one process makes of them.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from finetune_api.records import parse_report
from invariant.test_resume import CASES, Attempt, kill_at, places, to
from invariant.test_resume import models as models
from invariant.test_resume_processes import KILLED, together

TWO = {"resources": {"nodes": 2, "gpusPerNode": 0}}


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("DPO", "ZeRO3"),
        ("DPO", "FSDP"),
        ("PPO", "DDP"),
        ("GRPO", "ZeRO2"),
        ("streamed", "DDP"),
    ],
)
def test_two_processes_go_on_to_the_bit(
    name: str, strategy: str, models: Path, tmp_path: Path
) -> None:
    changes = CASES[name].spec(models) | TWO | {"distributed.strategy": strategy}
    at = CASES[name].kill
    whole_folder, folder = places(tmp_path)
    whole = Attempt(whole_folder, to(whole_folder, changes))
    assert together(whole) == [0, 0], (whole_folder / "termination-log").read_text()
    killed = Attempt(folder, to(folder, changes))
    assert together(killed, kill_at(at, folder)) in KILLED
    again = replace(killed, number=2)
    assert together(again) == [0, 0], (folder / "termination-log").read_text()
    report = parse_report((folder / "termination-log").read_text())
    assert report is not None
    assert report.resumed is not None
    assert report.resumed.step == at - 1
    assert (again.weights(), again.log()) == (whole.weights(), whole.log())
