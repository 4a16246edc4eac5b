"""A part of `make chaos`: one job, one kill of each of three parts, the same adapter to the bit."""

import random
from pathlib import Path

import pytest

from chaos.course import disturbed, undisturbed
from chaos.faults import Target
from support.stack import FAST
from support.tenant import Tenant

FAULTS = ("trainer", "S3", "node")


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("restart_operator")
def test_a_job_that_is_disturbed_all_the_time_publishes_the_same_adapter(
    tenant: Tenant, tmp_path: Path
) -> None:
    reference = undisturbed(tenant, "calm", tmp_path / "calm")
    target = Target(tenant, "disturbed", random.Random(1), FAST)  # noqa: S311 - moments, not secrets
    result = disturbed(target, FAULTS, reference, tmp_path / "disturbed")
    assert [kill.fault for kill in result.kills] == list(FAULTS)
    assert result.same
    assert result.differing == ()
    assert len(result.attempts) >= 3
