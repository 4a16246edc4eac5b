"""One dev cluster for all tests of this folder: it holds the definition and nothing of ours runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster.cluster import DevCluster

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    started = DevCluster.start(tmp_path_factory.mktemp("cluster"), images={})
    try:
        started.kubectl("apply", "-f", str(ROOT / "crds/finetunejobs.yaml"))
        started.kubectl("wait", "--for=condition=Established", "crd/finetunejobs.finetune.dev")
        yield started
    finally:
        started.stop()
