from pathlib import Path

import pytest

from finetune_trainer import environment


def test_places_in_a_pod(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("certificate")
    variables = {
        "FINETUNE_SCRATCH": "/scratch",
        "FINETUNE_STORAGE_CREDENTIALS": "/credentials",
        "FINETUNE_CA_BUNDLE": str(tmp_path),
        "FINETUNE_TERMINATION_LOG": "/dev/termination-log",
        "FINETUNE_VOLUME_DATA": "/volumes/data",
    }
    found = environment.read(variables, Path("/unused"))
    assert (found.scratch, found.credentials) == (Path("/scratch"), Path("/credentials"))
    assert found.ca_bundle == tmp_path / "ca.crt"
    assert found.volume("data") == Path("/volumes/data")
    assert found.volume("other") is None


def test_laptop_has_none_of_them() -> None:
    found = environment.read({}, Path("/tmp/x"))
    assert found.scratch == Path("/tmp/x")
    assert (found.credentials, found.ca_bundle, found.termination_log) == (None, None, None)


@pytest.mark.parametrize(
    ("content", "quota"), [("max 100000", None), ("50000 100000", 1), ("150000 100000", 2)]
)
def test_cpus_are_those_of_the_cgroup(tmp_path: Path, content: str, quota: int | None) -> None:
    (tmp_path / "cpu.max").write_text(content)
    everything = environment.cpu_count(tmp_path / "absent")
    expected = min(quota, everything) if quota else everything
    assert environment.cpu_count(tmp_path / "cpu.max") == expected


def test_libraries_look_nothing_up_and_cache_in_scratch() -> None:
    variables = {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "3"}
    environment.prepare_libraries(variables, Path("/scratch"))
    assert (variables["HF_HUB_OFFLINE"], variables["HF_HUB_DISABLE_TELEMETRY"]) == ("1", "1")
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["HF_HOME"].startswith("/scratch/")
