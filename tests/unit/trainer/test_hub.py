"""The hub through huggingface_hub's real client, against a server on this machine."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.environment import read
from finetune_trainer.errors import TrainerError
from finetune_trainer.selection import sha256
from finetune_trainer.sources import Finder
from finetune_trainer.storage import Source, Storage
from support.hub_server import LARGE, STRANGER, TOKEN, HubServer, hub_server
from support.tiny_models import chats, tiny_llama

NAME = "acme/tiny"
URI = f"hf://{NAME}"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(model_folder: Path) -> Iterator[HubServer]:
    with hub_server(page=3) as server:
        server.model(NAME, model_folder)
        yield server


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for, each cut short."""
    found: list[float] = []
    sleep = time.sleep

    def short(seconds: float) -> None:
        found.append(seconds)
        sleep(min(seconds, 0.01))

    monkeypatch.setattr(time, "sleep", short)
    return found


def storage(hub: HubServer, folder: Path, token: str | None = None, **variables: str) -> Storage:
    given = {"HF_ENDPOINT": hub.endpoint, **({"HF_TOKEN": token} if token else {}), **variables}
    return Storage(None, read(given, folder / "scratch"))


def place(hub: HubServer, folder: Path, uri: str = URI, token: str | None = None) -> Source:
    return storage(hub, folder, token).source(uri, Reason.MODEL_NOT_FOUND)


def refusal(call: Any) -> TrainerError:
    with pytest.raises(TrainerError) as caught:
        call()
    return caught.value


def test_a_model_comes_whole_and_from_one_commit(
    hub: HubServer, tmp_path: Path, model_folder: Path
) -> None:
    commit = hub.repositories["model", NAME].branches["main"]
    found = Finder(storage(hub, tmp_path), {}, local=False).model(URI)
    assert found.identity == f"hf://{NAME}@{commit}"
    assert found.resolved("model.source")[0].value == found.identity
    # What happens on the branch meanwhile is none of this run's business.
    hub.repositories["model", NAME].push({"config.json": b"{}"})
    source = found.fetch(tmp_path / "model")
    for file in found.base.files:
        assert (source.folder / file.name).read_bytes() == (model_folder / file.name).read_bytes()
    assert WEIGHTS in {file.name for file in found.base.files}
    asked = {each.path.split("/revision/")[1] for each in hub.requests("/revision/")}
    assert asked == {"main"}
    assert all(commit in each.path for each in hub.requests("/(tree|resolve)/"))
    assert len(hub.requests("/revision/")) == 1
    assert len(hub.requests("/tree/")) > 1, "the listing came in pages"


def test_only_what_is_chosen_is_fetched_and_nothing_twice(hub: HubServer, tmp_path: Path) -> None:
    files = {**hub.repositories["model", NAME].at_main(), "pytorch_model.bin": b"x" * 99}
    hub.repositories["model", NAME].push(files)
    found = Finder(storage(hub, tmp_path), {}, local=False).model(URI)
    before = len(hub.requests("/config.json"))
    found.fetch(tmp_path / "model")
    assert hub.requests("pytorch_model") == []
    # It was read already, to be looked at.
    assert len(hub.requests("/config.json")) == before
    count = len(hub.seen)
    found.fetch(tmp_path / "again")
    assert len(hub.seen) == count


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: HubServer, tmp_path: Path) -> None:
    repository = hub.repositories["model", NAME]
    first = repository.branches["main"]
    other = repository.push({"config.json": b"other"}, "refs/pr/1")
    for revision, commit in (("refs/pr/1", other), (first, first), (other, other)):
        found = place(hub, tmp_path, f"{URI}@{revision}")
        assert found.identity == f"{URI}@{commit}"
    assert place(hub, tmp_path, f"{URI}@refs/pr/1").read("config.json") == b"other"


def test_data_sets_are_repositories_of_their_own_kind(hub: HubServer, tmp_path: Path) -> None:
    rows = b'{"text": "hello"}\n' * 2000
    assert len(rows) > LARGE
    hub.repository(NAME, "dataset").push({"data/train.jsonl": rows, "README.md": b"# Rows"})
    found = storage(hub, tmp_path).source(URI, Reason.DATA_NOT_FOUND, "dataset")
    assert [file.name for file in found.files()] == ["README.md", "data/train.jsonl"]
    folder = found.fetch(found.files(), tmp_path / "data")
    assert (folder / "data" / "train.jsonl").read_bytes() == rows
    inside = found.below("data")
    assert [file.name for file in inside.files()] == ["train.jsonl"]
    assert (inside.fetch(inside.files(), tmp_path) / "train.jsonl").read_bytes() == rows
    assert inside.read("train.jsonl") == rows
    assert inside.read("absent.jsonl") is None


def test_the_token_goes_to_the_hub_and_to_nobody_else(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["model", NAME].gated = True
    Finder(storage(hub, tmp_path, TOKEN), {}, local=False).model(URI).fetch(tmp_path / "model")
    shown = {(each.at_cdn, each.authorization) for each in hub.seen}
    assert shown == {(False, f"Bearer {TOKEN}"), (True, None)}


def test_no_token_of_the_machine_is_shown(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_machine")
    place(hub, tmp_path).files()
    assert {each.authorization for each in hub.seen} == {None}


def test_each_kind_has_its_secret(hub: HubServer, tmp_path: Path) -> None:
    for kind in ("model", "data"):
        (tmp_path / kind).mkdir()
    (tmp_path / "model" / "HF_TOKEN").write_text(f"{TOKEN}\n")
    mounts = {
        "FINETUNE_HUB_MODEL_CREDENTIALS": str(tmp_path / "model"),
        "FINETUNE_HUB_DATA_CREDENTIALS": str(tmp_path / "data"),
    }
    given = storage(hub, tmp_path, **mounts)
    hub.repositories["model", NAME].private = True
    assert given.source(URI, Reason.MODEL_NOT_FOUND).files()
    error = refusal(lambda: given.source(URI, Reason.DATA_NOT_FOUND, "dataset"))
    assert error.reason is Reason.HUB_CREDENTIALS_MISSING
    assert "`data.credentials`: key HF_TOKEN is missing" in error.message
    (tmp_path / "data" / "HF_TOKEN").write_text("two words")
    error = refusal(lambda: given.source(URI, Reason.DATA_NOT_FOUND, "dataset"))
    assert error.reason is Reason.HUB_CREDENTIALS_INVALID
    assert "two words" not in error.message


def settings(hub: HubServer, **values: Any) -> None:
    for name, value in values.items():
        setattr(hub.repositories["model", NAME], name, value)


REFUSALS: list[tuple[str, dict[str, Any], str | None, Reason, str]] = [
    ("hf://acme/none", {}, TOKEN, Reason.MODEL_NOT_FOUND, "no such repository"),
    ("hf://acme/none", {}, None, Reason.MODEL_NOT_FOUND, "no token was given"),
    (URI, {"private": True}, None, Reason.MODEL_NOT_FOUND, "no token was given"),
    (URI, {"private": True}, STRANGER, Reason.MODEL_NOT_FOUND, "none that the token may see"),
    (URI, {"gated": True}, None, Reason.HUB_ACCESS_DENIED, "gated, and no token was given"),
    (URI, {"gated": True}, STRANGER, Reason.HUB_ACCESS_DENIED, "Visit its page to ask"),
    (URI, {}, "hf_wrong", Reason.HUB_CREDENTIALS_INVALID, "refuses the token"),
    (f"{URI}@v9", {}, None, Reason.MODEL_NOT_FOUND, "no such revision"),
    (f"{URI}/sub/folder", {}, None, Reason.INVALID_SPEC, "without a path"),
    ("hf://acme/a--b", {}, None, Reason.INVALID_SPEC, "a--b"),
]


@pytest.mark.parametrize(("uri", "state", "token", "reason", "words"), REFUSALS)
def test_refusals_have_a_reason(
    hub: HubServer,
    tmp_path: Path,
    uri: str,
    state: dict[str, Any],
    token: str | None,
    reason: Reason,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings(hub, **state)
    caplog.set_level(logging.DEBUG)
    given = storage(hub, tmp_path, token)
    error = refusal(lambda: Finder(given, {}, local=False).model(uri))
    assert error.reason is reason, error.message
    assert words in error.message
    assert error.message.startswith(uri)
    assert token is None or token not in error.message + caplog.text + repr(given)


@pytest.mark.parametrize("path", ["/revision/", "/tree/", "/resolve/.*/config", "^/[0-9a-f]{64}"])
@pytest.mark.parametrize("status", [429, 503])
def test_what_passes_is_waited_for(
    hub: HubServer,
    tmp_path: Path,
    path: str,
    status: int,
    pauses: list[float],
    model_folder: Path,
) -> None:
    hub.fail(path, status, times=2, **{"Retry-After": "7"})
    found = Finder(storage(hub, tmp_path), {}, local=False).model(URI)
    source = found.fetch(tmp_path / "model")
    assert sha256(source.folder / WEIGHTS) == sha256(model_folder / WEIGHTS)
    # The first question for a file may be repeated at once; after that the hub says for how long.
    assert sum(pauses) >= 7


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (429, Reason.HUB_RATE_LIMITED),
        (500, Reason.HUB_UNAVAILABLE),
        (403, Reason.HUB_ACCESS_DENIED),
    ],
)
@pytest.mark.parametrize("path", ["/revision/", "/tree/", "/resolve/.*/config", "^/[0-9a-f]{64}"])
def test_what_does_not_pass_is_told(
    hub: HubServer, tmp_path: Path, path: str, status: int, reason: Reason
) -> None:
    hub.fail(path, status, times=1000)
    finder = Finder(storage(hub, tmp_path), {}, local=False)
    error = refusal(lambda: finder.model(URI).fetch(tmp_path / "model"))
    assert error.reason is reason, error.message
    assert "Signature" not in error.message


def test_a_cut_download_goes_on_where_it_was_cut(
    hub: HubServer, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (model_folder / WEIGHTS).stat().st_size
    # Pieces smaller than half of our small file.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4)
    hub.fail("^/[0-9a-f]{64}", "cut", times=2)
    found = Finder(storage(hub, tmp_path), {}, local=False).model(URI)
    source = found.fetch(tmp_path / "model")
    assert sha256(source.folder / WEIGHTS) == sha256(model_folder / WEIGHTS)
    ranges = [each.range for each in hub.seen if each.at_cdn]
    # Half of it came, then half of the rest.
    assert ranges == [None, f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"]


def test_a_download_that_is_always_cut_is_told(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["model", NAME].push({"config.json": b"{" * 50})
    hub.fail("/resolve/", "cut", times=1000)
    error = refusal(lambda: place(hub, tmp_path).read("config.json"))
    assert error.reason is Reason.HUB_UNAVAILABLE


def test_what_arrives_changed_is_refused(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = hub.blob
    monkeypatch.setattr(hub, "blob", lambda digest: (blob(digest) or b"")[:-1] + b"!")
    found = Finder(storage(hub, tmp_path), {}, local=False).model(URI)
    error = refusal(lambda: found.fetch(tmp_path / "model"))
    assert error.reason is Reason.HUB_UNAVAILABLE
    assert f"{URI}/{WEIGHTS} arrived with another digest" in error.message


def test_nobody_there(hub: HubServer, tmp_path: Path) -> None:
    hub.stop()
    error = refusal(lambda: place(hub, tmp_path).files())
    assert error.reason is Reason.HUB_UNAVAILABLE
    assert "ConnectError" in error.message
    given = Storage(None, read({"HF_ENDPOINT": "the hub"}, tmp_path))
    error = refusal(lambda: given.source(URI, Reason.MODEL_NOT_FOUND))
    assert error.reason is Reason.INVALID_SPEC


def test_code_pickles_and_absent_weights(hub: HubServer, tmp_path: Path) -> None:
    repository = hub.repositories["model", NAME]
    files = repository.at_main()
    without = {name: content for name, content in files.items() if name != WEIGHTS}
    for extra, reason in (
        ({"modeling_tiny.py": b"", WEIGHTS: files[WEIGHTS]}, Reason.REMOTE_CODE_REFUSED),
        ({"pytorch_model.bin": b"x"}, Reason.UNSAFE_WEIGHTS),
        ({}, Reason.CORRUPT_MODEL),
    ):
        repository.push({**without, **extra})
        finder = Finder(storage(hub, tmp_path), {}, local=False)
        assert refusal(lambda finder=finder: finder.model(URI)).reason is reason


def test_the_libraries_stay_offline(hub: HubServer, tmp_path: Path) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    place(hub, tmp_path).files()
    count = len(hub.seen)
    with pytest.raises(OfflineModeIsEnabled):
        HfApi(endpoint=hub.endpoint).model_info(NAME)
    assert len(hub.seen) == count


def test_a_repository_without_an_owner(hub: HubServer, tmp_path: Path) -> None:
    hub.model("tiny", tiny_llama(tmp_path / "other", seed=1))
    assert place(hub, tmp_path, "hf://tiny").identity.startswith("hf://tiny@")


def test_a_run_on_a_hub_model_and_a_hub_data_set(
    hub: HubServer, laptop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in chats(16)).encode()
    data = hub.repository("acme/rows", "dataset", gated=True).push({"train.jsonl": rows})
    commit = hub.repositories["model", NAME].branches["main"]
    outcome = laptop.run(
        {
            "model.source": URI,
            "data.train": [{"source": "hf://acme/rows"}],
            "output.uri": f"file://{laptop.folder / 'out'}",
            "training.maxSteps": 1,
        },
        HF_ENDPOINT=hub.endpoint,
        HF_TOKEN=TOKEN,
    )
    report = outcome.report
    assert report.outcome == "Complete", report.message
    resolved = {choice.field: choice.value for choice in report.resolved}
    assert resolved["model.source"] == f"{URI}@{commit}"
    assert resolved["data.train[0].source"] == f"hf://acme/rows@{data}"
    manifest = (laptop.folder / "out" / "manifest.json").read_text()
    assert json.loads(manifest)["baseModel"] == f"{URI}@{commit}"
    published = [path for path in (laptop.folder / "out").rglob("*") if path.is_file()]
    assert all(TOKEN.encode() not in path.read_bytes() for path in published)
    assert TOKEN not in caplog.text + outcome.stdout + report.to_message()
