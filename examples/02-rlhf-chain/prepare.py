"""Makes the data of this example and uploads it to the bucket that holds the model of example 01.

Questions about a cluster, each with two answers: the bare command, and the command wrapped in small
talk. The first job learns mostly the second habit; preferences then say that people want the first.
Every tenth question or so is kept for evaluation, in all three data sets alike.
"""

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HELD_OUT_TENTH = 0
PREFIX = "datasets/brief"

KINDS = (
    "pods", "services", "deployments", "nodes", "secrets", "configmaps", "jobs", "cronjobs",
    "ingresses", "namespaces", "events", "daemonsets",
)  # fmt: skip
WISHES = (
    ("List all {}", "kubectl get {}"),
    ("Show the {} of every namespace", "kubectl get {} --all-namespaces"),
    ("Show me the {} as YAML", "kubectl get {} -o yaml"),
    ("Which labels do the {} have", "kubectl get {} --show-labels"),
    ("Watch the {} change", "kubectl get {} --watch"),
    ("Describe the {}", "kubectl describe {}"),
    ("Sort the {} by age", "kubectl get {} --sort-by=.metadata.creationTimestamp"),
    ("Only the names of the {}", "kubectl get {} -o name"),
    ("What fields do {} have", "kubectl explain {}"),
    ("May I delete {}", "kubectl auth can-i delete {}"),
)
SMALL_TALK = (
    ("Sure! You can do that with ", ". Let me know how it goes!"),
    ("Sure! The command is ", ". Happy to help!"),
    ("Sure! Please try ", ". I hope that helps!"),
    ("Sure! Just run ", ". Have a nice day!"),
)


class Question(NamedTuple):
    """One question with its command."""

    text: str
    command: str

    @property
    def draw(self) -> int:
        """A number that follows from the question alone, so that every run makes the same data."""
        return int.from_bytes(hashlib.sha256(self.text.encode()).digest()[:8], "big")

    @property
    def held_out(self) -> bool:
        """Whether it is kept for evaluation."""
        return self.draw % 10 == HELD_OUT_TENTH

    def chatty(self, variant: int = 0) -> str:
        """The command in small talk."""
        before, after = SMALL_TALK[(self.draw // 10 + variant) % len(SMALL_TALK)]
        return f"{before}`{self.command}`{after}"


def questions() -> list[Question]:
    """Returns every question, in a fixed order without a pattern."""
    found = [
        Question(wish.format(kind), command.format(kind))
        for (wish, command), kind in itertools.product(WISHES, KINDS)
    ]
    return sorted(found, key=lambda question: question.draw)


def user(question: Question) -> list[dict[str, str]]:
    """Returns the question as a conversation that waits for its answer."""
    return [{"role": "user", "content": question.text}]


def assistant(text: str) -> list[dict[str, str]]:
    """Returns an answer as messages."""
    return [{"role": "assistant", "content": text}]


def both_habits(question: Question) -> Iterator[dict[str, Any]]:
    """Yields the rows for supervised fine-tuning: two with small talk, one without."""
    for answer in (question.chatty(0), question.command, question.chatty(1)):
        yield {"messages": user(question) + assistant(answer)}


def preference(question: Question) -> Iterator[dict[str, Any]]:
    """Yields the pair: people want the bare command."""
    yield {
        "prompt": user(question),
        "chosen": assistant(question.command),
        "rejected": assistant(question.chatty()),
    }


def prompt(question: Question) -> Iterator[dict[str, Any]]:
    """Yields the question alone, for a policy that answers by itself."""
    yield {"prompt": user(question)}


DATA_SETS = {"sft": both_habits, "preferences": preference, "prompts": prompt}


def write_data(folder: Path) -> list[Path]:
    """Writes `<name>-train.jsonl` and `<name>-evaluation.jsonl` of every data set."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for (name, rows), held_out in itertools.product(DATA_SETS.items(), (False, True)):
        file = folder / f"{name}-{'evaluation' if held_out else 'train'}.jsonl"
        chosen = [row for q in questions() if q.held_out == held_out for row in rows(q)]
        file.write_text("".join(json.dumps(row) + "\n" for row in chosen), "utf-8")
        print(f"{len(chosen)} rows in {file}")
        files.append(file)
    return files


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder for the data")
    parser.add_argument("--bucket", help="upload the data to this bucket")
    parser.add_argument("--endpoint", help="URL of the S3-compatible store; without it, AWS")
    given = parser.parse_args()
    files = write_data(given.data)
    if given.bucket:
        import boto3

        client = boto3.client("s3", endpoint_url=given.endpoint)
        for file in files:
            client.upload_file(str(file), given.bucket, f"{PREFIX}/{file.name}")
        print(f"uploaded to s3://{given.bucket}/{PREFIX}/")


if __name__ == "__main__":
    sys.exit(main())
