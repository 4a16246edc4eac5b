"""Twenty ways in which data is bad, from apply to status: each its own reason, with file and line."""

import pytest

from support.bad_data import BAD_DATA, BadData
from support.jobs import ABSENT
from support.stack import BUCKET
from support.tenant import Object, Tenant

# Twenty real programs start side by side, on whatever machine this is.
pytestmark = pytest.mark.timeout(900)
SHOWN = (
    "empty-file", "utf-16", "latin-1", "zero-bytes", "broken-line-17", "half-a-character", "csv-ragged",
    "damaged-parquet", "no-arrow", "cut-gzip", "gzip-bomb", "loader-script", "missing-column",
    "mapped-column-missing", "wrong-role", "tokens-without-tags", "verdict-not-a-verdict",
    "all-rows-too-long", "labels-all-masked", "identical-pairs", "one-class",
)  # fmt: skip


def source_of(tenant: Tenant, name: str, case: BadData) -> str:
    """Uploads the files; returns what `data.train` names: the file, or the folder of several."""
    client = tenant.stack.s3.client()
    for file, content in case.files.items():
        client.put_object(Bucket=BUCKET, Key=f"bad/{name}/{file}", Body=content)
    folder = f"s3://{BUCKET}/bad/{name}"
    return f"{folder}/{next(iter(case.files))}" if len(case.files) == 1 else folder


@pytest.fixture(scope="module")
def failed(tenant: Tenant) -> Tenant:
    """All jobs applied at once."""
    for name in SHOWN:
        case = BAD_DATA[name]
        changes: Object = {
            "data.train": [{"source": source_of(tenant, name, case)}],
            "data.evaluation": ABSENT,
            **case.changes,
        }
        tenant.apply(name, changes)
    return tenant


@pytest.mark.parametrize("name", SHOWN)
def test_bad_data_has_its_reason_and_place(failed: Tenant, name: str) -> None:
    case, failure = BAD_DATA[name], failed.wait(name, "Failed", 600)["failure"]
    assert failure["reason"] == case.reason, failure
    assert all(word in failure["message"] for word in case.words), failure
    assert failure["hint"]
    assert "Traceback" not in failure["message"]
