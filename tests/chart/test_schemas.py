"""Everything the chart renders passes kubeconform, against the schemas of a real API server."""

import json
import subprocess
from pathlib import Path

import pytest

from devcluster.binaries import tool
from devcluster.cluster import DevCluster
from support.chart import CHART, template
from support.openapi_schemas import write_schemas

CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))


@pytest.fixture(scope="session")
def schemas(cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    write_schemas(json.loads(cluster.kubectl("get", "--raw", "/openapi/v2").stdout), folder)
    return folder


def kubeconform(schemas: Path, text: str) -> subprocess.CompletedProcess[str]:
    location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    argv = [str(tool("kubeconform")), "-strict", "-summary", "-schema-location", location]
    return subprocess.run(argv, input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", CI_VALUES, ids=lambda file: file.stem)
def test_rendered_objects_are_valid(schemas: Path, file: Path) -> None:
    done = kubeconform(schemas, template(files=[file]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Skipped: 0" in done.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("revisionHistoryLimit: 3", "revisionHistoryLimits: 3"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true"),
        ("replicas: 1", "replicas: one"),
        ("verbs: [get, list, watch]", "verb: [get, list, watch]"),
    ],
)
def test_a_wrong_field_is_found(schemas: Path, right: str, wrong: str) -> None:
    text = template()
    assert right in text
    done = kubeconform(schemas, text.replace(right, wrong))
    assert done.returncode == 1, done.stdout
