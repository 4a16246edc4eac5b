"""Asks the base model and the tuned model the same held-out questions, and measures both.

Run by hand or by `make demo` after the job is Complete, in a fresh process with plain transformers
and PEFT: what it prints depends on nothing but the files that the job left in the bucket. The
adapter is a folder or the `s3://` URI in `status.output.uri`.
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

MAX_NEW_TOKENS = 60


def fetch(uri: str, endpoint: str | None, folder: Path) -> Path:
    """Downloads a published adapter; returns the folder that holds it."""
    import boto3

    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=endpoint)
    prefix = prefix.rstrip("/") + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for key in [entry["Key"] for page in pages for entry in page.get("Contents", ())]:
        file = folder / key.removeprefix(prefix)
        file.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, key, str(file))
    if not (folder / "adapter_config.json").exists():
        raise SystemExit(f"ask.py: {uri} holds no adapter; is the job Complete?")
    return folder


class Assistant:
    """The base model with the adapter on it, which can be switched off."""

    def __init__(self, model: Path, adapter: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.model = PeftModel.from_pretrained(base, str(adapter)).eval()

    def prompt(self, messages: list[dict[str, str]]) -> torch.Tensor:
        """Returns the tokens up to where the answer begins, shape (1, length)."""
        tokens = self.tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return tokens["input_ids"]

    def answer(self, messages: list[dict[str, str]]) -> str:
        """Returns the model's most likely answer (greedy)."""
        prompt = self.prompt(messages)
        tokens = self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        )
        return self.tokenizer.decode(tokens[0, prompt.shape[1] :], skip_special_tokens=True)

    def loss(self, rows: list[list[dict[str, str]]]) -> float:
        """Returns the mean loss in nats of a token of the answers, the end of turn included."""
        total, count = 0.0, 0
        for messages in rows:
            prompt = self.prompt(messages)
            wanted = messages[-1]["content"] + self.tokenizer.eos_token
            answer = self.tokenizer(wanted, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.inference_mode():
                logits = self.model(torch.cat([prompt, answer], dim=1)).logits
            predicted = logits[0, prompt.shape[1] - 1 : -1]
            total += torch.nn.functional.cross_entropy(predicted, answer[0], reduction="sum").item()
            count += answer.shape[1]
        return total / count


def examine(assistant: Assistant, rows: list[list[dict[str, str]]], count: int) -> dict[str, Any]:
    """Returns held-out loss and answers, without the adapter (before) and with it (after)."""
    asked = rows[:: max(1, len(rows) // count)][:count]
    with assistant.model.disable_adapter():
        loss_before = assistant.loss(rows)
        before = [assistant.answer(messages) for messages in asked]
    after = [assistant.answer(messages) for messages in asked]
    answers = [
        {"question": row[-2]["content"], "reference": row[-1]["content"], "before": b, "after": a}
        for row, b, a in zip(asked, before, after, strict=True)
    ]
    return {"lossBefore": loss_before, "lossAfter": assistant.loss(rows), "answers": answers}


def show(found: dict[str, Any]) -> None:
    """Prints the findings for people."""
    for answer in found["answers"]:
        print(f"\nQuestion   {answer['question']}")
        for name in ("reference", "before", "after"):
            text = answer[name].strip().replace("\n", "\n           ")
            print(f"{name:10} {text}")
    print(f"\nHeld-out loss {found['lossBefore']:.3f} before, {found['lossAfter']:.3f} after")


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--adapter", required=True, help="folder or s3:// URI of the adapter")
    parser.add_argument("--evaluation", type=Path, default=Path("data/evaluation.jsonl"))
    parser.add_argument("--endpoint", help="URL of the S3-compatible store; without it, AWS")
    parser.add_argument("--questions", type=int, default=3, help="how many are asked")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser.parse_args()


def main() -> None:
    """Runs the program."""
    given = arguments()
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries, about each other
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    lines = given.evaluation.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["messages"] for line in lines]
    with tempfile.TemporaryDirectory() as scratch:
        remote = given.adapter.startswith("s3://")
        adapter = (
            fetch(given.adapter, given.endpoint, Path(scratch)) if remote else Path(given.adapter)
        )
        found = examine(Assistant(given.model, adapter), rows, max(1, given.questions))
    print(json.dumps(found)) if given.json else show(found)


if __name__ == "__main__":
    sys.exit(main())
