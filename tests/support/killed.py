"""Processes that publish and get killed: targets for `multiprocessing`, without torch.

A fork server imports everything once, so that a test can spend a process a kill.
"""

import multiprocessing
import random
import resource
import shutil
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.status import Plan
from finetune_trainer import publish
from finetune_trainer.checkpoints import Fence
from finetune_trainer.errors import TrainerError
from finetune_trainer.output_manifest import Verification
from finetune_trainer.sources import ModelSource
from finetune_trainer.storage import Place, s3
from support.checkpoints import about, checkpoint, claimed, run, s3_place

MEBI = 1024 * 1024
PART = 5 * MEBI


def context() -> ForkServerContext:
    """Where the processes of a test come from."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["boto3", "boto3.s3.transfer", "support.killed"])
    return found


@dataclass(frozen=True)
class Where:
    """How a process finds the store and its own folder."""

    uri: str
    endpoint: str
    secret: Path
    folder: Path

    def open(self) -> Place:
        """The output, with parts as small as S3 allows."""
        s3.PART_SIZE = s3.MULTIPART_THRESHOLD = PART
        return s3_place(self.uri, self.endpoint, self.secret)


def publish_checkpoint(where: Where, attempt: int, step: int) -> None:
    """Publish a checkpoint of three parts and a small file."""
    folder = checkpoint(where.folder / f"{attempt}-{step}", step, 11)
    claimed(where.open(), attempt).publish(folder, step, about())


def publish_outputs(where: Where, attempt: int, rounds: int, barrier: Any, answers: Any) -> None:
    """Publish output after output, each at the moment when another process does the same."""
    chance = random.Random(attempt)  # noqa: S311 - a pause, no secret
    root = where.open()
    for number in range(rounds):
        output, given = root.below(f"round-{number}"), run(attempt)
        folder = where.folder / f"{attempt}-{number}"
        folder.mkdir(parents=True)
        (folder / "adapter.safetensors").write_text(f"attempt {attempt}")
        place = publish.attempt_place(output, given)
        facts: Any = ([], Plan(rows=1), None)
        base = ModelSource.of_folder(folder, "s3://models/base")
        barrier.wait(60)
        try:
            fence = Fence(output, given) if number % 2 else None
            if fence:
                fence.take()
            files = publish.upload(folder, place)
            proof = Verification(max_logit_difference=0, tolerance=1)
            manifest = publish.make_manifest(given, base, place, files, facts, proof)
            time.sleep(chance.random() * 0.02)
            outcome = publish.write_manifest(output, given, manifest, fence).outcome
        except TrainerError as error:
            outcome = str(error.reason)
        answers.put((number, attempt, outcome))


def transfer(where: Where, size: int, answers: Any) -> None:
    """Send a file of zeros there and back; answers by how much the process grew, in bytes."""
    place = where.open()
    place.put_new("warm-up", b"x")
    big = where.folder / "big"
    with big.open("wb") as file:
        file.truncate(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    place.put(big, "big")
    place.fetch([file for file in place.files() if file.name == "big"], where.folder / "got")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shutil.rmtree(where.folder)
    answers.put((after - before) * 1024)
