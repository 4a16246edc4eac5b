"""Killed at every write of a publication, and raced: no bad resume, one output, bounded memory."""

import os
import secrets
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Literal

import pytest

from devcluster.s3 import S3Server
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.checkpoints import BackgroundPublisher
from finetune_trainer.errors import TrainerError
from finetune_trainer.output_manifest import MANIFEST, OutputManifest
from finetune_trainer.storage import Place, client
from finetune_trainer.storage import s3 as parts
from support import killed
from support.checkpoints import checkpoint, claimed, s3_place, weights, write_secret
from support.hostile_s3 import Fault, HostileS3, Request
from support.killed import Where

BUCKET = "trainer"
CONTEXT = killed.context()
MINE = "/1-40/"


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[HostileS3]:
    with HostileS3(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def where(proxy: HostileS3, s3: S3Server, tmp_path: Path) -> Where:
    secret = write_secret(tmp_path / "secret", s3.tenant.access, s3.tenant.secret)
    uri = f"s3://{BUCKET}/{secrets.token_hex(4)}"
    return Where(uri, proxy.endpoint, secret, tmp_path / "made")


def put(name: str) -> Callable[[Request], bool]:
    return lambda r: r.method == "PUT" and r.path.endswith(name) and r.part is None


def part(number: int) -> Callable[[Request], bool]:
    return lambda r: r.part == number and MINE in r.path


def post(word: str) -> Callable[[Request], bool]:
    return lambda r: r.method == "POST" and word in r.query and MINE in r.path


# What is being written, whether the kill comes before or after the store has it, and the step that
# the next attempt must begin from.
KILLS: list[tuple[str, Callable[[Request], bool], Literal["call instead", "call after"], int]] = [
    ("small file", put("rank-0.json"), "call instead", 20),
    ("small file", put("rank-0.json"), "call after", 20),
    ("upload begun", post("uploads"), "call instead", 20),
    ("upload begun", post("uploads"), "call after", 20),
    ("part 1", part(1), "call instead", 20),
    ("part 1", part(1), "call after", 20),
    ("part 2", part(2), "call instead", 20),
    ("part 2", part(2), "call after", 20),
    ("part 3", part(3), "call instead", 20),
    ("part 3", part(3), "call after", 20),
    ("upload completed", post("uploadId"), "call instead", 20),
    ("upload completed", post("uploadId"), "call after", 20),
    ("manifest", put(f"{MINE}manifest.json"), "call instead", 20),
    ("manifest", put(f"{MINE}manifest.json"), "call after", 40),
    ("pointer", put("latest.json"), "call instead", 40),
    ("pointer", put("latest.json"), "call after", 40),
]


@pytest.mark.parametrize(
    ("when", "moment", "expected"),
    [kill[1:] for kill in KILLS],
    ids=[f"{kill[2].removeprefix('call ')} {kill[0]}" for kill in KILLS],
)
def test_no_kill_gives_a_bad_resume(
    s3: S3Server, proxy: HostileS3, where: Where, tmp_path: Path,
    when: Callable[[Request], bool], moment: Literal["call instead", "call after"], expected: int,
) -> None:  # fmt: skip
    place = s3_place(where.uri, s3.endpoint, where.secret)
    claimed(place).publish(checkpoint(tmp_path / "20", 20), 20, killed.about())
    process = CONTEXT.Process(target=killed.publish_checkpoint, args=(where, 1, 40))

    def kill() -> None:
        # By a descriptor, because only the main thread may join.
        victim = os.pidfd_open(process.pid or 0)
        signal.pidfd_send_signal(victim, signal.SIGKILL)
        select.select([victim], [], [], 30)
        os.close(victim)

    # One write of the pointer takes the fence, two see that conditions hold, the next one publishes.
    skip = 3 if when(Request("PUT", "x/latest.json", {})) else 0
    with proxy.fault(Fault(moment, when, times=1, after=skip, call=kill)):
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    heir = claimed(place, 2)
    found = heir.newest(tmp_path / "got")
    assert found is not None
    assert found.manifest.step == expected
    big = 11 if expected == 40 else 0
    assert (found.folder / "weights.safetensors").read_bytes() == weights(expected, big)
    assert_tidy(s3, place)


def assert_tidy(s3: S3Server, place: Place) -> None:
    """No file without a manifest, and no unfinished upload."""
    names = [file.name.removeprefix("checkpoints/11111111/") for file in place.listing()]
    folders = {name.partition("/")[0] for name in names} - {"latest.json"}
    assert {f"{folder}/{MANIFEST}" for folder in folders} <= set(names)
    prefix = place.uri.removeprefix(f"s3://{BUCKET}/")
    uploads = s3.client().list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
    assert not uploads.get("Uploads")


def test_of_two_trainers_on_one_output_exactly_one_publishes(where: Where) -> None:
    rounds = 10
    barrier, answers = CONTEXT.Barrier(2), CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=killed.publish_outputs, args=(where, n, rounds, barrier, answers))
        for n in (1, 2)
    ]
    for process in processes:
        process.start()
    said = [answers.get(timeout=120) for _ in range(2 * rounds)]
    for process in processes:
        process.join(30)
    with pytest.raises(Empty):
        answers.get_nowait()
    root = s3_place(where.uri, where.endpoint, where.secret)
    for number in range(rounds):
        outcomes = {attempt: outcome for n, attempt, outcome in said if n == number}
        assert sorted(outcomes.values()) == ["Complete", "Fenced"], f"round {number}: {outcomes}"
        winner = next(attempt for attempt, outcome in outcomes.items() if outcome == "Complete")
        assert_whole(root.below(f"round-{number}"), winner)


def assert_whole(output: Place, winner: int) -> None:
    """The manifest is the winner's, and every file that it lists is there."""
    manifest = OutputManifest.model_validate_json(output.read(MANIFEST) or b"")
    assert manifest.attempt == winner
    place = output.below(f"attempts/11111111-{winner}")
    assert place.read("adapter.safetensors") == f"attempt {winner}".encode()


def test_a_store_killed_in_the_middle_of_an_upload_loses_nothing(
    s3: S3Server, proxy: HostileS3, where: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    for name in ("PART_SIZE", "MULTIPART_THRESHOLD"):
        monkeypatch.setattr(parts, name, killed.PART)
    place = s3_place(where.uri, where.endpoint, where.secret)
    store = claimed(place)
    store.publish(checkpoint(tmp_path / "20", 20), 20, killed.about())
    failures: Queue[TrainerError] = Queue()
    publisher = BackgroundPublisher(store, failed=failures.put)
    with proxy.fault(Fault("call instead", part(2), times=1, call=s3.kill)):
        publisher.submit(checkpoint(tmp_path / "40", 40, 11), 40, killed.about())
        assert failures.get(timeout=120).reason is Reason.STORAGE_UNAVAILABLE
    s3.start()
    s3.wait_ready()
    newest = publisher.drain(120)
    publisher.close()
    assert newest is not None
    assert newest.step == 40
    found = claimed(place, 2).newest(tmp_path / "got")
    assert found is not None
    assert (found.folder / "weights.safetensors").read_bytes() == weights(40, 11)
    assert_tidy(s3, place)


def test_memory_does_not_grow_with_the_file(where: Where, s3: S3Server) -> None:
    where.folder.mkdir()
    direct = Where(where.uri, s3.endpoint, where.secret, where.folder)
    answers = CONTEXT.Queue()
    size = 160 * killed.MEBI
    process = CONTEXT.Process(target=killed.transfer, args=(direct, size, answers))
    process.start()
    grown = answers.get(timeout=120)
    process.join(30)
    assert grown < size / 2, f"{grown / killed.MEBI:.0f} MiB for a file of {size / killed.MEBI:.0f}"
