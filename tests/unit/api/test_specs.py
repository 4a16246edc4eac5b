"""pydantic's verdict on the table of specs; the API server's is in tests/cluster/test_crd.py."""

import pytest
from pydantic import ValidationError

from finetune_api.manifest import explain
from finetune_api.v1alpha1 import FineTuneJob
from support.jobs import manifest
from support.spec_cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pydantic_judges_the_table(case: Case) -> None:
    job = manifest(case.job_name) | {"spec": case.spec}
    if case.valid:
        FineTuneJob.model_validate(job)
        return
    with pytest.raises(ValidationError) as caught:
        FineTuneJob.model_validate(job)
    assert case.refusal is not None
    assert case.refusal in explain(caught.value)


def test_a_job_survives_the_way_to_yaml_and_back() -> None:
    job = FineTuneJob.model_validate(manifest())
    assert FineTuneJob.model_validate(job.to_dict()) == job


def test_defaults_are_written_out() -> None:
    spec = FineTuneJob.model_validate(manifest()).to_dict()["spec"]
    assert spec["method"] == {"type": "SFT"}
    assert spec["tuning"] == {"type": "LoRA"}
    assert spec["data"]["loss"] == "Completions"
