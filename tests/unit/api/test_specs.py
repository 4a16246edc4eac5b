"""pydantic's verdict on the table of specs; the API server's is in tests/cluster/test_crd.py."""

import pytest
from pydantic import ValidationError

from finetune_api.manifest import explain
from finetune_api.v1alpha1 import FineTuneJob, FineTuneJobSpec
from support.jobs import manifest, spec
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


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"data.train": [{"source": "job://a"}]}, "data.train[0].source"),
        ({"data.evaluation": {"sources": [{"source": "job://a"}]}}, "data.evaluation.sources[0].source"),
        ({"method": {"type": "PPO", "ppo": {"rewardModel": "job://a"}}}, "method.ppo.rewardModel"),
        ({"method": {"type": "GRPO", "grpo": {"rewardModel": "job://a"}}}, "method.grpo.rewardModel"),
        ({"method": {"type": "RLOO", "rloo": {"rewardModel": "job://a"}}}, "method.rloo.rewardModel"),
        (
            {"method": {"type": "Distillation", "distillation": {"teacher": "job://a"}}},
            "method.distillation.teacher",
        ),
        *(
            ({"method": {"type": name.upper(), name: {"reference": {"source": "job://a"}}}},
             f"method.{name}.reference.source")
            for name in ("dpo", "ipo", "kto")
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_every_source_in_a_spec_is_found(changes: dict[str, object], path: str) -> None:
    found = FineTuneJobSpec.model_validate(spec(changes | {"model.source": "job://base"}))
    assert (path, "job://a") in list(found.input_uris())
    assert found.source_jobs() == {"base": "model.source", "a": path}


def test_methods_without_models_of_their_own_read_no_more() -> None:
    found = FineTuneJobSpec.model_validate(spec({"method": {"type": "DPO", "dpo": {}}}))
    assert [path for path, _ in found.input_uris()] == ["model.source", "data.train[0].source"]
    assert found.source_jobs() == {}
