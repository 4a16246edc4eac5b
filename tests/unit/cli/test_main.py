"""The command line against an API server that answers what the test says, over real HTTP."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kubectl_finetune import __main__ as plugin

JOBS = "/apis/finetune.dev/v1alpha1"


class Handler(BaseHTTPRequestHandler):
    """Answers GETs from the server's table: path to status and body, or to a list of watch events."""

    def do_GET(self):
        path, _, query = self.path.partition("?")
        self.server.asked.append(self.path)
        status, body = self.server.answers.get(path, (404, {"message": "not here"}))
        if "watch=true" in query.lower():
            status, body = 200, self.server.events.pop(0) if self.server.events else b""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_PATCH(self):
        length = int(self.headers["Content-Length"])
        kind = self.headers["Content-Type"]
        self.server.patched.append((self.path, kind, json.loads(self.rfile.read(length))))
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.answers, httpd.events, httpd.asked, httpd.patched = {}, [], [], []
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{httpd.server_port}"
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
            {"name": "other", "context": {"cluster": "c", "user": "u"}},
        ],
    }  # fmt: skip
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr("kubectl_finetune.cluster.RETRY_SECONDS", 0.05)
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def job(outcome=None, version="1"):
    conditions = (
        [{"type": outcome, "status": "True", "reason": "R", "message": "M"}] if outcome else []
    )
    meta = {"name": "demo", "namespace": "team", "resourceVersion": version}
    return {
        "metadata": meta,
        "spec": {},
        "status": {"state": outcome or "Running", "conditions": conditions},
    }


def event(kind, body):
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def run(monkeypatch, *words):
    # The client library reads $KUBECONFIG when it is imported, which is too early for a fixture.
    argv = ["kubectl-finetune", *words, "--kubeconfig", os.environ["KUBECONFIG"]]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as ended:
        plugin.main()
    return ended.value.code or 0


def serve(server, *states):
    """The job's states: the first from a GET, the others as watch events."""
    path = f"{JOBS}/namespaces/team/finetunejobs"
    server.answers[f"{path}/demo"] = (200, states[0])
    server.events = [b"".join(event("MODIFIED", state) for state in states[1:])]


def test_status_asks_in_the_contexts_namespace(server, monkeypatch, capsys):
    serve(server, job("Complete"))
    assert run(monkeypatch, "status", "demo") == 0
    assert "team/demo" in capsys.readouterr().out
    assert run(monkeypatch, "status", "demo", "--context", "other") == 3
    assert server.asked[-1].startswith(f"{JOBS}/namespaces/default/")


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_status_gives_programs_the_object(server, monkeypatch, capsys, form):
    from ruamel.yaml import YAML

    serve(server, job("Complete"))
    assert run(monkeypatch, "status", "demo", "-o", form) == 0
    assert YAML(typ="safe").load(capsys.readouterr().out) == job("Complete")


@pytest.mark.parametrize(("outcome", "code"), [("Complete", 0), ("Failed", 1)])
def test_wait_follows_to_the_end(server, monkeypatch, outcome, code):
    serve(server, job(), job(version="2"), job(outcome, "3"))
    assert run(monkeypatch, "wait", "demo", "--timeout", "20") == code
    serve(server, job(), job(version="2"), job(outcome, "3"))
    assert run(monkeypatch, "status", "demo", "--watch") == code


def test_wait_gives_up_when_time_is_up(server, monkeypatch, capsys):
    serve(server, job())
    assert run(monkeypatch, "wait", "demo", "--timeout", "0.3") == 2
    assert "has not ended in 0.3 s" in capsys.readouterr().err


def test_a_watch_that_breaks_is_taken_up_again(server, monkeypatch):
    serve(server, job())
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    server.events = [event("ERROR", gone), event("ERROR", gone), event("MODIFIED", job("Complete"))]
    assert run(monkeypatch, "wait", "demo", "--timeout", "20") == 0


def test_a_deleted_job_ends_the_wait(server, monkeypatch, capsys):
    serve(server, job())
    server.events = [event("DELETED", job())]
    assert run(monkeypatch, "wait", "demo") == 3
    assert "was deleted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(404, "not found"), (403, "Forbidden"), (401, "Unauthorized"), (503, "503")],
)
def test_refusals_are_sentences(server, monkeypatch, capsys, status, sentence):
    path = f"{JOBS}/namespaces/team/finetunejobs/demo"
    server.answers[path] = (status, {"kind": "Status", "code": status})
    assert run(monkeypatch, "status", "demo") == 3
    error = capsys.readouterr().err
    assert error.startswith("error: job team/demo")
    assert sentence in error
    assert "Traceback" not in error


def test_no_server_is_a_sentence(server, monkeypatch, capsys):
    server.shutdown()
    server.server_close()
    assert run(monkeypatch, "list") == 3
    assert "the API server does not answer" in capsys.readouterr().err


def test_no_kubeconfig_is_a_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    assert run(monkeypatch, "list") == 3
    assert "the kubeconfig cannot be used" in capsys.readouterr().err


def test_list_shows_one_namespace_or_all(server, monkeypatch, capsys):
    server.answers[f"{JOBS}/namespaces/team/finetunejobs"] = (200, {"items": []})
    server.answers[f"{JOBS}/finetunejobs"] = (200, {"items": [job()]})
    assert run(monkeypatch, "list") == 0
    assert "no jobs in namespace team" in capsys.readouterr().err
    assert run(monkeypatch, "list", "-A") == 0
    assert "demo" in capsys.readouterr().out


def pod(name, attempt, rank):
    """A trainer pod, or with None for a rank that of a preflight, which has none."""
    labels = {"finetune.dev/attempt": attempt}
    if rank is not None:
        labels["batch.kubernetes.io/job-completion-index"] = rank
    meta = {
        "name": name,
        "namespace": "team",
        "labels": labels,
        "creationTimestamp": "2026-11-24T20:00:00Z",
    }
    return {
        "metadata": meta,
        "spec": {"containers": [{"name": "trainer"}]},
        "status": {"phase": "Running"},
    }


def test_logs_are_those_of_rank_zero_of_the_newest_attempt(server, monkeypatch, capfdbinary):
    serve(server, job())
    pods = [
        pod("two-1", "2", "1"),
        pod("one-0", "1", "0"),
        pod("ten-0", "10", "0"),
        pod("odd", "x", "0"),
    ]
    server.answers["/api/v1/namespaces/team/pods"] = (200, {"items": pods})
    server.answers["/api/v1/namespaces/team/pods/ten-0/log"] = (200, b"one\ntwo\n")
    assert run(monkeypatch, "logs", "demo", "--tail", "5") == 0
    assert capfdbinary.readouterr().out == b"one\ntwo\n"
    assert "tailLines=5" in server.asked[-1]


@pytest.mark.parametrize("trainers", [(), ("trainer",)], ids=["preflight", "both"])
def test_logs_are_those_of_the_preflight_until_there_are_trainers(
    server, monkeypatch, capfdbinary, trainers
):
    serve(server, job())
    pods = [pod("checks", "1", None), *(pod(name, "1", "0") for name in trainers)]
    server.answers["/api/v1/namespaces/team/pods"] = (200, {"items": pods})
    for name in ("checks", "trainer"):
        server.answers[f"/api/v1/namespaces/team/pods/{name}/log"] = (200, name.encode())
    assert run(monkeypatch, "logs", "demo") == 0
    assert capfdbinary.readouterr().out == (b"trainer" if trainers else b"checks")


def test_logs_of_a_job_without_pods_are_a_sentence(server, monkeypatch, capsys):
    serve(server, job())
    server.answers["/api/v1/namespaces/team/pods"] = (200, {"items": []})
    assert run(monkeypatch, "logs", "demo") == 3
    assert "has no pod" in capsys.readouterr().err


def test_watching_and_data_for_programs_exclude_each_other(server, monkeypatch, capsys):
    assert run(monkeypatch, "status", "demo", "--watch", "-o", "json") == 3
    assert "--watch shows text" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "value"), [("suspend", True), ("resume", False)])
def test_suspend_and_resume_change_one_field(server, monkeypatch, capsys, word, value):
    serve(server, job())
    assert run(monkeypatch, word, "demo") == 0
    path = f"{JOBS}/namespaces/team/finetunejobs/demo"
    assert server.patched == [(path, "application/merge-patch+json", {"spec": {"suspend": value}})]
    assert "team/demo" in capsys.readouterr().out


def test_an_ended_job_cannot_be_resumed(server, monkeypatch, capsys):
    serve(server, job("Failed"))
    assert run(monkeypatch, "resume", "demo") == 3
    assert "has ended (Failed)" in capsys.readouterr().err
