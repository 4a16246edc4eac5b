"""What is started for a spec, and which report speaks for the pod."""

import json
from pathlib import Path

import pytest

from finetune_api.records import Report
from finetune_api.run_file import RENDEZVOUS, JobIdentity, RunFile
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import launch
from finetune_trainer.errors import TrainerError
from finetune_trainer.launch import Gang
from finetune_trainer.run_input import RunInput
from support.jobs import spec

GOLDEN = Path(__file__).parent / "golden"
POD = {RENDEZVOUS: "demo-1-0.demo:29400", "JOB_COMPLETION_INDEX": "1"}


def given(nodes: int = 1, gpus: int = 0, *, laptop: bool = False) -> RunInput:
    changes = {"resources": {"nodes": nodes, "gpusPerNode": gpus}}
    identity = JobIdentity(namespace="team", name="demo", uid="11111111-2222")
    wanted = FineTuneJobSpec.model_validate(spec(changes))
    run = RunFile(job=identity, spec=wanted, grace_seconds=90)
    return RunInput(run, laptop, Path("/etc/finetune/run/run.json"))


@pytest.mark.parametrize(
    ("nodes", "gpus", "variables", "expected"),
    [
        (1, 0, {}, None),
        (1, 1, {}, None),
        (1, 8, {}, Gang(1, 0, 8)),
        (2, 0, POD, Gang(2, 1, 1, "demo-1-0.demo:29400")),
        (4, 8, POD, Gang(4, 1, 8, "demo-1-0.demo:29400")),
        # Started by torchrun already.
        (1, 2, {"RANK": "1", "WORLD_SIZE": "2"}, None),
    ],
)
def test_one_process_a_gpu(
    nodes: int, gpus: int, variables: dict[str, str], expected: Gang | None
) -> None:
    assert launch.gang(given(nodes, gpus), variables) == expected


def test_several_nodes_need_a_meeting_place() -> None:
    with pytest.raises(TrainerError, match="this is one machine") as caught:
        launch.gang(given(2, laptop=True), {})
    assert caught.value.reason is Reason.INVALID_SPEC


def test_torchrun_must_start_what_the_job_asks_for() -> None:
    started = {"RANK": "0", "WORLD_SIZE": "4"}
    with pytest.raises(TrainerError, match="4 processes, and the job asks for 2") as caught:
        launch.gang(given(1, 2), started)
    assert caught.value.reason is Reason.DISTRIBUTED_MISMATCH
    # On the CPU of a laptop nobody else says how many there are.
    assert launch.gang(given(laptop=True), started) is None


@pytest.mark.parametrize(
    ("name", "gang"),
    [("one-node", Gang(1, 0, 8)), ("two-nodes", Gang(2, 1, 8, "demo-1-0.demo:29400"))],
)
def test_what_torchrun_is_told(name: str, gang: Gang) -> None:
    found = {"settings": launch.settings(gang, given()), "command": launch.command(given())}
    assert found == json.loads((GOLDEN / f"launch-{name}.json").read_text())


def failed(reason: Reason, message: str = "why") -> str:
    return Report(outcome="Failed", reason=reason, message=message).to_message()


@pytest.mark.parametrize(
    ("reports", "codes", "reason", "message"),
    [
        # The first one that failed of its own accord, not the first that ended.
        (
            {0: failed(Reason.PEER_FAILED), 1: failed(Reason.DIVERGED)},
            [(0, 75), (1, 78)],
            Reason.DIVERGED,
            "why",
        ),
        ({0: failed(Reason.PREEMPTED)}, [(1, -9), (0, 143)], Reason.POD_LOST, "SIGKILL"),
        ({0: failed(Reason.PEER_FAILED)}, [(0, 75)], Reason.PEER_FAILED, "why"),
        ({}, [(1, 3)], Reason.INTERNAL_ERROR, "process 1 of 2 ended with 3"),
    ],
)
def test_the_culprit_speaks_for_the_pod(
    tmp_path: Path,
    reports: dict[int, str],
    codes: list[tuple[int, int]],
    reason: Reason,
    message: str,
) -> None:
    for rank, text in reports.items():
        (tmp_path / f"{rank}.json").write_text(text)
    found = launch.culprit(tmp_path, Gang(1, 0, 2), codes)
    assert (found.outcome, found.reason) == ("Failed", reason)
    assert message in found.message
