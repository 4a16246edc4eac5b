"""Volumes, mounts and environment of a trainer pod.

Called by `plan.workload`. Every path that the trainer uses reaches it through a variable whose value
begins with the mount path, or through its argument, so that a node without mount namespaces can
move it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.meta import SecretReference
from finetune_api.run_file import (
    CA_BUNDLE,
    CA_BUNDLE_FILE,
    HUB_DATA_CREDENTIALS,
    HUB_ENDPOINT,
    HUB_MODEL_CREDENTIALS,
    MOUNT_PATHS,
    RUN_FILE_ANNOTATION,
    RUN_FILE_PATH,
    SCRATCH,
    STORAGE_CREDENTIALS,
    TERMINATION_LOG,
    volume_mount_path,
    volume_variable,
)
from finetune_api.v1alpha1.job import FineTuneJobSpec
from finetune_operator.observe.facts import Role
from finetune_operator.plan.decision import Creation

# 0400: the kubelet adds read access for the group, which `fsGroup` makes ours.
OWNER_READS = 0o400


@dataclass(frozen=True)
class Mounted:
    """One volume with its mount, and the variable that names its path (if the trainer needs it)."""

    volume: dict[str, Any]
    mount: dict[str, Any]
    variable: str | None = None


def mounted(creation: Creation) -> list[Mounted]:
    """All volumes of a pod."""
    spec = creation.spec
    return [
        _run_file(),
        *_storage(spec),
        *_hub(spec),
        *_claims(spec, creation.sources),
        _scratch(spec),
        *(_shared_memory(spec) if creation.role is Role.TRAINER else ()),
    ]


def environment(
    volumes: list[Mounted], hub_endpoint: str | None, extra: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The container's environment; no secret and no user-given variable is in it."""
    scratch = MOUNT_PATHS[SCRATCH]
    variables = {
        TERMINATION_LOG: MOUNT_PATHS[TERMINATION_LOG],
        **{each.variable: each.mount["mountPath"] for each in volumes if each.variable},
        "HOME": f"{scratch}/home",
        "TMPDIR": scratch,
        "HF_HOME": f"{scratch}/huggingface",
        **({HUB_ENDPOINT: hub_endpoint} if hub_endpoint else {}),
        "PYTHONUNBUFFERED": "1",
        **extra,
    }
    pod_name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    return [{"name": name, "value": value} for name, value in variables.items()] + [pod_name]


def _run_file() -> Mounted:
    folder, _, file = RUN_FILE_PATH.rpartition("/")
    annotation = {"fieldPath": f"metadata.annotations['{RUN_FILE_ANNOTATION}']"}
    volume = {"downwardAPI": {"items": [{"path": file, "fieldRef": annotation}]}}
    return _read_only("run-file", folder, volume)


def _storage(spec: FineTuneJobSpec) -> Iterator[Mounted]:
    storage = spec.storage
    if storage and storage.credentials:
        secret = {"secretName": storage.credentials.secret_name, "defaultMode": OWNER_READS}
        path = MOUNT_PATHS[STORAGE_CREDENTIALS]
        yield _read_only("storage-credentials", path, {"secret": secret}, STORAGE_CREDENTIALS)
    if storage and storage.ca_bundle:
        items = [{"key": storage.ca_bundle.key, "path": CA_BUNDLE_FILE}]
        bundle = {"name": storage.ca_bundle.config_map_name, "items": items}
        yield _read_only("ca-bundle", MOUNT_PATHS[CA_BUNDLE], {"configMap": bundle}, CA_BUNDLE)


def _hub(spec: FineTuneJobSpec) -> Iterator[Mounted]:
    if spec.model.credentials:
        yield _hub_token("hub-model-credentials", spec.model.credentials, HUB_MODEL_CREDENTIALS)
    if spec.data.credentials:
        yield _hub_token("hub-data-credentials", spec.data.credentials, HUB_DATA_CREDENTIALS)


def _hub_token(name: str, reference: SecretReference, variable: str) -> Mounted:
    # The whole Secret: a missing key is told by the trainer, while it would only hold up a mount.
    secret = {"secretName": reference.secret_name, "defaultMode": OWNER_READS}
    return _read_only(name, MOUNT_PATHS[variable], {"secret": secret}, variable)


def _claims(spec: FineTuneJobSpec, sources: Mapping[str, str]) -> Iterator[Mounted]:
    written = _claim(spec.output.uri)
    uris = [*(uri for _, uri in spec.input_uris()), *sources.values(), spec.output.uri]
    claims = dict.fromkeys(name for uri in uris if (name := _claim(uri)))
    for index, claim in enumerate(claims):
        read_only = {} if claim == written else {"readOnly": True}
        volume = {"persistentVolumeClaim": {"claimName": claim} | read_only}
        # Claims may have dots and 253 characters, names of volumes neither.
        mount = {"name": f"claim-{index}", "mountPath": volume_mount_path(claim)} | read_only
        yield Mounted({"name": f"claim-{index}"} | volume, mount, volume_variable(claim))


def _claim(uri: str) -> str | None:
    scheme, _, rest = uri.partition("://")
    return rest.partition("/")[0] if scheme == "pvc" else None


def _scratch(spec: FineTuneJobSpec) -> Mounted:
    size = spec.resources.scratch
    volume = {"emptyDir": {"sizeLimit": size} if size else {}}
    mount = {"name": "scratch", "mountPath": MOUNT_PATHS[SCRATCH]}
    return Mounted({"name": "scratch"} | volume, mount, SCRATCH)


def _shared_memory(spec: FineTuneJobSpec) -> Iterator[Mounted]:
    size = spec.resources.shared_memory
    if size:
        volume = {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}}
        yield Mounted(volume, {"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108


def _read_only(
    name: str, path: str, volume: dict[str, Any], variable: str | None = None
) -> Mounted:
    mount = {"name": name, "mountPath": path, "readOnly": True}
    return Mounted({"name": name} | volume, mount, variable)
