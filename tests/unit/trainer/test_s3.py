"""Against a real SeaweedFS: reading, writing, and every way in which a store refuses, told apart."""

import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from devcluster.s3 import Keys, S3Server
from finetune_api.v1alpha1.output import Storage as StorageSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer.environment import Environment
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Place, Storage

BUCKET = "trainer"


@dataclass(frozen=True)
class Store:
    """Opens places with given keys at a given endpoint."""

    endpoint: str
    folder: Path
    keys: Keys

    def place(self, uri: str, missing: Reason = Reason.DATA_NOT_FOUND, **spec: str) -> Place:
        secret = self.folder / "credentials"
        secret.mkdir(exist_ok=True)
        (secret / "AWS_ACCESS_KEY_ID").write_text(self.keys.access + "\n")
        (secret / "AWS_SECRET_ACCESS_KEY").write_text(self.keys.secret + "\n")
        environment = Environment(self.folder, secret, None, None, {})
        fields = {"endpoint": self.endpoint, **spec}
        return Storage(StorageSpec.model_validate(fields), environment).place(uri, missing)


@pytest.fixture
def store(s3: S3Server, tmp_path: Path) -> Store:
    return Store(s3.endpoint, tmp_path, s3.tenant)


def refusal(place: Place) -> TrainerError:
    with pytest.raises(TrainerError) as caught:
        place.files()
    assert place.uri in caught.value.message or "http" in caught.value.message
    return caught.value


def test_folder_round_trip(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    place = store.place(f"s3://{BUCKET}/round-trip")
    place.put(source, "b.txt")
    place.below("sub").put(source, "a.txt")
    files = place.files()
    assert [(f.name, f.size) for f in files] == [("b.txt", 1000), ("sub/a.txt", 1000)]
    fetched = place.fetch(files, tmp_path / "fetched")
    assert (fetched / "sub" / "a.txt").read_bytes() == b"x" * 1000


def test_one_object_beside_longer_keys(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"one")
    place = store.place(f"s3://{BUCKET}/one")
    for name in ("train.jsonl", "train.jsonl.bak", "train.json"):
        place.put(source, name)
    one = store.place(f"s3://{BUCKET}/one/train.jsonl")
    files = one.files()
    assert [file.name for file in files] == ["train.jsonl"]
    assert (one.fetch(files, tmp_path / "got") / "train.jsonl").read_bytes() == b"one"


@pytest.mark.parametrize("checksums", ["WhenSupported", "WhenRequired"])
def test_big_file_in_parts(store: Store, tmp_path: Path, checksums: str) -> None:
    source = tmp_path / "big"
    source.write_bytes(bytes(range(256)) * 4 * 1024 * 70)
    place = store.place(f"s3://{BUCKET}/big-{checksums}", checksums=checksums)
    place.put(source, "big.bin")
    fetched = place.fetch(place.files(), tmp_path / "got")
    assert (fetched / "big.bin").read_bytes() == source.read_bytes()


def test_put_new_has_one_winner(store: Store) -> None:
    place = store.place(f"s3://{BUCKET}/race")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: place.put_new("manifest.json", b"%d" % n), range(8)))
    assert won.count(True) == 1
    assert place.read("manifest.json") == b"%d" % won.index(True)


def test_read_and_delete_absent(store: Store) -> None:
    place = store.place(f"s3://{BUCKET}/absent")
    assert place.read("manifest.json") is None
    place.delete("manifest.json")


def test_absent_object(store: Store) -> None:
    missing = refusal(store.place(f"s3://{BUCKET}/nothing/here", Reason.MODEL_NOT_FOUND))
    assert missing.reason is Reason.MODEL_NOT_FOUND


def test_absent_bucket(store: Store, s3: S3Server, tmp_path: Path) -> None:
    admin = Store(s3.endpoint, tmp_path, s3.admin)
    assert refusal(admin.place("s3://no-such-bucket/x")).reason is Reason.BUCKET_NOT_FOUND


def test_unknown_access_key(store: Store, s3: S3Server, tmp_path: Path) -> None:
    other = Store(s3.endpoint, tmp_path, Keys("nobody", s3.tenant.secret))
    error = refusal(other.place(f"s3://{BUCKET}/x"))
    assert error.reason is Reason.STORAGE_CREDENTIALS_INVALID
    assert "InvalidAccessKeyId" in error.message


def test_wrong_secret_key_is_told_and_never_shown(s3: S3Server, tmp_path: Path) -> None:
    other = Store(s3.endpoint, tmp_path, Keys(s3.tenant.access, "canary-secret"))
    error = refusal(other.place(f"s3://{BUCKET}/x"))
    assert error.reason is Reason.STORAGE_CREDENTIALS_INVALID
    assert "SignatureDoesNotMatch" in error.message
    assert "AWS_SECRET_ACCESS_KEY" in (error.hint or "")
    assert "canary-secret" not in error.message + (error.hint or "")


def test_denied(s3: S3Server, store: Store, tmp_path: Path) -> None:
    s3.client(s3.admin).create_bucket(Bucket="someone-elses")
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(TrainerError, match="AccessDenied") as caught:
        store.place("s3://someone-elses/x").put(source, "y")
    assert caught.value.reason is Reason.STORAGE_ACCESS_DENIED


def test_unreachable_endpoint_is_told_in_bounded_time(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    begin = time.monotonic()
    error = refusal(Store(endpoint, tmp_path, Keys("a", "b")).place(f"s3://{BUCKET}/x"))
    assert error.reason is Reason.STORAGE_UNAVAILABLE
    assert time.monotonic() - begin < 60


def test_unknown_certificate(tmp_path: Path) -> None:
    endpoint = serve_tls(tmp_path)
    error = refusal(Store(endpoint, tmp_path, Keys("a", "b")).place(f"s3://{BUCKET}/x"))
    assert error.reason is Reason.TLS_VERIFY_FAILED
    assert "storage.caBundle" in error.reason.meaning.hint


def serve_tls(folder: Path) -> str:
    """A TLS server with a certificate that nobody knows; returns its URL."""
    import ssl

    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ("-subj", "/CN=127.0.0.1", "-days", "1", "-nodes", "-newkey", "rsa:2048")
    command = ["openssl", "req", "-x509", *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            connection, _ = listener.accept()
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

    threading.Thread(target=answer, daemon=True).start()
    return f"https://127.0.0.1:{listener.getsockname()[1]}"
