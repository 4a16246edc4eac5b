"""Text-to-text on a tiny T5: the loss by hand, whole runs, and answers by plain libraries."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from finetune_trainer import __main__ as program
from finetune_trainer import samples
from finetune_trainer.answers import Sampling
from finetune_trainer.batches import Collator
from finetune_trainer.commands import chat, evaluate, generate
from finetune_trainer.commands.output import Stores
from finetune_trainer.commands.prompts import Asked
from finetune_trainer.data.rows import IGNORED, SequenceRow
from finetune_trainer.supervised.loss import label_logits, summed
from support.tiny_models import pairs, tiny_model, write_jsonl

QUESTION = "Thing 7 is red. Which colour? "


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("t5"), "t5")


@pytest.fixture
def run(laptop: Any, t5: Path) -> Any:
    """Runs a job on pairs; gives the outcome."""
    write_jsonl(laptop.folder / "data" / "train.jsonl", pairs(64))

    def start(**changes: Any) -> Any:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return laptop.run(
            {
                "model": {"source": f"file://{t5}", "task": "text2text-generation"},
                "data.train": [{"source": f"file://{laptop.folder}/data/train.jsonl"}],
                "data.evaluation": {"fraction": 0.25},
                "training": {"learningRate": 5e-3, "epochs": 6, "batchSize": 8},
                "output.uri": f"file://{laptop.folder}/out",
                **named,
            }
        )

    return start


def published(laptop: Any) -> Path:
    return next((laptop.folder / "out" / "attempts").iterdir())


def command(output: Path, work: Any) -> tuple[int, str]:
    stream = io.StringIO()
    return program.run_command(str(output), Stores(), work, {}, stream), stream.getvalue()


def test_the_loss_is_that_of_each_row_alone(t5: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(t5).eval()
    rows = [SequenceRow([9, 12, 1], [20, 21, 22, 1], "a"), SequenceRow([9, 1], [30, 1], "b")]
    batch = Collator(0).of_rows(rows, "cpu")
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"][1].tolist() == [30, 1, IGNORED, IGNORED]
    by_hand = 0.0
    for row in rows:
        # T5 begins with its pad token, which is 0, and reads what it wrote so far.
        read = torch.tensor([[0, *row.labels[:-1]]])
        logits = model(input_ids=torch.tensor([row.input_ids]), decoder_input_ids=read).logits[0]
        by_hand -= logits.log_softmax(-1)[range(len(row.labels)), row.labels].sum().item()
    ours = summed(label_logits(model, batch), batch["labels"]).item()
    assert ours == pytest.approx(by_hand, rel=1e-6)


def test_all_weights_are_tuned_and_answer(run: Any, laptop: Any) -> None:
    outcome = run(tuning__type="Full", training__microBatchSize=2)
    report = outcome.report
    assert report.outcome == "Complete", report.message
    assert float(report.evaluation.loss_after) < 0.3 * float(report.evaluation.loss_before)
    (accuracy,) = report.evaluation.metrics
    assert accuracy.name == "tokenAccuracy"
    assert float(accuracy.before) < 0.1
    assert float(accuracy.after) > 0.8
    folder = published(laptop)
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert plain.generation_config.decoder_start_token_id == plain.config.decoder_start_token_id
    batch = tokenizer(QUESTION, return_tensors="pt")
    written = plain.generate(**batch, max_new_tokens=24, do_sample=False)[0]
    expected = tokenizer.decode(written, skip_special_tokens=True)
    assert expected.startswith("The colour of the thing is ")
    asked = generate.Wanted([Asked(QUESTION, "x")], Sampling(max_new_tokens=24))
    code, said = command(laptop.folder / "out", lambda p, f, s: generate.run(f, asked, p, s))
    assert (code, said) == (0, f"{expected}\n")
    lines = generate.Wanted([Asked(QUESTION, "x")] * 2, Sampling(24), json_lines=True)
    _, said = command(laptop.folder / "out", lambda p, f, s: generate.run(f, lines, p, s))
    assert [json.loads(line)["answer"] for line in said.splitlines()] == [expected] * 2
    written = [json.loads(line) for line in (folder / samples.SAMPLES).read_text().splitlines()]
    assert all(line["after"].startswith("The colour of the thing is ") for line in written)
    assert all(line["reference"].startswith("The colour of the thing is ") for line in written)


def test_an_adapter_gives_its_logits_to_plain_libraries(run: Any, laptop: Any, t5: Path) -> None:
    report = run(tuning={"type": "LoRA", "lora": {"dropout": 0.1}}).report
    assert report.outcome == "Complete", report.message
    assert float(report.evaluation.loss_after) < 0.7 * float(report.evaluation.loss_before)
    folder = published(laptop)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_2_SEQ_LM"
    base = AutoModelForSeq2SeqLM.from_pretrained(t5)
    plain = PeftModel.from_pretrained(base, str(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(QUESTION, return_tensors="pt")
    written = plain.generate(**batch, max_new_tokens=24, do_sample=False)[0]
    expected = tokenizer.decode(written, skip_special_tokens=True)
    asked = generate.Wanted([Asked(QUESTION, "x")], Sampling(max_new_tokens=24))
    code, said = command(laptop.folder / "out", lambda p, f, s: generate.run(f, asked, p, s))
    assert (code, said) == (0, f"{expected}\n")


def test_the_split_of_a_batch_changes_nothing(run: Any, laptop: Any, t5: Path) -> None:
    # Dropout draws by batch, so it must be off for this.
    model = Path(shutil.copytree(t5, laptop.folder / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.0}))
    found = []
    for size in (8, 2):
        name = f"{laptop.folder}/split-{size}"
        settings = {"learningRate": 1e-3, "maxSteps": 3, "batchSize": 8, "microBatchSize": size}
        changes = {"training": settings, "output__uri": f"file://{name}"}
        outcome = run(tuning__type="Full", model__source=f"file://{model}", **changes)
        assert outcome.report.outcome == "Complete", outcome.report.message
        log = next(Path(name).rglob("training_log.jsonl")).read_text().splitlines()
        found.append([entry["loss"] for entry in map(json.loads, log) if "loss" in entry])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_evaluate_repeats_and_chat_refuses(
    run: Any, laptop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(tuning__type="Full", training={"maxSteps": 2}).report
    assert report.outcome == "Complete", report.message
    code, said = command(laptop.folder / "out", lambda p, f, s: evaluate.run(f, p, s))
    assert code == 0, said
    assert [line.split()[-1] for line in said.splitlines()[1:]] == ["same", "same"]
    code, _ = command(
        laptop.folder / "out",
        lambda p, f, s: chat.run(f, Sampling(), p, (io.StringIO(), s, io.StringIO())),
    )
    assert code != 0
    assert "an encoder-decoder language model" in capsys.readouterr().err
