import io
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from finetune_api.records import Report, parse_record, parse_report
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import exchange, heads, launch, memory, model, outcome, resolve
from finetune_trainer.__main__ import run_file
from finetune_trainer.recipes import foresight
from finetune_trainer.run import check
from finetune_trainer.strategies import Strategy
from support.jobs import manifest, spec
from support.tiny_models import chats, tiny_model, write_jsonl

LOCAL = {"resources.gpusPerNode": 0}
GRPO: dict[str, Any] = {
    "type": "GRPO",
    "grpo": {"rewards": [{"type": "Length", "targetTokens": 8}]},
}


@pytest.fixture
def desk(laptop: Any, model_folder: Path) -> Any:
    """A laptop with data, and a model without its weights."""
    folder = laptop.folder
    write_jsonl(folder / "data" / "train.jsonl", chats(40))
    shutil.copytree(model_folder, folder / "model")
    return laptop


def preflight(desk: Any, changes: dict[str, Any] | None = None, keep: Path | None = None) -> Report:
    file = desk.manifest(
        {
            "model.source": f"file://{desk.folder}/model",
            "data.train": [{"source": f"file://{desk.folder}/data/train.jsonl"}],
            "output.uri": f"file://{desk.folder}/out",
            **(changes or {}),
        }
    )
    log, stdout = desk.folder / "termination-log", io.StringIO()
    variables = {
        "FINETUNE_TERMINATION_LOG": str(log),
        "FINETUNE_SCRATCH": str(desk.folder / "scratch"),
    }
    report = run_file(file, variables, stdout, partial(check, keep=keep))
    written = parse_report(log.read_text())
    assert written is not None
    assert (written.reason, written.outcome) == (report.reason, report.outcome)
    assert None not in [parse_record(line) for line in stdout.getvalue().splitlines()]
    return report


def test_everything_is_known_before_there_are_weights_or_a_gpu(desk: Any) -> None:
    weights = desk.folder / "model" / "model.safetensors"
    # Its place is listed, but it is never read.
    weights.write_bytes(b"")
    changes = {"resources.gpusPerNode": 1, "data.evaluation": {"fraction": 0.25}}
    report = preflight(desk, changes)
    assert (report.outcome, report.reason) == ("Complete", Reason.PREFLIGHT_PASSED), report.message
    assert report.plan is not None
    assert (report.plan.rows, report.plan.evaluation_rows) == (30, 10)
    assert (report.plan.duplicate_rows, report.plan.rows_without_stop_token) == (0, 0)
    # Two layers, rank 16: inputs and outputs of q and o, of k and v, and of the feed-forward block.
    in_and_out = 2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128)
    assert report.plan.trainable_parameters == 2 * 16 * in_and_out
    assert report.resolved is not None
    chosen = {choice.field: choice for choice in report.resolved}
    assert chosen["training.precision"].value == "BFloat16"
    assert chosen["training.precision"].why == "if the GPU computes in bfloat16; else Float32"
    assert chosen["training.gradientCheckpointing"].value == "Enabled"
    assert "resources.gpusPerNode" not in chosen
    assert "runtime 1.0 GiB" in chosen["plan.estimatedMemoryBytes"].why
    # Nothing was left behind that would make the output count as taken.
    assert list((desk.folder / "out").rglob("*")) == []
    assert "PreflightPassed" in (desk.folder / "termination-log").read_text()
    shown = outcome.for_people(report)
    assert shown.startswith("Preflight passed: 30 training rows and 10 held out are good")
    assert "\n  training.precision = BFloat16 (if the GPU" in shown


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        (
            {"tuning": {"type": "LoRA", "lora": {"targets": ["q_proj", "qproj"]}}},
            Reason.TARGET_MODULES_NOT_FOUND,
            "qproj matches no linear module; there are down_proj",
        ),
        (
            {"training": {"batchSize": 8, "microBatchSize": 3}},
            Reason.INVALID_SPEC,
            "`training.microBatchSize` 3 does not divide the batch size 8",
        ),
        (
            {"training": {"maxSteps": 5, "scheduler": {"warmupSteps": 5}}},
            Reason.INVALID_SPEC,
            "`training.scheduler.warmupSteps` is 5",
        ),
        ({"data.maxLength": 1024}, Reason.INVALID_SPEC, "the model has 512 positions"),
        (
            {"data.maxLength": 40, "data.limits": {"maxTruncated": 0.1}},
            Reason.TOO_MANY_TRUNCATED,
            "of 40 rows are too long and are cut",
        ),
        (
            {"data.chatTemplate": "{{ messages[9].content }}"},
            Reason.CHAT_TEMPLATE_ERROR,
            "train.jsonl line 1",
        ),
    ],
)  # fmt: skip
def test_what_would_fail_on_the_gpu_fails_here(
    desk: Any, changes: dict[str, Any], reason: Reason, words: str
) -> None:
    report = preflight(desk, {**LOCAL, **changes})
    assert (report.outcome, report.reason) == ("Failed", reason), report.message
    assert words in report.message


def test_a_broken_contract_is_kept_for_a_look(desk: Any) -> None:
    write_jsonl(desk.folder / "data" / "test.jsonl", chats(40)[:10])
    sources = [{"source": f"file://{desk.folder}/data/test.jsonl"}]
    keep = desk.folder / "kept"
    report = preflight(desk, {**LOCAL, "data.evaluation": {"sources": sources}}, keep)
    assert report.reason is Reason.EVALUATION_LEAKED
    assert "test.jsonl line 1 (as train.jsonl line 1)" in report.message
    assert {path.name for path in keep.iterdir()} == {"data_contract.json", "data_samples.md"}
    assert "⟦The colour of the thing is" in (keep / "data_samples.md").read_text()


def on_a_gpu(
    desk: Any, monkeypatch: pytest.MonkeyPatch, room: int | None, changes: dict[str, Any]
) -> tuple[str, str, int]:
    """What is told about recomputed layers for a GPU of so many bytes, and the bytes of the plan."""

    def machine(job: Any, *, laptop: bool) -> resolve.Machine:
        count = launch.processes_of(job)
        return resolve.Machine("cuda", "H200", bfloat16=True, processes=count, memory=room)

    monkeypatch.setattr(foresight, "machine", machine)
    report = preflight(desk, {"resources.gpusPerNode": 1, **changes})
    assert report.reason is Reason.PREFLIGHT_PASSED, report.message
    told = {choice.field: choice for choice in report.resolved or []}
    found, plan = told["training.gradientCheckpointing"], report.plan
    assert plan is not None
    return found.value, found.why or "", plan.estimated_memory_bytes or 0


def test_as_few_layers_compute_again_as_the_gpu_allows(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, why, whole = on_a_gpu(desk, monkeypatch, 2**31, {})
    assert value == "Disabled"
    assert "of the 1.6 GiB that may be used" in why
    # A fifth stays free.
    assert on_a_gpu(desk, monkeypatch, int(whole / 0.8) + 2, {})[0] == "Disabled"
    value, why, less = on_a_gpu(desk, monkeypatch, int(whole / 0.8) - 2, {})
    assert value == "1 of 2 layers"
    assert "where it computes the rest again" in why
    assert less < whole
    # The libraries alone take as much.
    value, why, _ = on_a_gpu(desk, monkeypatch, 2**30, {})
    assert value == "Offload"
    assert "more than there is; inputs of layers wait in" in why


@pytest.mark.parametrize("strategy", ["FSDP", "ZeRO2"])
def test_parts_of_a_model_are_planned_for_too(
    desk: Any, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    spread = {"resources.gpusPerNode": 2, "distributed.strategy": strategy}
    _, _, whole = on_a_gpu(desk, monkeypatch, 2**32, spread)
    assert on_a_gpu(desk, monkeypatch, int(whole / 0.8) + 2, spread)[0] == "Disabled"
    value, _, less = on_a_gpu(desk, monkeypatch, int(whole / 0.8) - 2, spread)
    assert (value, less < whole) == ("1 of 2 layers", True)
    # Nor where nothing fits are their inputs offloaded.
    assert on_a_gpu(desk, monkeypatch, 2**30, spread)[0] == "Enabled"


def test_every_layer_computes_again_where_no_room_is_known(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, why, _ = on_a_gpu(desk, monkeypatch, None, {})
    assert (value, why) == ("Enabled", "saves GPU memory")


def test_answers_and_judges_are_planned_for(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [{"prompt": f"Thing {number}?"} for number in range(40)]
    write_jsonl(desk.folder / "data" / "train.jsonl", prompts)
    # Long answers, so that learning from them takes more than writing them.
    group = {"generation": {"maxNewTokens": 400}, "answersPerPrompt": 2}
    judged = {"rewards": GRPO["grpo"]["rewards"], **group}
    found: dict[str, int] = {}
    for name, more in {
        "rules": {},
        "model": {"rewardModel": f"file://{reward_model(desk.folder / 'reward')}"},
    }.items():
        method = {"type": "GRPO", "grpo": {**judged, **more}}
        value, _, whole = on_a_gpu(desk, monkeypatch, 2**32, {"method": method})
        assert value == "Disabled"
        value, _, less = on_a_gpu(desk, monkeypatch, int(whole / 0.8) - 2, {"method": method})
        assert (value, less < whole) == ("1 of 2 layers", True)
        found[name] = whole
    # Its weights, in bfloat16.
    weights = load_file(desk.folder / "reward" / "model.safetensors").values()
    assert found["model"] - found["rules"] == 2 * sum(each.numel() for each in weights)


def reward_model(folder: Path) -> Path:
    """Writes a model with one label."""
    config = AutoConfig.from_pretrained(tiny_model(folder))
    config.num_labels, config.pad_token_id = 1, 0
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


def test_broken_rows_are_told_without_torch(desk: Any) -> None:
    (desk.folder / "data" / "train.jsonl").write_text('{"text": "a"}\n{"text": \n')
    file = desk.manifest(
        {
            "model.source": f"file://{desk.folder}/model",
            "data.train": [{"source": f"file://{desk.folder}/data/train.jsonl"}],
            "output.uri": f"file://{desk.folder}/out",
        }
    )
    program = (
        "import sys, os\n"
        "from pathlib import Path\n"
        "from finetune_trainer.__main__ import run_file\n"
        "from finetune_trainer.run import check\n"
        "report = run_file(Path(sys.argv[1]), dict(os.environ), sys.stdout, check)\n"
        "print(report.reason, 'torch' in sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True
    )
    assert ended.stderr.splitlines()[-1] == "DataInvalid False"
    assert "train.jsonl line 2" in ended.stderr


def settings(**changes: Any) -> resolve.Settings:
    given = {"resources.gpusPerNode": 1, "training.batchSize": 4, **changes}
    wanted = manifest("demo", given)["spec"]
    job = resolve.FineTuneJobSpec.model_validate(wanted)
    return resolve.resolve(job, resolve.Machine("cuda", bfloat16=True), 100, 256)[0]


def job(**changes: Any) -> Any:
    return resolve.FineTuneJobSpec.model_validate(spec(changes))


def test_memory_is_the_sum_of_what_is_kept(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model(tmp_path, hidden=64, layers=2))
    outline = model.outline(config, heads.CAUSAL).requires_grad_(True)
    count = sum(parameter.numel() for parameter in outline.parameters())
    found = memory.estimate(
        outline,
        config,
        job(**{"tuning.type": "Full"}),
        settings(**{"tuning.type": "Full", "training.gradientCheckpointing": "Disabled"}),
    )
    # Full tuning in bfloat16 arithmetic holds weights, gradients and two moments in float32, and what
    # autocast made of the weights, but for the embeddings.
    casts = 2 * (count - config.vocab_size * 64)
    kept = (4 * count + casts, 4 * count, 8 * count)
    assert (found.weights, found.gradients, found.optimizer) == kept
    assert found.logits > 2 * 4 * 1024 * config.vocab_size
    assert found.total == sum((*kept, found.activations, found.logits, 2**30))


def test_what_processes_take_for_each_other(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model(tmp_path, hidden=64, layers=2))
    outline = model.outline(config, heads.CAUSAL).requires_grad_(True)
    count = sum(parameter.numel() for parameter in outline.parameters())
    # q and o, k and v with half as many heads, the gated block, and two norms.
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64
    table = config.vocab_size * 64
    assert count == 2 * layer + 2 * table + 64
    full = settings(**{"tuning.type": "Full"})

    def taken(name: str, outline: Any = outline) -> int:
        spread = replace(full, processes=2, strategy=Strategy(name))
        return memory.estimate(outline, config, job(**{"tuning.type": "Full"}), spread).exchange

    assert (taken("None"), taken("DDP")) == (0, 4 * count)
    # In float32: two layers, gradients of two, the last norm and the output layer.
    assert taken("FSDP") == 4 * max(4 * layer + 64 + table, table)
    assert exchange.kept_of_layer(outline, replace(full, strategy=Strategy("FSDP"))) == 2 * layer
    assert exchange.kept_of_layer(outline, replace(full, strategy=Strategy("DDP"))) == 0
    # Two buckets of 50 million float32 numbers; ZeRO-3 keeps a model whole that is as small as this.
    buckets = 2 * 4 * 50_000_000
    assert (taken("ZeRO1"), taken("ZeRO2")) == (buckets, buckets)
    assert taken("ZeRO3") == buckets + (4 + 2) * count
    frozen = model.outline(config, heads.CAUSAL).requires_grad_(False)
    assert taken("FSDP", frozen) == 4 * max(2 * layer + 64 + table, table)


def test_recomputation_and_frozen_bases_save_memory(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model(tmp_path, hidden=64, layers=8))
    outline = model.outline(config, heads.CAUSAL).requires_grad_(False)
    kept = memory.estimate(
        outline, config, job(), settings(**{"training.gradientCheckpointing": "Disabled"})
    )
    recomputed = memory.estimate(outline, config, job(), settings())
    assert recomputed.activations < kept.activations / 3
    assert kept.weights == 2 * sum(parameter.numel() for parameter in outline.parameters())
    assert (kept.gradients, kept.optimizer) == (0, 0)
    quantized = {"type": "QLoRA", "quantization": {"type": "NF4", "doubleQuant": False}}
    packed = memory.estimate(outline, config, job(tuning=quantized), settings())
    linear = [m for m in outline.modules() if hasattr(m, "in_features")]
    head = outline.get_output_embeddings()
    numbers = sum(m.weight.numel() for m in linear if m is not head)
    # Half a byte a number and four bytes for each 64, in place of two.
    assert packed.weights == kept.weights - numbers * 2 + numbers // 2 + numbers // 16


def test_pairs_take_twice_the_activations(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model(tmp_path))
    outline = model.outline(config, heads.CAUSAL)
    whole = settings(**{"training.gradientCheckpointing": "Disabled"})
    single = memory.estimate(outline, config, job(), whole)
    paired = memory.estimate(outline, config, job(**{"method.type": "DPO"}), whole)
    assert paired.activations == 2 * single.activations
    full = {"method.type": "DPO", "tuning.type": "Full"}
    copied = memory.estimate(outline, config, job(**full), settings())
    other = {"method": {"type": "DPO", "dpo": {"reference": {"source": "s3://models/other/"}}}}
    assert memory.estimate(outline, config, job(**other), whole).reference > 0
    # Like the weights, but for what autocast makes of them.
    assert copied.reference == copied.gradients
