"""The data of the chain example: three data sets from one list of questions, and no leak."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from finetune_api.v1alpha1.job import FineTuneJob

EXAMPLE = Path(__file__).parents[3] / "examples" / "02-rlhf-chain"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("example_chain", EXAMPLE / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("chain")
    module.write_data(folder)
    return folder


def rows(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_no_question_is_on_both_sides(folder):
    asked = {
        side: {row["prompt"][0]["content"] for row in rows(folder, f"prompts-{side}")}
        for side in ("train", "evaluation")
    }
    assert len(asked["evaluation"]) >= 10
    assert len(asked["train"]) + len(asked["evaluation"]) == 120
    assert not asked["train"] & asked["evaluation"]


def test_people_want_the_bare_command(folder):
    for row in rows(folder, "preferences-train"):
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert chosen.startswith("kubectl ")
        assert f"`{chosen}`" in rejected


def test_the_first_job_sees_mostly_small_talk(folder):
    said = [row["messages"][-1]["content"] for row in rows(folder, "sft-train")]
    assert sum(answer.startswith("kubectl ") for answer in said) * 3 == len(said)


def test_the_jobs_read_each_other_and_files_that_are_made(folder):
    manifests = list(YAML(typ="safe").load_all(EXAMPLE / "jobs.yaml"))
    jobs = {each["metadata"]["name"]: FineTuneJob.model_validate(each).spec for each in manifests}
    assert set(jobs["brief-ppo"].source_jobs()) == {"brief-sft", "brief-reward"}
    assert set(jobs["brief-dpo"].source_jobs()) == {"brief-sft"}
    for spec in jobs.values():
        for _, source in spec.data_sources():
            assert (folder / Path(source.source).name).is_file()
