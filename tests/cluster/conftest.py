"""One dev cluster for all tests of this folder: it serves the definition, and nothing of ours runs."""

from collections.abc import Iterator

import pytest

from devcluster import DevCluster
from devcluster.processes import strays
from support import definition

SHELL = {"shell": ["/bin/sh", "-c"]}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    state = tmp_path_factory.mktemp("cluster")
    with DevCluster.start(state, images=SHELL, s3_buckets=["models"]) as started:
        definition.install(started)
        yield started
        started.stop()
        assert strays(state) == []
