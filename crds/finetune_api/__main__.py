"""Write or check every file that is generated from the API types.

`python -P -m finetune_api` writes, `python -P -m finetune_api --check` compares and fails on drift.
Called by `make generate` and `make check`.
"""

import sys
from pathlib import Path

from finetune_api import compatibility_page, crd, reference

ROOT = Path(__file__).parents[2]


def generated() -> dict[Path, str]:
    """Path below the repository -> what must stand there."""
    definition = crd.to_yaml(crd.definition())
    return {
        Path("crds/finetunejobs.yaml"): definition,
        Path("helm/finetune-operator/files/finetunejobs.yaml"): definition,
        Path("docs/reference/compatibility.md"): compatibility_page.page(),
        Path("docs/reference/api.md"): reference.api_page(),
        Path("docs/reference/reasons.md"): reference.reasons_page(),
    }


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` name those that differ; returns the exit code."""
    stale = [path for path, text in generated().items() if not _holds(ROOT / path, text)]
    for path in stale:
        if "--check" in arguments:
            sys.stderr.write(f"{path} is not what the API types say; run `make generate`\n")
        else:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(generated()[path], encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")
    return 1 if stale and "--check" in arguments else 0


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
