"""Two dev clusters for the tests of this folder.

In `cluster` the definition is served and nothing of ours runs; in `stack` the operator runs, with a fake
in place of the trainer.
"""

from collections.abc import Iterator

import pytest

from devcluster import DevCluster
from devcluster.processes import strays
from support import definition
from support.fakes import FAKE, FAST
from support.stack import Stack
from support.tenant import Tenant

SHELL = {"shell": ["/bin/sh", "-c"]}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    state = tmp_path_factory.mktemp("cluster")
    with DevCluster.start(state, images=SHELL, s3_buckets=["models"]) as started:
        definition.install(started)
        yield started
        started.stop()
        assert strays(state) == []


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("operator")
    with Stack.start(folder, buckets=("models",), images={"finetune-trainer": FAKE}) as started:
        started.apply_definition()
        started.install()
        started.create_tenant("team")
        yield started


@pytest.fixture
def tenant(stack: Stack) -> Iterator[Tenant]:
    """A user while the operator runs; it is killed afterwards."""
    stack.start_operator(FAST)
    yield Tenant(stack, "team")
    stack.kill_operator()
