"""Makes a pod's volumes as local folders, and says which mount path leads where.

Called by `pods` before the containers start. Volumes are written once: a later change of a Secret
or an annotation does not reach a running pod, and a projected token is not renewed. `readOnly` is
not enforced. hostPath and CSI volumes are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from devcluster.environment import Sources, field
from devcluster.errors import NotReadyError

MOUNT_FAILED = "FailedMount"
Files = dict[str, tuple[bytes, int]]


class TokenSources(Sources, Protocol):
    """Sources that can also ask for a service account token of the pod."""

    async def token(self, pod: Mapping[str, Any], audience: str, seconds: int) -> bytes:
        """Returns a token bound to the pod."""


@dataclass(frozen=True)
class VolumeMaker:
    """Makes the volumes of one pod under `root`; claims live on under `claims`."""

    pod: Mapping[str, Any]
    root: Path
    claims: Path
    sources: TokenSources

    async def make_all(self) -> dict[str, Path]:
        """Returns the local folder of each volume; raises when a source is missing."""
        made = {}
        for volume in self.pod["spec"].get("volumes", []):
            try:
                made[volume["name"]] = await self.make(volume)
            except NotReadyError as error:
                text = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error.message}'
                raise NotReadyError(MOUNT_FAILED, text) from error
        return made

    async def make(self, volume: Mapping[str, Any]) -> Path:
        """Makes one volume."""
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            folder = self.claims / self.pod["metadata"]["namespace"] / claim
        else:
            folder = self.root / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        if "emptyDir" not in volume and "persistentVolumeClaim" not in volume:
            write_files(folder, await self.files_of(volume))
        return folder

    async def files_of(self, volume: Mapping[str, Any]) -> Files:
        """Returns the files of a volume that has content."""
        if "projected" not in volume:
            kind = next(key for key in volume if key != "name")
            return await self.project(kind, volume[kind], volume[kind].get("defaultMode", 0o644))
        files: Files = {}
        mode = volume["projected"].get("defaultMode", 0o644)
        for source in volume["projected"]["sources"]:
            for kind, wanted in source.items():
                files |= await self.project(kind, wanted, mode)
        return files

    async def project(self, kind: str, wanted: Mapping[str, Any], mode: int) -> Files:
        """Returns the files of one source."""
        if kind == "serviceAccountToken":
            seconds = wanted.get("expirationSeconds", 3600)
            token = await self.sources.token(self.pod, wanted.get("audience", ""), seconds)
            return {wanted["path"]: (token, mode)}
        if kind == "downwardAPI":
            return {each["path"]: self.downward(each, mode) for each in wanted.get("items", [])}
        if kind in ("secret", "configMap"):
            name = wanted.get("secretName") or wanted["name"]
            data = await self.sources.read(kind.lower(), name)
            return pick(data, wanted, mode, f'{kind.lower()} "{name}"')
        raise NotReadyError(MOUNT_FAILED, f"the process node has no volumes of kind {kind}")

    def downward(self, item: Mapping[str, Any], mode: int) -> tuple[bytes, int]:
        """Returns one file made of a field of the pod."""
        if "fieldRef" not in item:
            raise NotReadyError(MOUNT_FAILED, "the process node knows only fieldRef here")
        return field(self.pod, item["fieldRef"]["fieldPath"]).encode(), item.get("mode", mode)


def pick(data: dict[str, bytes] | None, wanted: Mapping[str, Any], mode: int, what: str) -> Files:
    """Returns the wanted keys of a Secret or ConfigMap as files."""
    optional = wanted.get("optional", False)
    if data is None and not optional:
        raise NotReadyError(MOUNT_FAILED, f"{what} not found")
    data = data or {}
    if not wanted.get("items"):
        return {key: (value, mode) for key, value in data.items()}
    missing = [item["key"] for item in wanted["items"] if item["key"] not in data]
    if missing and not optional:
        raise NotReadyError(
            MOUNT_FAILED, f"{what} references non-existent config key: {missing[0]}"
        )
    return {
        item["path"]: (data[item["key"]], item.get("mode", mode))
        for item in wanted["items"]
        if item["key"] in data
    }


def write_files(folder: Path, files: Files) -> None:
    """Writes the files of a volume with their modes."""
    for path, (content, mode) in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(content)
        target.chmod(mode)


def mounts_of(container: Mapping[str, Any], volumes: Mapping[str, Path]) -> dict[str, Path]:
    """Returns the local path behind each mount path of a container."""
    mounts = {}
    for mount in container.get("volumeMounts", []):
        local = volumes[mount["name"]]
        if mount.get("subPath"):
            local /= mount["subPath"]
            if not local.exists():
                local.mkdir(parents=True)
        mounts[mount["mountPath"].rstrip("/")] = local
    return mounts
