"""The commands against a real output: what is said, where it goes, and how it ends."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from devcluster.s3 import S3Server
from finetune_api import manifest as manifests
from finetune_trainer import __main__ as program
from finetune_trainer.answers import Sampling
from finetune_trainer.commands import chat, evaluate, generate
from finetune_trainer.commands.output import Stores, Workplace
from finetune_trainer.commands.prompts import Asked, of_file
from finetune_trainer.errors import TrainerError
from finetune_trainer.sources import FoundModel
from support.jobs import manifest
from support.tiny_models import chats, write_jsonl

QUESTION = "Thing 99 is red. Which colour? "
GREEDY = Sampling(max_new_tokens=24)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """An adapter that answers, published by a real run; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("commands")
    train = write_jsonl(folder / "train.jsonl", chats(64))
    held_out = write_jsonl(folder / "test.jsonl", chats(8, seed=3))
    changes = {
        "model.source": f"file://{model_folder}",
        "data.train": [{"source": f"file://{train}"}],
        "data.evaluation": {"sources": [{"source": f"file://{held_out}"}]},
        "training.learningRate": 3e-3,
        "output.uri": f"file://{folder}/out",
    }
    YAML().dump(manifest("demo", changes), folder / "job.yaml")
    report = program.run_file(folder / "job.yaml", {}, io.StringIO())
    assert report.outcome == "Complete", report.message
    return folder / "out"


def attempt(output: Path) -> Path:
    return next((output / "attempts").iterdir())


def command(
    output: Path | str, work: Callable[[Workplace, FoundModel, Any], None]
) -> tuple[int, str]:
    stream = io.StringIO()
    code = program.run_command(str(output), Stores(), work, {}, stream)
    return code, stream.getvalue()


def ask(output: Path | str, *prompts: Any, sampling: Sampling = GREEDY, **options: Any) -> str:
    asked = [Asked(each, f"prompt {number}") for number, each in enumerate(prompts)]
    wanted = generate.Wanted(asked, sampling, **options)
    code, said = command(
        output, lambda place, found, stream: generate.run(found, wanted, place, stream)
    )
    assert code == 0
    return said


def plain_answer(model_folder: Path, folder: Path, messages: list[dict[str, str]]) -> str:
    """What plain transformers and PEFT say, with nothing but the published files."""
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = PeftModel.from_pretrained(base, str(folder)).generate(
        **batch, max_new_tokens=24, do_sample=False
    )
    text = tokenizer.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return str(text)


def test_an_answer_is_that_of_plain_libraries(output: Path, model_folder: Path) -> None:
    message = [{"role": "user", "content": QUESTION}]
    expected = plain_answer(model_folder, attempt(output), message)
    assert expected.startswith("The colour of the thing is ")
    assert ask(output, QUESTION) == f"{expected}\n"
    assert ask(f"file://{attempt(output)}", message) == f"{expected}\n"


def test_json_lines_give_what_single_prompts_give(output: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    questions = [
        f"{'Well, ' * number}thing {number} is blue. Which colour? " for number in range(11)
    ]
    rows = [{"prompt": each} for each in questions[:10]]
    rows.append({"messages": [{"role": "user", "content": questions[10]}]})
    write_jsonl(path, rows)
    asked = [each.prompt for each in of_file(path)]
    said = [json.loads(line) for line in ask(output, *asked, json_lines=True).splitlines()]
    assert len(said) == 11
    # Padding on the left, by very different lengths, changes nothing.
    for at in (0, 7, 10):
        assert said[at]["prompt"] == [{"role": "user", "content": questions[at]}]
        assert ask(output, questions[at]) == said[at]["answer"] + "\n"


def test_drawing_follows_the_seed(output: Path) -> None:
    def drawn(seed: int) -> str:
        return ask(output, QUESTION, sampling=Sampling(16, temperature=5.0, seed=seed))

    assert drawn(1) == drawn(1) != drawn(2)


def test_raw_text_is_not_a_chat(output: Path) -> None:
    assert ask(output, QUESTION, raw=True) != ask(output, QUESTION)


def test_a_plain_model_can_be_asked_too(output: Path, model_folder: Path) -> None:
    assert ask(model_folder, QUESTION) != ask(output, QUESTION)


def test_an_output_in_a_store_is_found_by_the_flags(
    output: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in output.rglob("*"):
        if path.is_file():
            key = f"answers/{path.relative_to(output)}"
            s3.client().upload_file(str(path), "trainer", key)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.tenant.access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.tenant.secret)
    expected = ask(output, QUESTION)
    for stores, variables in (
        (Stores(endpoint=s3.endpoint), {}),
        (Stores(), {"AWS_ENDPOINT_URL": s3.endpoint}),
    ):
        stream, wanted = io.StringIO(), generate.Wanted([Asked(QUESTION, "x")], GREEDY)
        code = program.run_command(
            "s3://trainer/answers",
            stores,
            lambda place, found, said, wanted=wanted: generate.run(found, wanted, place, said),
            variables,
            stream,
        )
        assert (code, stream.getvalue()) == (0, expected)


def test_the_output_stops_where_a_turn_ends(output: Path) -> None:
    config = json.loads((attempt(output) / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(attempt(output))
    assert config["eos_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert config["pad_token_id"] == tokenizer.pad_token_id


def test_the_output_holds_a_job_that_can_be_run_again(output: Path, model_folder: Path) -> None:
    job = manifests.load(attempt(output) / "job.yaml")
    assert job.metadata.name == "demo"
    assert job.spec.model.source == f"file://{model_folder}"
    assert job.spec.training.learning_rate == 3e-3


def talk(output: Path, *lines: str, **options: Any) -> tuple[str, str]:
    remarks = io.StringIO()
    given = io.StringIO("".join(f"{line}\n" for line in lines))

    def work(place: Workplace, found: FoundModel, stream: Any) -> None:
        sampling = options.pop("sampling", GREEDY)
        chat.run(found, sampling, place, (given, stream, remarks), **options)

    code, said = command(output, work)
    assert code == 0
    return said, remarks.getvalue()


def test_a_chat_remembers_until_it_is_told_to_forget(output: Path, model_folder: Path) -> None:
    question, second = QUESTION.strip(), "And now?"
    said, remarks = talk(output, question, second, "/new", second, "/quit", "never read")
    first = {"role": "user", "content": question}
    one = plain_answer(model_folder, attempt(output), [first])
    chat_so_far = [first, {"role": "assistant", "content": one}]
    two = plain_answer(
        model_folder, attempt(output), [*chat_so_far, {"role": "user", "content": second}]
    )
    alone = plain_answer(model_folder, attempt(output), [{"role": "user", "content": second}])
    assert said == f"{one}\n{two}\n{alone}\n"
    assert remarks == ""


def test_a_chat_that_grows_too_long_drops_old_turns(output: Path) -> None:
    words = "so " * 90
    _, remarks = talk(output, *[words] * 5, sampling=Sampling(max_new_tokens=4))
    assert "old turns were dropped" in remarks


def test_evaluation_repeats_what_was_published(output: Path) -> None:
    code, said = command(output, lambda place, found, stream: evaluate.run(found, place, stream))
    assert code == 0
    published = json.loads((attempt(output) / "evaluation.json").read_text())
    line = said.splitlines()[1].split()
    assert line[0] == "loss"
    assert line[1:3] == [published["lossBefore"], published["lossAfter"]]
    assert [float(each) for each in line[3:5]] == pytest.approx(
        [float(each) for each in line[1:3]], abs=1e-3
    )
    assert line[5] == "same"


def test_an_evaluation_that_comes_out_otherwise_fails(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(output, tmp_path / "copy"))
    path = copy / "manifest.json"
    content = json.loads(path.read_text())
    content["evaluation"]["lossAfter"] = "0.0001"
    path.write_text(json.dumps(content))
    code, said = command(copy, lambda place, found, stream: evaluate.run(found, place, stream))
    assert code == 70
    assert "DIFFERS" in said
    assert "Failed (OutputVerificationFailed)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["generate", "/no/such/output", "--prompt", "x"], 65, "no such file"),
        (["generate", "/no/such/output"], 2, "exactly one of --prompt and --prompts"),
        (["chat", "job://sft"], 65, "name the output itself"),
        (["evaluate", "/etc/hostname"], 65, "there is no config.json"),
    ],
)
def test_the_program_ends_in_a_sentence_and_its_code(
    arguments: list[str], code: int, words: str
) -> None:
    done = CliRunner().invoke(program.app, arguments)
    assert done.exit_code == code, done.stderr
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [("{", "line 2: not valid JSON"), ('{"prompt": 7}', "line 2"), ('{"messages": []}', "line 2")],
)
def test_a_broken_line_of_prompts_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(TrainerError, match=words):
        list(of_file(path))
