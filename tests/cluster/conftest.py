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
    images = {"finetune-trainer": FAKE}
    with Stack.start(folder, buckets=("models",), images=images, nodes=2) as started:
        started.apply_definition()
        started.install()
        yield started


@pytest.fixture(scope="module")
def namespace(stack: Stack, request: pytest.FixtureRequest) -> str:
    """A namespace of this module alone, so that jobs of two modules may have one name."""
    name: str = request.module.__name__.rpartition(".")[2].removeprefix("test_")
    stack.create_tenant(name)
    return name


@pytest.fixture
def tenant(stack: Stack, namespace: str) -> Iterator[Tenant]:
    """A user while the operator runs; it is killed afterwards."""
    stack.start_operator(FAST)
    yield Tenant(stack, namespace)
    stack.kill_operator()


@pytest.fixture
def as_operator(stack: Stack, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    """A user, while this process has the operator's rights in place of an operator."""
    assert stack.account is not None
    account = stack.cluster.kubeconfig_for_service_account(*vars(stack.account).values())
    monkeypatch.setenv("KUBECONFIG", str(account))
    return Tenant(stack, namespace)
