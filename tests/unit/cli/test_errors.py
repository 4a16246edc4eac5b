"""The plugin answers trouble with a sentence and its exit code, never with a traceback."""

import subprocess
import sys
from pathlib import Path

PLUGIN = str(Path(sys.executable).parent / "kubectl-finetune")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PLUGIN, *words], capture_output=True, text=True, check=False, env=environment
    )


def test_an_absent_kubeconfig_is_said() -> None:
    done = run("list", KUBECONFIG="/no/such/file")
    assert done.returncode == 3
    assert "error: the kubeconfig cannot be used" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_watch_and_json_exclude_each_other() -> None:
    done = run("status", "demo", "--watch", "-o", "json", KUBECONFIG="/no/such/file")
    assert done.returncode == 3
    assert "--watch shows text" in done.stderr
