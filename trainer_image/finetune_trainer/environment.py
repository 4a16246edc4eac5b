"""Where things are on this machine: mounts named by environment variables, scratch, CPU share.

`__main__` builds one `Environment` and hands it on; no other module reads the process environment.
`prepare_libraries` must run before torch or transformers are imported.
"""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal

from finetune_api import run_file
from finetune_api.run_file import SCRATCH
from finetune_trainer import processes

# Folder of the processes that our launcher started in this pod: their reports, what is fetched once.
GANG = "FINETUNE_GANG"
CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Environment:
    """What the pod template (or the laptop's shell) says about places.

    Attributes:
        scratch: Folder for everything that is written locally, by this process alone.
        credentials: Folder with one file a credential, or None for boto3's own search.
        ca_bundle: File with certificates of authority, or None for the system's.
        termination_log: Where the report goes, or None on a laptop.
        variables: All environment variables, for the mount points of volumes.
        gang: Folder that the processes of this pod share; None if there is one.
    """

    scratch: Path
    credentials: Path | None
    ca_bundle: Path | None
    termination_log: Path | None
    variables: Mapping[str, str]
    gang: Path | None = None

    def volume(self, claim: str) -> Path | None:
        """Where a persistent volume claim is mounted, or None if it is not."""
        path = self.variables.get(run_file.volume_variable(claim))
        return Path(path) if path else None

    def hub_credentials(self, kind: Literal["model", "dataset"]) -> Path | None:
        """Folder with the hub's token for models or data sets, or None if none is mounted."""
        name = {"model": run_file.HUB_MODEL_CREDENTIALS, "dataset": run_file.HUB_DATA_CREDENTIALS}
        path = self.variables.get(name[kind])
        return Path(path) if path else None

    @property
    def hub_token(self) -> str | None:
        """The token in the shell of a laptop."""
        return self.variables.get(run_file.HUB_TOKEN_FILE) or None

    @property
    def hub_endpoint(self) -> str | None:
        """Address of the hub, or None for the public one."""
        return self.variables.get(run_file.HUB_ENDPOINT) or None


def read(variables: Mapping[str, str], fallback_scratch: Path) -> Environment:
    """The environment by these variables; `fallback_scratch` serves where none is named."""

    def path(name: str) -> Path | None:
        value = variables.get(name)
        return Path(value) if value else None

    folder = path(run_file.CA_BUNDLE)
    bundle = folder / run_file.CA_BUNDLE_FILE if folder else None
    gang = path(GANG)
    log = report_file(gang, processes.rank()) if gang else path(run_file.TERMINATION_LOG)
    return Environment(
        scratch=_own(path(SCRATCH) or fallback_scratch),
        credentials=path(run_file.STORAGE_CREDENTIALS),
        ca_bundle=bundle if bundle and bundle.exists() else None,
        termination_log=log,
        variables=dict(variables),
        gang=gang,
    )


def report_file(gang: Path, rank: int) -> Path:
    """Where a process leaves its report for the launcher."""
    return gang / f"{rank}.json"


def _own(scratch: Path) -> Path:
    number = processes.local_rank()
    return scratch / f"process-{number}" if number else scratch


def prepare_libraries(variables: MutableMapping[str, str], scratch: Path) -> None:
    """Settings that the libraries read at import: no hub, no telemetry, caches in scratch."""
    cache = scratch / "cache"
    # Only `storage.hub` talks to the hub: nothing else may look things up, or report, there.
    variables["HF_HUB_OFFLINE"] = "1"
    variables["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"  # noqa: S105 - a switch
    variables["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    # One way of downloading, over the connection whose certificates and limits we know.
    variables["HF_HUB_DISABLE_XET"] = "1"
    variables["HF_HUB_DISABLE_TELEMETRY"] = "1"
    variables["TRANSFORMERS_VERBOSITY"] = "error"
    for name in ("HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        variables.setdefault(name, str(cache / name.lower()))
    variables.setdefault("OMP_NUM_THREADS", str(cpu_count()))


def cpu_count(cgroup: Path = CGROUP_CPU_MAX) -> int:
    """CPUs that this process may use: its affinity, or its cgroup's quota if that is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _cgroup_quota(cgroup)
    return max(1, min(allowed or 1, ceil(quota) if quota else allowed or 1))


def _cgroup_quota(cgroup: Path) -> float | None:
    try:
        quota, period = cgroup.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        # No cgroup v2 here, or "max": no quota.
        return None
