"""The example's manifest is one that this version carries out, on the data that prepare.py uploads."""

from finetune_api.manifest import load
from finetune_api.support import unsupported
from support.stack import BUCKET


def test_the_manifest_is_valid_and_asks_for_nothing_that_is_missing(job_file):
    assert unsupported(load(job_file).spec) == []


def test_the_manifest_names_what_prepare_uploads(job_file, prepare):
    spec = load(job_file).spec
    assert spec.model.source == f"s3://{BUCKET}/models/{prepare.MODEL}"
    assert spec.data.train[0].source == f"s3://{BUCKET}/datasets/kubectl/train.jsonl"
    assert spec.data.evaluation.sources[0].source.endswith("/datasets/kubectl/evaluation.jsonl")


def test_the_answer_alone_is_learned_on_the_cpu(job_file):
    spec = load(job_file).spec
    assert spec.data.loss == "Completions"
    assert spec.resources.gpus_per_node == 0
