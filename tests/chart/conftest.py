"""One dev cluster for the chart tests, with nothing of ours in it at the start."""

from collections.abc import Iterator

import pytest

from devcluster.cluster import DevCluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    started = DevCluster.start(tmp_path_factory.mktemp("chart"), images={}, s3=False)
    try:
        yield started
    finally:
        started.stop()
