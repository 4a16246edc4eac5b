"""One installation for all tests of this folder, with a tiny model and data in its S3 store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.stack import BUCKET, FAST, Stack
from support.tenant import Tenant
from support.tiny_models import chats, pairs, tiny_llama, write_jsonl

BROKEN_LINE = 17
# Whole examples come first, each on a worker, so that the others' files fill the time beside them. The third
# file waits behind the first: xdist hands one out in advance.
FIRST = ("test_example_chain.py", "test_example_kubectl.py", "test_chaos.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(
        key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST)
    )


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lies in the store: models and data sets, good and bad."""
    root = tmp_path_factory.mktemp("inputs")
    tiny_llama(root / "models/tiny")
    tiny_llama(root / "models/pickled")
    (root / "models/pickled/model.safetensors").rename(root / "models/pickled/pytorch_model.bin")
    write_jsonl(root / "data/train.jsonl", pairs(64))
    write_jsonl(root / "data/chats.jsonl", chats(64))
    write_jsonl(root / "data/evaluation.jsonl", pairs(16, seed=1))
    lines = (root / "data/train.jsonl").read_text().splitlines()
    lines[BROKEN_LINE - 1] = lines[BROKEN_LINE - 1][:-5]
    (root / "data/broken.jsonl").write_text("\n".join(lines))
    (root / "data/empty.jsonl").write_text("")
    return root


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Iterator[Stack]:
    with Stack.start(tmp_path_factory.mktemp("stack")) as started:
        started.apply_definition()
        started.install()
        started.create_tenant("team")
        client = started.s3.client()
        for path in sorted(inputs.rglob("*")):
            if path.is_file():
                client.upload_file(str(path), BUCKET, str(path.relative_to(inputs)))
        started.start_operator(FAST)
        yield started


@pytest.fixture(scope="session")
def tenant(stack: Stack) -> Tenant:
    return Tenant(stack, "team")


@pytest.fixture
def restart_operator(stack: Stack) -> Iterator[None]:
    """For tests that stop the operator or change its settings: the usual one runs again after."""
    yield
    stack.stop_operator()
    stack.start_operator(FAST)
