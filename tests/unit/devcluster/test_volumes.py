"""Do volumes become the files that a kubelet would project?"""

import pytest

from devcluster.errors import NotReadyError
from devcluster.volumes import VolumeMaker, mounts_of, pick


class FakeSources:
    async def read(self, kind, name):
        return {"a": b"1", "b": b"2"} if name == "there" else None

    async def token(self, pod, audience, seconds):
        return f"{audience}:{seconds}".encode()


def maker(tmp_path, *volumes):
    meta = {"name": "p", "namespace": "ns", "uid": "u", "annotations": {"run": "{}"}}
    pod = {"metadata": meta, "spec": {"volumes": list(volumes)}}
    return VolumeMaker(pod, tmp_path / "volumes", tmp_path / "claims", FakeSources())


def content(folder):
    return {
        str(each.relative_to(folder)): each.read_text()
        for each in folder.rglob("*")
        if each.is_file()
    }


async def test_secret_with_items_and_mode(tmp_path):
    items = [{"key": "a", "path": "sub/x", "mode": 0o600}]
    volume = {"name": "v", "secret": {"secretName": "there", "items": items, "defaultMode": 0o400}}
    made = (await maker(tmp_path, volume).make_all())["v"]
    assert content(made) == {"sub/x": "1"}
    assert (made / "sub/x").stat().st_mode & 0o777 == 0o600


async def test_projected_sources_share_a_folder(tmp_path):
    field = {"fieldPath": "metadata.annotations['run']"}
    sources = [
        {"configMap": {"name": "there"}},
        {"downwardAPI": {"items": [{"path": "run.json", "fieldRef": field}]}},
        {"serviceAccountToken": {"path": "token", "audience": "s3", "expirationSeconds": 600}},
        {"secret": {"name": "missing", "optional": True}},
    ]
    made = await maker(tmp_path, {"name": "v", "projected": {"sources": sources}}).make_all()
    assert content(made["v"]) == {"a": "1", "b": "2", "run.json": "{}", "token": "s3:600"}


async def test_a_claim_is_one_folder_for_all_pods(tmp_path):
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}
    made = await maker(tmp_path, volume, {"name": "e", "emptyDir": {}}).make_all()
    assert made == {"v": tmp_path / "claims/ns/c", "e": tmp_path / "volumes/e"}


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"hostPath": {"path": "/"}}, "no volumes of kind hostPath"),
        (
            {"secret": {"secretName": "there", "items": [{"key": "z", "path": "z"}]}},
            "references non-existent config key: z",
        ),
    ],
)
async def test_trouble_names_the_volume(tmp_path, volume, message):
    with pytest.raises(NotReadyError, match=f'volume "v" : .*{message}') as caught:
        await maker(tmp_path, {"name": "v", **volume}).make_all()
    assert caught.value.reason == "FailedMount"


def test_an_optional_key_may_be_missing():
    items = [{"key": "z", "path": "z"}]
    assert pick({"a": b""}, {"items": items, "optional": True}, 0o644, "secret") == {}
    assert pick(None, {"optional": True}, 0o644, "secret") == {}


def test_mounts_with_a_sub_path(tmp_path):
    mounts = [
        {"name": "v", "mountPath": "/whole/"},
        {"name": "v", "mountPath": "/part", "subPath": "x/y"},
    ]
    found = mounts_of({"volumeMounts": mounts}, {"v": tmp_path})
    assert found == {"/whole": tmp_path, "/part": tmp_path / "x/y"}
    assert (tmp_path / "x/y").is_dir()
