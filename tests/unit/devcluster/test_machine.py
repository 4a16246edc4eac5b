"""Binaries found in the right order, strangers' processes left alone, the audit log read."""

import json
import os
import signal
import sys
import time

import pytest

from devcluster import DevClusterError, binaries, processes
from devcluster.audit import Audit
from devcluster.cleanup import wipe
from devcluster.ports import free_ports


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path


def test_assets_come_first_then_the_cache_then_a_build(cache, monkeypatch):
    built = []
    monkeypatch.setattr(binaries, "build", lambda program, progress: built.append(program.name))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(cache))
    (cache / "etcd").touch()
    cached = binaries.programs()["kubectl"].path
    cached.parent.mkdir(parents=True)
    cached.touch()
    found = binaries.find_all()
    assert found["etcd"] == cache / "etcd"
    assert found["kubectl"] == cached
    assert built == ["kube-apiserver", "kube-controller-manager", "kube-scheduler"]


def test_versions_are_those_of_our_go_modules():
    known = binaries.programs()
    assert known["kube-apiserver"].version == "v1.34.4"
    assert "gitVersion=v1.34.4" in binaries.link_flags(known["kubectl"])
    assert "gitVersion" not in binaries.link_flags(known["etcd"])


def test_a_failed_build_says_why_and_leaves_nothing(cache, monkeypatch):
    monkeypatch.setattr(binaries, "go", lambda: "/bin/false")
    with pytest.raises(DevClusterError, match="building kubectl failed"):
        binaries.find("kubectl", progress=lambda line: None)
    assert not binaries.programs()["kubectl"].path.exists()


def test_no_go_has_a_hint(monkeypatch):
    monkeypatch.setattr(binaries.shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(DevClusterError, match=r"hint: .*KUBEBUILDER_ASSETS"):
        binaries.go()


def test_a_process_is_found_again_and_stopped(tmp_path):
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours = processes.spawn("sleeper", sleeper, tmp_path)
    assert ours.alive
    deadline = time.monotonic() + 20
    # The kernel shows the environment a moment later.
    while not (found := processes.strays(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [each.pid for each in found] == [ours.pid]
    processes.stop([ours])
    assert not ours.alive
    assert processes.strays(tmp_path) == []
    with pytest.raises(DevClusterError, match="sleeper has ended"):
        ours.check()


def test_a_reused_pid_is_not_signalled():
    stranger = processes.Process("old", os.getpid(), 1, "")
    assert not stranger.alive
    stranger.signal(signal.SIGKILL)


def test_a_deaf_process_is_killed_after_the_grace_time(tmp_path):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True)"
    ours = processes.spawn("deaf", [sys.executable, "-c", f"{deaf}; time.sleep(60)"], tmp_path)
    log = tmp_path / "logs" / "deaf.log"
    while not log.read_text():
        time.sleep(0.01)
    processes.stop([ours], grace=0.2)
    assert not ours.alive


def test_audit_counts_one_users_writes_since_a_mark(tmp_path):
    audit = Audit(tmp_path / "audit.log")
    assert audit.writes("me") == []

    def record(user, verb, **target):
        line = json.dumps({"user": {"username": user}, "verb": verb, "objectRef": target})
        with audit.file.open("a") as log:
            log.write(line + "\n")

    record("me", "get", resource="pods", name="a")
    record("me", "patch", resource="pods", subresource="status", name="a")
    record("you", "create", resource="pods")
    mark = audit.mark()
    record("me", "create", resource="jobs")
    assert audit.writes("me") == [("patch", "pods", "status", "a"), ("create", "jobs", "", "")]
    assert audit.writes("me", since=mark) == [("create", "jobs", "", "")]
    assert len(audit.requests("me")) == 3


def test_ports_are_different():
    assert len(set(free_ports(20))) == 20


def test_a_folder_of_somebody_else_is_not_emptied(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DevClusterError, match="not empty"):
        wipe(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
