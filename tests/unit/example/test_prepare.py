"""From help texts to rows; the model is made whole or not at all."""

import json

import pytest

from devcluster.binaries import programs

HELP = """\
Does things to a thing.

 Longer talk about it.

Examples:
  # Do it once
  tool do foo

  # Do it with a note
  # that goes on in a second line
  tool do foo \\
  --note=bar

  # First of a pair
  tool do a
  # Second of a pair
  tool do b

  # A remark that belongs to no command

  # Needs kubectl
  kubectl get foo | tool do -
  kubectl get bar

Options:
    -o, --output='':
	# not an example
	kubectl no example
"""
ROOT_HELP = """\
Basic Commands (Beginner):
  create          Make a thing
  api-resources   List

Other Commands:
  plugin      More

Subcommands provided by plugins:
  finetune      The command finetune is a plugin

Usage:
  kubectl [flags]
"""


def test_comments_and_commands_are_paired(prepare):
    found = list(prepare.examples_in(HELP))
    assert found == [
        ("Do it once", "tool do foo"),
        ("Do it with a note that goes on in a second line", "tool do foo \\\n--note=bar"),
        ("First of a pair", "tool do a"),
        ("Second of a pair", "tool do b"),
        ("Needs kubectl", "kubectl get foo | tool do -\nkubectl get bar"),
    ]


def test_a_second_sentence_of_a_comment_gets_its_full_stop(prepare):
    assert (
        prepare.sentence(["Set 'a'", "If it is set, it changes"])
        == "Set 'a'. If it is set, it changes"
    )
    assert prepare.sentence(["Use 'a'", "for selecting"]) == "Use 'a' for selecting"
    assert prepare.sentence(["Ends.", "Begins"]) == "Ends. Begins"


def test_a_help_without_examples_has_none(prepare):
    assert list(prepare.examples_in("Usage:\n  kubectl\n")) == []


def test_examples_at_the_end_of_a_help_are_found(prepare):
    assert list(prepare.examples_in("Examples:\n  # Ask\n  kubectl get x")) == [
        ("Ask", "kubectl get x")
    ]


def test_commands_are_listed_and_plugins_are_not(prepare):
    assert list(prepare.subcommands(ROOT_HELP)) == ["create", "api-resources", "plugin"]


def test_a_row_is_a_chat(prepare):
    row = prepare.Example("Do it", "kubectl do").row()
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][-1]["content"] == "kubectl do"


@pytest.fixture
def kubectl(tmp_path):
    """A kubectl whose help is ours: two requests are the same but for case and spaces."""
    examples = "".join(f"  # Do {n}\n  kubectl do {n}\n\n" for n in range(100))
    examples += "  # do   7\n  kubectl another seven\n\n  # No tool of ours\n  brew install\n"
    script = tmp_path / "kubectl"
    script.write_text(
        f"#!/bin/sh\ncase $1 in\n--help) cat <<'END'\n{ROOT_HELP}END\n;;\n"
        f"create) cat <<'END'\nExamples:\n{examples}END\n;;\nesac\n"
    )
    script.chmod(0o755)
    return str(script)


def read(file):
    rows = [json.loads(line)["messages"] for line in file.read_text("utf-8").splitlines()]
    return {row[1]["content"]: row[2]["content"] for row in rows}


def test_the_split_is_fixed_and_shares_nothing(prepare, kubectl, tmp_path):
    counts = prepare.write_data(kubectl, tmp_path / "one")
    assert prepare.write_data(kubectl, tmp_path / "two") == counts
    assert sum(counts) == 100
    assert 3 <= counts[1] <= 20
    for name in ("train.jsonl", "evaluation.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    train, held_out = read(tmp_path / "one/train.jsonl"), read(tmp_path / "one/evaluation.jsonl")
    assert not train.keys() & held_out.keys()
    assert not set(train.values()) & set(held_out.values())


def test_equal_commands_fall_on_the_same_side(prepare):
    commands = [f"kubectl do {n}" for n in range(50)]
    for command in commands:
        assert prepare.Example("a", command).held_out == prepare.Example("b", command).held_out


def test_a_program_that_is_not_kubectl_is_refused(prepare, tmp_path):
    with pytest.raises(SystemExit, match="is it kubectl"):
        prepare.write_data("true", tmp_path)


def test_the_real_kubectl_gives_hundreds_of_rows(prepare, tmp_path):
    kubectl = programs()["kubectl"].path
    if not kubectl.exists():
        pytest.skip("kubectl is not built on this machine; `make cluster-up` builds it")
    train, held_out = prepare.write_data(str(kubectl), tmp_path)
    assert train > 250
    assert 0.05 < held_out / (train + held_out) < 0.15
    answers = read(tmp_path / "train.jsonl") | read(tmp_path / "evaluation.jsonl")
    assert answers["Apply the configuration in pod.json to a pod"] == "kubectl apply -f ./pod.json"
    assert all("kubectl" in command for command in answers.values())
    assert not any(command.startswith(("#", " ")) for command in answers.values())


def test_a_conversion_that_fails_leaves_nothing(prepare, tmp_path, monkeypatch):
    def half(_, folder):
        (folder / "config.json").write_text("{}")
        raise OSError("no space left")

    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(prepare, "convert", half)
    with pytest.raises(OSError, match="no space left"):
        prepare.converted_model()
    assert list((tmp_path / "models").iterdir()) == []


def test_a_model_is_converted_once(prepare, tmp_path, monkeypatch):
    calls = []

    def convert(weights, folder):
        calls.append(weights)
        (folder / "model.safetensors").write_text("weights")

    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(prepare, "convert", convert)
    assert prepare.converted_model() == prepare.converted_model()
    assert len(calls) == 1
    assert calls[0].suffix == ".gguf"


def test_of_two_conversions_at_once_the_first_stays(prepare, tmp_path):
    first, second, folder = (tmp_path / name for name in ("first", "second", "model"))
    for scratch in (first, second):
        scratch.mkdir()
        (scratch / "whose").write_text(scratch.name)
    prepare.publish(first, folder)
    prepare.publish(second, folder)
    assert (folder / "whose").read_text() == "first"
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
