"""Does the development cluster behave like a cluster? Pods, logs, deletion, Jobs, S3, clean-up."""

import json
import subprocess
import time
from contextlib import suppress

import pytest

from devcluster import DevCluster, DevClusterError
from devcluster.processes import strays

SHELL = {"shell": ["/bin/sh", "-c"]}


def until(question, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(KeyError, IndexError, DevClusterError):
            if answer := question():
                return answer
        time.sleep(0.1)
    pytest.fail(f"not within {seconds} s")


def pod(name, script, **spec):
    container = {"name": "main", "image": "registry.example/shell:1", "args": [script]}
    container |= spec.pop("container", {})
    body = {"containers": [container], "restartPolicy": "Never"} | spec
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body}


def status(cluster, name):
    return cluster.kubectl_json("get", "pod", name)["status"]


def ended(cluster, name):
    def question():
        found = status(cluster, name)
        return found if found["phase"] in ("Succeeded", "Failed") else None

    return until(question)


def waits_for(cluster, name, reason):
    def question():
        state = status(cluster, name)["containerStatuses"][0]["state"]
        return state["waiting"] if state["waiting"]["reason"] == reason else None

    return until(question)


def logs(cluster, name, *args):
    return cluster.kubectl("logs", name, *args).stdout


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (3, "Failed")])
def test_exit_code_termination_message_and_log(cluster, code, phase):
    name = f"exit-{code}"
    env = [{"name": "REPORT", "value": "/dev/termination-log"}]
    script = f"echo one; echo two >&2; echo told > $REPORT; exit {code}"
    cluster.apply(pod(name, script, container={"env": env}))
    found = ended(cluster, name)
    end = found["containerStatuses"][0]["state"]["terminated"]
    assert found["phase"] == phase
    assert (end["exitCode"], end["message"]) == (code, "told\n")
    assert end["reason"] == ("Error" if code else "Completed")
    assert logs(cluster, name) == "one\ntwo\n"
    assert logs(cluster, name, "--tail=1") == "two\n"
    assert (
        logs(cluster, name, "--timestamps", "--limit-bytes=4")
        == "20" + logs(cluster, name, "--timestamps")[2:4]
    )
    assert {"type": "PodScheduled", "status": "True"}.items() <= next(
        each for each in found["conditions"] if each["type"] == "PodScheduled"
    ).items()


def test_log_is_followed_to_the_end(cluster):
    cluster.apply(pod("talks", "for i in 1 2 3; do echo $i; sleep 0.3; done"))
    until(lambda: status(cluster, "talks")["containerStatuses"][0]["state"].get("running"))
    assert logs(cluster, "talks", "-f") == "1\n2\n3\n"


def test_the_log_is_the_message_on_error_when_asked_for(cluster):
    policy = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    cluster.apply(pod("falls-back", "echo last words; exit 1", container=policy))
    end = ended(cluster, "falls-back")["containerStatuses"][0]["state"]["terminated"]
    assert end["message"] == "last words"


def test_deletion_lets_the_process_clean_up(cluster, tmp_path):
    proof = tmp_path / "proof"
    script = f"trap 'echo bye > {proof}; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    cluster.apply(pod("trapped", script))
    until(lambda: logs(cluster, "trapped"))
    cluster.kubectl("delete", "pod", "trapped", "--timeout=20s")
    assert proof.read_text() == "bye\n"


def test_deletion_kills_the_deaf_and_their_children(cluster, tmp_path):
    mark = "8642.25"  # a sleep that can be told from others
    cluster.apply(pod("deaf", f"trap '' TERM; setsid sleep {mark} & echo up; wait; sleep {mark}"))
    until(lambda: logs(cluster, "deaf"))
    cluster.kubectl("delete", "pod", "deaf", "--grace-period=1", "--timeout=20s")
    found = subprocess.run(["pgrep", "-f", f"sleep {mark}"], check=False, capture_output=True)
    assert found.stdout == b""


def test_job_completes(cluster):
    template = {"spec": pod("", "echo done")["spec"]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": template}}
    cluster.apply(job | {"metadata": {"name": "once", "namespace": "default"}})
    cluster.kubectl("wait", "--for=condition=Complete", "job/once", "--timeout=30s")


def test_secret_volume_annotation_file_and_account_token(cluster):
    secret = {"apiVersion": "v1", "kind": "Secret", "stringData": {"key": "hush"}}
    cluster.apply(secret | {"metadata": {"name": "creds", "namespace": "default"}})
    path = "metadata.annotations['finetune.dev/run-file']"
    run_file = {"items": [{"path": "run.json", "fieldRef": {"fieldPath": path}}]}
    token = {"serviceAccountToken": {"path": "token"}}
    sources = [{"downwardAPI": run_file}, token]
    volumes = [
        {"name": "creds", "secret": {"secretName": "creds", "defaultMode": 0o400}},
        {"name": "run", "projected": {"sources": sources}},
    ]
    mounts = [
        {"name": "creds", "mountPath": "/etc/creds"},
        {"name": "run", "mountPath": "/etc/run", "readOnly": True},
    ]
    script = 'cat "$KEY" /etc/run/run.json; wc -c < /etc/run/token; stat -Lc %a /etc/creds/key'
    env = [{"name": "KEY", "value": "/etc/creds/key"}]
    wanted = pod("mounts", script, volumes=volumes)
    wanted["spec"]["containers"][0] |= {"volumeMounts": mounts, "env": env}
    wanted["metadata"]["annotations"] = {"finetune.dev/run-file": "{}"}
    cluster.apply(wanted)
    assert ended(cluster, "mounts")["phase"] == "Succeeded"
    first, mode = logs(cluster, "mounts").splitlines()
    assert first.startswith("hush{}")
    assert int(first.removeprefix("hush{}")) > 500
    assert mode == "400"


def test_missing_things_are_waited_for(cluster):
    reference = {"secretKeyRef": {"name": "late", "key": "word"}}
    env = [{"name": "WORD", "valueFrom": reference}]
    cluster.apply(pod("early", "echo $WORD", container={"env": env}))
    shown = waits_for(cluster, "early", "CreateContainerConfigError")
    assert shown["message"] == 'secret "late" not found'
    secret = {"apiVersion": "v1", "kind": "Secret", "stringData": {"word": "at last"}}
    cluster.apply(secret | {"metadata": {"name": "late", "namespace": "default"}})
    ended(cluster, "early")
    assert logs(cluster, "early") == "at last\n"


def test_a_missing_volume_source_is_an_event(cluster):
    volumes = [{"name": "v", "configMap": {"name": "nowhere"}}]
    cluster.apply(pod("unmounted", "true", volumes=volumes))
    about = "--field-selector=involvedObject.name=unmounted,reason=FailedMount"
    event = until(lambda: cluster.kubectl_json("get", "events", about)["items"][0])
    assert 'configmap "nowhere" not found' in event["message"]
    waits_for(cluster, "unmounted", "ContainerCreating")
    cluster.kubectl("delete", "pod", "unmounted", "--timeout=10s")


def test_unknown_image_and_unknown_program(cluster):
    cluster.apply(pod("unknown", "true", container={"image": "nobody/knows:1"}))
    assert "nobody/knows:1" in waits_for(cluster, "unknown", "ErrImagePull")["message"]
    cluster.apply(pod("no-program", "", container={"command": ["no-such-program"]}))
    end = ended(cluster, "no-program")["containerStatuses"][0]["state"]["terminated"]
    assert (end["exitCode"], end["reason"]) == (128, "StartError")


def test_init_containers_restarts_and_deadline(cluster):
    init = [{"name": "first", "image": "shell", "args": ["exit 4"]}]
    cluster.apply(pod("init-fails", "echo never", initContainers=init))
    found = ended(cluster, "init-fails")
    assert found["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 4
    claim = cluster.claim_folder("default", "memory")
    volumes = [{"name": "m", "persistentVolumeClaim": {"claimName": "memory"}}]
    mounts = {"volumeMounts": [{"name": "m", "mountPath": "/memory"}]}
    script = "test -e /memory/seen || { touch /memory/seen; exit 1; }"
    again = pod("again", script, volumes=volumes, restartPolicy="OnFailure", container=mounts)
    again["spec"]["nodeName"] = "node-0"
    cluster.apply(again)
    assert ended(cluster, "again")["containerStatuses"][0]["restartCount"] == 1
    assert (claim / "seen").exists()
    cluster.apply(pod("slow", "sleep 60", activeDeadlineSeconds=1))
    assert ended(cluster, "slow")["reason"] == "DeadlineExceeded"


def test_gpus_are_counted(cluster):
    limits = {"container": {"resources": {"limits": {"nvidia.com/gpu": "8"}}}}
    cluster.apply(pod("all-gpus", "sleep 30", **limits))
    until(lambda: status(cluster, "all-gpus")["phase"] == "Running")
    cluster.apply(
        pod("one-more", "true", container={"resources": {"limits": {"nvidia.com/gpu": 1}}})
    )
    why = until(lambda: status(cluster, "one-more")["conditions"][0].get("message"))
    assert "Insufficient nvidia.com/gpu" in why
    cluster.kubectl("delete", "pod", "all-gpus", "one-more", "--grace-period=1")


def test_service_account_kubeconfig_and_audit(cluster):
    cluster.kubectl("create", "serviceaccount", "writer")
    rights = ("--clusterrole=edit", "--serviceaccount=default:writer")
    cluster.kubectl("create", "rolebinding", "writer", *rights)
    config = cluster.kubeconfig_for_service_account("default", "writer")
    assert "insecure" not in config.read_text()
    argv = [cluster.kubectl_path, f"--kubeconfig={config}", "create", "configmap", "mine"]
    subprocess.run(argv, check=True, capture_output=True)
    writes = cluster.audit.writes("system:serviceaccount:default:writer")
    assert writes == [("create", "configmaps", "", "mine")]


def test_pods_can_use_their_account_from_inside(cluster):
    kubectl = cluster.kubectl_path
    cluster.apply(
        pod("inside", f"{kubectl} auth whoami -o jsonpath='{{.status.userInfo.username}}'")
    )
    ended(cluster, "inside")
    assert logs(cluster, "inside").strip() == "system:serviceaccount:default:default"


def test_s3_tenant_is_confined_and_data_survive_a_kill(cluster):
    from botocore.exceptions import ClientError

    client = cluster.s3.client()
    client.put_object(Bucket="models", Key="a", Body=b"kept")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.put_object(Bucket="elsewhere", Key="a", Body=b"")
    cluster.s3.kill()
    cluster.s3.start()
    cluster.s3.wait_ready()
    assert client.get_object(Bucket="models", Key="a")["Body"].read() == b"kept"


def test_starting_twice_attaches(cluster):
    before = json.loads((cluster.state / "cluster.json").read_text())["processes"]
    again = DevCluster.start(cluster.state, images={"other": ["true"]}, s3_buckets=["models"])
    assert [each.to_dict() for each in again.processes] == before
    assert json.loads((cluster.state / "images.json").read_text()) == SHELL | {"other": ["true"]}


def alive(command: str) -> bool:
    """Tells whether a process of this machine runs the command."""
    return (
        subprocess.run(["pgrep", "-f", command], check=False, capture_output=True).returncode == 0
    )


def test_a_killed_agent_leaves_no_stray_and_its_pods_fail(tmp_path):
    with DevCluster.start(tmp_path, images=SHELL, s3=False) as cluster:
        cluster.apply(pod("lost", "sleep 7531.5"))
        until(lambda: status(cluster, "lost")["phase"] == "Running")
        cluster.kill_node("node-0")
        until(
            lambda: not alive("sleep 7531.5"), seconds=10
        )  # the shim hears of it and kills the command
        cluster.start_node("node-0")
        assert ended(cluster, "lost")["reason"] == "NodeAgentRestarted"
        cluster.apply(pod("next", "echo hello"))
        assert ended(cluster, "next")["phase"] == "Succeeded"
    assert strays(tmp_path) == []
