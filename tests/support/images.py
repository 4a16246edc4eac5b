"""Builds container images without a daemon: buildah as root, on a base made by debootstrap.

Used by `tests/images`. The machine's own pip settings (mirror, proxy, certificates) go into a build
as secrets, as a user behind a mirror would give them, and so never into the image.
"""

import configparser
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BASE_VARIABLE = "FINETUNE_BASE_IMAGE"
BASE = "localhost/finetune-base:bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
SETTING = re.compile(r"^(?:global|install|:env:)\.(?P<key>[a-z-]+)='(?P<value>.*)'$", re.MULTILINE)
PASSED_ON = {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout"}


def missing_tools() -> str:
    """Why images cannot be built here; empty when they can."""
    if os.geteuid() != 0:
        return "image builds need root"
    absent = [name for name in ("buildah", "debootstrap") if not shutil.which(name)]
    return f"image builds need {' and '.join(absent)}" if absent else ""


def buildah(*args: str | Path) -> str:
    """Runs buildah and returns what it printed; raises with the end of its log when it fails."""
    argv = ["buildah", "--storage-driver", "overlay", *map(str, args)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


@dataclass(frozen=True)
class Image:
    """A built image."""

    reference: str

    def config(self) -> dict[str, Any]:
        """What a container runtime reads: Entrypoint, User, Env, Labels."""
        shown = json.loads(buildah("inspect", "--type", "image", self.reference))
        config: dict[str, Any] = shown["OCIv1"]["config"]
        return config

    def run(self, *argv: str) -> str:
        """Runs a command in a throw-away container, as the image's user; returns its output."""
        container = buildah("from", "--pull-never", self.reference).strip()
        try:
            return buildah("run", "--isolation", "chroot", container, "--", *argv)
        finally:
            buildah("rm", container)

    def remove(self) -> None:
        """Deletes the image."""
        buildah("rmi", self.reference)


def base_image(scratch: Path) -> str:
    """The base: `$FINETUNE_BASE_IMAGE`, or Debian with its Python, made once and kept."""
    if given := os.environ.get(BASE_VARIABLE):
        return given
    if not buildah("images", "--quiet", "--filter", f"reference={BASE}").strip():
        make_base(scratch / "rootfs")
    return BASE


def make_base(folder: Path) -> None:
    """Installs a minimal Debian into a folder and commits it as an image."""
    argv = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(folder)]
    subprocess.run(argv, check=True, capture_output=True)
    container = buildah("from", "scratch").strip()
    try:
        buildah("add", "--quiet", container, folder, "/")
        buildah("commit", "--quiet", container, BASE)
    finally:
        buildah("rm", container)
        shutil.rmtree(folder)


def build(dockerfile: str, reference: str, scratch: Path) -> Image:
    """Builds one of the project's Dockerfiles from the working tree."""
    arguments = {"BASE_IMAGE": base_image(scratch), "VERSION": "test", "REVISION": "test"}
    given = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    secrets = [word for each in build_secrets(scratch) for word in ("--secret", each)]
    flags = ["--isolation", "chroot", "--pull=never", "--layers=false", *given, *secrets]
    buildah("bud", *flags, "-f", dockerfile, "-t", reference, ".")
    return Image(reference)


def build_secrets(scratch: Path) -> list[str]:
    """The secrets of a build, made of this machine's pip settings."""
    printed = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False)
    found = {each["key"]: each["value"] for each in SETTING.finditer(printed.stdout)}
    settings = {key: value for key, value in found.items() if key in PASSED_ON}
    secrets = [f"id=pip,src={scratch}/pip.conf"]
    if certificates := found.get("cert"):
        settings["cert"] = "/run/secrets/certificates"
        secrets.append(f"id=certificates,src={certificates}")
    config = configparser.RawConfigParser()
    config.read_dict({"global": settings})
    with (scratch / "pip.conf").open("w") as file:
        config.write(file)
    return secrets
