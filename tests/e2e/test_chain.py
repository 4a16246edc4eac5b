"""Two jobs of which the second goes on from the first one's output, with the real trainer."""

import pytest

from support.stack import BUCKET
from support.tenant import Object, Tenant, conditions, until

# Two real trainings one after the other, on whatever machine this is.
pytestmark = pytest.mark.timeout(900)
FULL: Object = {"tuning": {"type": "Full"}}


@pytest.fixture(scope="module")
def chained(tenant: Tenant) -> Object:
    """Both applied at once, the second one first."""
    tenant.apply("go-on", FULL | {"model.source": "job://begin"})

    def waits() -> bool | None:
        found = [c for c in tenant.status("go-on").get("conditions", ()) if c["type"] == "Accepted"]
        return found[0]["reason"] == "WaitingForJob" or None if found else None

    until(waits)
    assert tenant.children("jobs", "go-on") == []
    tenant.apply("begin", FULL)
    return tenant.wait("go-on", "Complete", 700)


def test_the_second_job_waits_for_the_first(tenant: Tenant, chained: Object) -> None:
    first = tenant.status("begin")
    assert conditions(first)["Complete"] == "True"
    assert chained["startTime"] >= first["completionTime"]
    assert conditions(chained)["Accepted"] == "True"


def test_the_second_job_begins_where_the_first_one_ended(tenant: Tenant, chained: Object) -> None:
    """On the same held-out rows, so that its base is known by its loss."""
    first = tenant.status("begin")["evaluation"]
    before = float(chained["evaluation"]["lossBefore"])
    assert before == pytest.approx(float(first["lossAfter"]), rel=5e-3)
    assert before < 0.8 * float(first["lossBefore"])


def test_an_output_that_is_read_stays_as_it_was(tenant: Tenant, chained: Object) -> None:
    assert chained["output"]["uri"].startswith(f"s3://{BUCKET}/outputs/go-on/")
    assert tenant.status("begin")["output"]["uri"].startswith(f"s3://{BUCKET}/outputs/begin/")
