"""The run file travels as JSON and holds what the manifest said."""

from finetune_api.run_file import RunFile, volume_variable
from finetune_api.v1alpha1 import FineTuneJob
from support.jobs import manifest


def test_a_run_file_comes_back_from_json() -> None:
    job = FineTuneJob.model_validate(manifest(changes={"training.learningRate": 2e-4}))
    run = RunFile.of_manifest(job, uid="u-1")
    assert RunFile.model_validate_json(run.model_dump_json(by_alias=True, exclude_none=True)) == run


def test_volume_variables_tell_claims_apart() -> None:
    claims = ["a-b", "a.b", "ab"]
    assert len({volume_variable(claim) for claim in claims}) == len(claims)


def test_a_run_file_says_where_the_outputs_of_other_jobs_lie() -> None:
    job = FineTuneJob.model_validate(manifest(changes={"model.source": "job://first"}))
    run = RunFile.of_manifest(job, uid="u-1")
    found = run.model_copy(update={"sources": {"job://first": "s3://models/first"}})
    assert RunFile.model_validate_json(found.model_dump_json(by_alias=True)) == found
