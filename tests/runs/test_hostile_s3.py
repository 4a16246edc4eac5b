"""A real store behind a hostile line: nothing damaged is taken, nothing is lost, every end has a reason."""

import logging
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devcluster.s3 import S3Server
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import publish
from finetune_trainer.checkpoints import BackgroundPublisher, background
from finetune_trainer.errors import TrainerError
from finetune_trainer.selection import Selection, sha256
from finetune_trainer.storage import Place, again, client, s3
from support.checkpoints import (
    about,
    checkpoint,
    claim_at_once,
    claimed,
    s3_place,
    weights,
    write_secret,
)
from support.hostile_s3 import Fault, HostileS3, Request

BUCKET = "trainer"
MEBI = 1024 * 1024
CHECKSUMS = pytest.mark.parametrize("checksums", ["WhenSupported", "WhenRequired"])


@pytest.fixture(scope="module")
def _proxy(s3: S3Server) -> Iterator[HostileS3]:
    with HostileS3(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(_proxy: HostileS3, monkeypatch: pytest.MonkeyPatch) -> HostileS3:
    """The line, which is good until a test gives it faults; parts as small as S3 allows."""
    monkeypatch.setattr(s3, "MULTIPART_THRESHOLD", 5 * MEBI)
    monkeypatch.setattr(s3, "PART_SIZE", 5 * MEBI)
    _proxy.faults, _proxy.seen = [], []
    return _proxy


@pytest.fixture
def secret(s3: S3Server, tmp_path: Path) -> Path:
    return write_secret(tmp_path / "secret", s3.tenant.access, s3.tenant.secret)


@pytest.fixture(autouse=True)
def _no_secret_is_logged(s3: S3Server, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG, "finetune_trainer")
    yield
    for keys in (s3.tenant, s3.admin):
        assert keys.secret not in caplog.text


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a request is sent; ask for it before `place`."""
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    return 2


@pytest.fixture
def place(proxy: HostileS3, secret: Path) -> Place:
    return open_place(proxy, secret)


def open_place(proxy: HostileS3, secret: Path, **storage: str) -> Place:
    return s3_place(f"s3://{BUCKET}/{secrets.token_hex(4)}", proxy.endpoint, secret, **storage)


def is_object_read(request: Request) -> bool:
    return request.method == "GET" and "list-type" not in request.query


def is_upload(request: Request) -> bool:
    return request.method == "PUT"


def unfinished(server: S3Server, place: Place) -> int:
    prefix = place.uri.removeprefix(f"s3://{BUCKET}/")
    answer = server.client().list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
    return len(answer.get("Uploads", ()))


def stored(place: Place, tmp_path: Path, size: int) -> tuple[Path, Selection]:
    """A file of random bytes in the store, with the digest that it must have."""
    source = tmp_path / "source.bin"
    source.write_bytes(secrets.token_bytes(size))
    place.put(source, "source.bin")
    return source, Selection(place, place.files(), {"source.bin": sha256(source)})


@CHECKSUMS
@pytest.mark.parametrize(
    ("kind", "size"), [("flip", 1000), ("flip", 6 * MEBI), ("truncate", 6 * MEBI)]
)
def test_a_damaged_body_is_read_again(
    proxy: HostileS3, secret: Path, tmp_path: Path, kind: str, size: int, checksums: str
) -> None:
    place = open_place(proxy, secret, checksums=checksums)
    source, wanted = stored(place, tmp_path, size)
    with proxy.fault(Fault(kind, is_object_read, times=1)):  # type: ignore[arg-type]
        got = wanted.fetch(tmp_path / "got")
    assert (got / "source.bin").read_bytes() == source.read_bytes()


@CHECKSUMS
@pytest.mark.parametrize("kind", ["flip", "truncate"])
def test_a_body_that_always_comes_damaged_is_given_up(
    proxy: HostileS3, secret: Path, tmp_path: Path, kind: str, checksums: str
) -> None:
    place = open_place(proxy, secret, checksums=checksums)
    _, wanted = stored(place, tmp_path, 100_000)
    with (
        proxy.fault(Fault(kind, is_object_read)),  # type: ignore[arg-type]
        pytest.raises(TrainerError) as caught,
    ):
        wanted.fetch(tmp_path / "got")
    assert caught.value.reason is Reason.STORAGE_CORRUPTED


@CHECKSUMS
@pytest.mark.parametrize("size", [1000, 6 * MEBI])
def test_an_upload_that_arrives_damaged_is_sent_again(
    proxy: HostileS3, secret: Path, tmp_path: Path, size: int, checksums: str
) -> None:
    place = open_place(proxy, secret, checksums=checksums)
    with proxy.fault(Fault("flip upload", is_upload, times=1)):
        source, wanted = stored(place, tmp_path, size)
    assert sha256(wanted.fetch(tmp_path / "got") / "source.bin") == sha256(source)
    source.write_bytes(b"x" * 1000)
    with proxy.fault(Fault("flip upload", is_upload)), pytest.raises(TrainerError) as caught:
        place.put(source, "other.bin")
    assert caught.value.reason is Reason.STORAGE_CORRUPTED
    assert place.read("other.bin") is None


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", lambda r: r.part == 2, code="InternalError", status=500),
        Fault("reset", lambda r: r.part == 2),
        Fault("status", lambda r: r.method == "POST" and "uploadId" in r.query),
    ],
    ids=["part refused", "part cut", "completion refused"],
)
def test_an_upload_that_fails_leaves_no_parts_behind(
    proxy: HostileS3, hasty: int, place: Place, s3: S3Server, tmp_path: Path, fault: Fault
) -> None:
    del hasty
    big = tmp_path / "big"
    big.write_bytes(bytes(6 * MEBI))
    with proxy.fault(fault), pytest.raises(TrainerError) as caught:
        place.put(big, "big")
    assert caught.value.reason is Reason.STORAGE_UNAVAILABLE
    assert unfinished(s3, place) == 0
    assert place.listing() == ()


def test_slow_down_and_resets_are_outlasted(proxy: HostileS3, place: Place, tmp_path: Path) -> None:
    faults = (Fault("status", times=1), Fault("reset", times=1), Fault("lost reply", times=1))
    with proxy.fault(*faults):
        source, wanted = stored(place, tmp_path, 6 * MEBI)
    with proxy.fault(Fault("reset", times=1), Fault("status", times=1)):
        assert sha256(wanted.fetch(tmp_path / "got") / "source.bin") == sha256(source)


def test_a_slow_store_is_waited_for(proxy: HostileS3, place: Place, tmp_path: Path) -> None:
    source, wanted = stored(place, tmp_path, 300_000)
    with proxy.fault(Fault("slow", is_object_read, bytes_per_second=200_000)):
        begin = time.monotonic()
        got = wanted.fetch(tmp_path / "got")
    assert time.monotonic() - begin > 1
    assert sha256(got / "source.bin") == sha256(source)


def test_down_at_start_is_told_after_bounded_tries(
    proxy: HostileS3, hasty: int, place: Place
) -> None:
    begin = time.monotonic()
    with proxy.fault(Fault("status")), pytest.raises(TrainerError) as caught:
        place.files()
    assert caught.value.reason is Reason.STORAGE_UNAVAILABLE
    assert "SlowDown" in caught.value.message
    assert len(proxy.seen) == hasty
    assert time.monotonic() - begin < 60


def test_a_conditional_write_whose_reply_is_lost_is_known_as_ours(
    proxy: HostileS3, place: Place, tmp_path: Path
) -> None:
    with proxy.fault(Fault("lost reply", is_upload, times=1)):
        store = claimed(place)
    with proxy.fault(Fault("lost reply", lambda r: r.path.endswith("manifest.json"), times=1)):
        store.publish(checkpoint(tmp_path / "20", 20), 20, about())
    with proxy.fault(Fault("lost reply", lambda r: is_upload(r) and "latest" in r.path, times=1)):
        store.publish(checkpoint(tmp_path / "40", 40), 40, about())
    found = claimed(place, 2).newest(tmp_path / "got")
    assert found is not None
    assert found.manifest.step == 40


def test_credentials_are_read_from_the_files_for_every_request(
    place: Place, secret: Path, s3: S3Server
) -> None:
    assert place.put_new("before", b"x")
    write_secret(secret, "canary-key", "canary-secret")
    with pytest.raises(TrainerError) as caught:
        place.put_new("while", b"x")
    assert caught.value.reason is Reason.STORAGE_CREDENTIALS_INVALID
    assert "canary" not in caught.value.message
    write_secret(secret, s3.tenant.access, s3.tenant.secret)
    assert place.put_new("after", b"x")


def test_keys_change_together_as_the_kubelet_exchanges_them(
    proxy: HostileS3, s3: S3Server, tmp_path: Path
) -> None:
    old = write_secret(tmp_path / "..1", s3.tenant.access, s3.tenant.secret)
    new = write_secret(tmp_path / "..2", s3.admin.access, s3.admin.secret)
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / "..data").symlink_to(old)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (mount / name).symlink_to(Path("..data") / name)
    place = open_place(proxy, mount)
    assert place.put_new("one", b"x")
    (mount / "..next").symlink_to(new)
    (mount / "..next").replace(mount / "..data")
    for path in old.iterdir():
        path.unlink()
    assert place.put_new("two", b"x")


def test_a_secret_that_is_gone_for_a_moment_does_no_harm(place: Place, secret: Path) -> None:
    key = secret / "AWS_ACCESS_KEY_ID"
    place.put_new("one", b"x")
    key.unlink()
    assert place.put_new("two", b"x")


def test_a_deleted_bucket_is_told_and_not_made_again(
    proxy: HostileS3, s3: S3Server, tmp_path: Path
) -> None:
    # An administrator's upload makes a missing bucket in this store.
    admin = s3.client(s3.admin)
    admin.create_bucket(Bucket="doomed")
    keys = write_secret(tmp_path / "admin", s3.admin.access, s3.admin.secret)
    store = claimed(s3_place("s3://doomed/out", proxy.endpoint, keys))
    store.publish(checkpoint(tmp_path / "20", 20), 20, about())
    for entry in admin.list_objects_v2(Bucket="doomed")["Contents"]:
        admin.delete_object(Bucket="doomed", Key=entry["Key"])
    admin.delete_bucket(Bucket="doomed")
    with pytest.raises(TrainerError) as caught:
        store.publish(checkpoint(tmp_path / "40", 40), 40, about())
    assert caught.value.reason is Reason.BUCKET_NOT_FOUND
    assert "doomed" not in {bucket["Name"] for bucket in admin.list_buckets()["Buckets"]}


def test_a_checkpoint_that_comes_damaged_is_not_resumed_from(
    proxy: HostileS3, place: Place, tmp_path: Path
) -> None:
    store = claimed(place)
    for step in (20, 40):
        store.publish(checkpoint(tmp_path / str(step), step, 6), step, about())
    heir = claimed(place, 2)
    damage = Fault(
        "flip", lambda r: is_object_read(r) and r.path.endswith("1-40/weights.safetensors")
    )
    with proxy.fault(damage):
        found = heir.newest(tmp_path / "got")
    assert found is not None
    assert found.manifest.step == 20
    assert (found.folder / "weights.safetensors").read_bytes() == weights(20, 6)


def test_the_last_checkpoint_waits_for_a_store_that_comes_back(
    proxy: HostileS3, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_PAUSE_SECONDS", 0.1)
    publisher = BackgroundPublisher(claimed(place))
    failures: list[TrainerError] = []
    publisher._failed = failures.append
    with proxy.fault(Fault("status", code="AccessDenied", status=403, times=3)):
        publisher.submit(checkpoint(tmp_path / "20", 20), 20, about())
        newest = publisher.drain(60)
    assert newest is not None
    assert newest.step == 20
    assert [error.reason for error in failures] == [Reason.STORAGE_ACCESS_DENIED] * 3
    publisher.close()


def test_publishing_outlasts_an_outage_and_gives_up_in_time(
    proxy: HostileS3, hasty: int, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    del hasty
    folder = checkpoint(tmp_path / "20", 20)
    with proxy.fault(Fault("status", times=3)):
        files = publish.upload(folder, place)
    assert {file.path for file in files} == {file.name for file in place.files()}
    monkeypatch.setitem(again.PATIENCE_SECONDS, Reason.STORAGE_UNAVAILABLE, 0.5)
    with proxy.fault(Fault("status")), pytest.raises(TrainerError) as caught:
        publish.upload(folder, place)
    assert caught.value.reason is Reason.STORAGE_UNAVAILABLE


def test_a_key_that_may_not_tidy_up_may_still_publish(
    proxy: HostileS3, place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def is_tidying(request: Request) -> bool:
        return request.method == "DELETE" or "uploads" in request.query

    with proxy.fault(Fault("status", is_tidying, code="AccessDenied", status=403)):
        store = claimed(place)
        store.publish(checkpoint(tmp_path / "20", 20), 20, about())
    assert "unfinished checkpoints were not removed" in caplog.text
    assert claimed(place, 2).newest(tmp_path / "got") is not None


def test_of_many_that_claim_at_once_the_newest_attempt_stays(place: Place) -> None:
    claim_at_once(place, 8)


def test_a_conditional_write_that_met_another_one_is_sent_again(
    proxy: HostileS3, hasty: int, place: Place
) -> None:
    conflict = Fault("status", is_upload, code="ConditionalRequestConflict", status=409, times=1)
    with proxy.fault(conflict):
        assert place.put_new("manifest.json", b"x")
    assert len(proxy.seen) == hasty
    with proxy.fault(replace(conflict, times=9)), pytest.raises(TrainerError) as caught:
        place.put_new("other.json", b"x")
    assert caught.value.reason is Reason.STORAGE_UNAVAILABLE
