"""What a container's process sees: its environment, its arguments, and where its paths lead.

Called by `pods`. All of it is pure but for the Secrets and ConfigMaps that it asks `Sources` for.
A process node has no mount namespaces, so every mount path in an argument or a variable's value is
replaced by the local folder; the content of files is never touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from devcluster.errors import NotReadyError
from devcluster.ports import LOOPBACK

REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
KEYED = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")
VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")


class Sources(Protocol):
    """Gives the content of Secrets and ConfigMaps of the pod's namespace; None if missing."""

    async def read(self, kind: str, name: str) -> dict[str, bytes] | None:
        """Returns the data of a `secret` or a `configmap`."""


def field(pod: Mapping[str, Any], path: str) -> str:
    """Returns a field of a pod by the path that fieldRef uses."""
    meta, spec = pod["metadata"], pod["spec"]
    if keyed := KEYED.fullmatch(path):
        return (meta.get(keyed[1]) or {}).get(keyed[2], "")
    if path in ("metadata.labels", "metadata.annotations"):
        values = meta.get(path.removeprefix("metadata.")) or {}
        return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))
    known = {f"metadata.{key}": meta.get(key, "") for key in ("name", "namespace", "uid")}
    known |= {f"spec.{key}": spec.get(key, "") for key in ("nodeName", "serviceAccountName")}
    known |= dict.fromkeys(("status.podIP", "status.hostIP"), LOOPBACK)
    if path not in known:
        message = f"the process node does not know the field {path}"
        raise NotReadyError("CreateContainerConfigError", message)
    return known[path]


def expand(value: str, env: Mapping[str, str]) -> str:
    """Expands `$(NAME)` as Kubernetes does: `$$` is a dollar, an unknown name stays."""

    def one(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else env.get(found[1], found[0])

    return REFERENCE.sub(one, value)


async def environment(
    pod: Mapping[str, Any], container: Mapping[str, Any], sources: Sources
) -> dict[str, str]:
    """Returns the variables that the container's spec asks for, in the order of a kubelet."""
    env: dict[str, str] = {}
    for source in container.get("envFrom", []):
        env |= await env_from(source, sources)
    for item in container.get("env", []):
        value = expand(item.get("value", ""), env)
        if "valueFrom" in item:
            found = await value_from(pod, item["valueFrom"], sources)
            if found is None:
                continue
            value = found
        env[item["name"]] = value
    return env


async def env_from(source: Mapping[str, Any], sources: Sources) -> dict[str, str]:
    """Returns every key of one Secret or ConfigMap that can be a variable's name."""
    kind = "secret" if "secretRef" in source else "configmap"
    reference = source["secretRef" if kind == "secret" else "configMapRef"]
    data = await required(sources, kind, reference) or {}
    prefix = source.get("prefix", "")
    return {prefix + k: v.decode() for k, v in data.items() if VARIABLE.fullmatch(prefix + k)}


async def value_from(
    pod: Mapping[str, Any], origin: Mapping[str, Any], sources: Sources
) -> str | None:
    """Returns one variable's value; None for an optional one that is not there."""
    if "fieldRef" in origin:
        return field(pod, origin["fieldRef"]["fieldPath"])
    for key, kind in (("secretKeyRef", "secret"), ("configMapKeyRef", "configmap")):
        if key in origin:
            return await one_key(sources, kind, origin[key])
    message = f"the process node does not support {', '.join(origin)} in env"
    raise NotReadyError("CreateContainerConfigError", message)


async def one_key(sources: Sources, kind: str, reference: Mapping[str, Any]) -> str | None:
    """Returns one key of a Secret or ConfigMap, or raises as a kubelet would."""
    data = await required(sources, kind, reference)
    if data is not None and reference["key"] in data:
        return data[reference["key"]].decode()
    if reference.get("optional"):
        return None
    message = f"couldn't find key {reference['key']} in {kind} {reference['name']}"
    raise NotReadyError("CreateContainerConfigError", message)


async def required(
    sources: Sources, kind: str, reference: Mapping[str, Any]
) -> dict[str, bytes] | None:
    """Returns the data of a Secret or ConfigMap; None only if it is optional and missing."""
    data = await sources.read(kind, reference["name"])
    if data is None and not reference.get("optional"):
        raise NotReadyError("CreateContainerConfigError", f'{kind} "{reference["name"]}" not found')
    return data


def rewrite(value: str, mounts: Mapping[str, Path]) -> str:
    """Replaces each mount path that stands in a value as a whole path or as a path's beginning.

    A path begins at the value's start or after a character that ends a word of a shell or of
    JSON, so `--out=/data/x` and a script are rewritten, while `s3://bucket/data` is not.
    """
    if not mounts:
        return value
    longest_first = sorted(mounts, key=len, reverse=True)
    paths = "|".join(re.escape(mount) for mount in longest_first)
    whole = rf"(?<![^\s\"'=:,;()<>|&\[{{])(?:{paths})(?=[/\s\"'=:,;()<>|&\]}}]|$)"
    return re.sub(whole, lambda found: str(mounts[found[0]]), value)


def resolve_peers(value: str, pod: Mapping[str, Any]) -> str:
    """Replaces names under the pod's own headless Service by loopback: there is no DNS here."""
    subdomain = pod["spec"].get("subdomain")
    if not subdomain:
        return value
    namespace = re.escape(pod["metadata"]["namespace"])
    suffix = rf"(?:\.{namespace}(?:\.svc(?:\.[a-z0-9.-]+)?)?)?"
    return re.sub(rf"(?<![\w.-])[\w-]+\.{re.escape(subdomain)}{suffix}(?![\w.-])", LOOPBACK, value)


def argv(container: Mapping[str, Any], image: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Returns command and arguments: `command` replaces the image's entrypoint, `args` follow."""
    command = [expand(word, env) for word in container.get("command", [])] or list(image)
    return command + [expand(word, env) for word in container.get("args", [])]


def image_command(image: str, images: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Returns the local command that stands for an image, by its repository's last part."""
    basename = image.split("@")[0].rsplit("/", 1)[-1].split(":")[0]
    return list(images[basename]) if basename in images else None
