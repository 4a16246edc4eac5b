"""Parts of a resume: what is stored comes back, the order of rows, the pace, stops that wait."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainingArguments

from finetune_api.v1alpha1.reasons import Reason
from finetune_trainer import termination
from finetune_trainer.errors import StopRequestedError, TrainerError
from finetune_trainer.resume import randomness, sharding, tree, weights
from finetune_trainer.resume.pace import Pace
from finetune_trainer.resume.trainer import Resumable


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {
        0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3).to(torch.bfloat16)},
        "betas": (0.9, 0.1 + 0.2),
        "nothing": None,
        "list": [1, True, "a", float("inf"), torch.arange(4, dtype=torch.uint8)],
    }
    tree.write(tmp_path, "state", value)
    found = tree.read(tmp_path, "state")
    assert repr(found) == repr(value)
    assert found["betas"][1] == 0.1 + 0.2
    assert {type(key) for key in found} == {int, str}


def test_only_plain_values_are_stored(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Path"):
        tree.write(tmp_path, "state", {"a": [tmp_path]})


def test_every_generator_goes_on(tmp_path: Path) -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        normal = float(np.random.normal())
        return [random.gauss(0, 1), random.gauss(0, 1), normal, float(torch.randn(()))]

    draw()
    tree.write(tmp_path, "random", randomness.state())
    expected = [draw(), draw()]
    draw()
    randomness.restore(tree.read(tmp_path, "random"))
    assert [draw(), draw()] == expected


def test_other_tensors_are_refused() -> None:
    stored = weights.of(nn.Linear(2, 2))
    with pytest.raises(TrainerError) as caught:
        weights.restore(nn.Linear(2, 3), stored)
    assert caught.value.reason is Reason.RESUME_INCOMPATIBLE


def sharded(mesh: DeviceMesh) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A sharded layer that has learned for three steps, and its optimiser."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6))
    fully_shard(net, mesh=mesh)
    optimizer = torch.optim.AdamW(net.parameters())
    for _ in range(3):
        net(torch.randn(2, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return net, optimizer


def one_of_two(rank: int, folder: Path) -> None:
    """Saves a layer that is spread over two processes, and brings it back to an untrained one."""
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    net, optimizer = sharded(mesh)
    place = folder if rank == 0 else None
    tree.write(place, "weights", weights.of(net))
    tree.write(place, "optimizer", optimizer.state_dict())
    dist.barrier()

    other = nn.Sequential(nn.Linear(4, 6))
    fully_shard(other, mesh=mesh)
    weights.restore(other, tree.read(folder, "weights"))
    again = torch.optim.AdamW(other.parameters())
    again.load_state_dict(sharding.spread_state(tree.read(folder, "optimizer"), again))
    for model, its in ((net, optimizer), (other, again)):
        torch.manual_seed(5)
        model(torch.randn(2, 4)).square().sum().backward()
        its.step()
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert isinstance(theirs, DTensor)
        assert torch.equal(mine.to_local(), theirs.to_local())
    dist.destroy_process_group()


def test_tensors_that_are_spread_over_processes_are_stored_whole(tmp_path: Path) -> None:
    children = []
    for rank in range(2):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                one_of_two(rank, tmp_path)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0, 0]
    assert tree.read(tmp_path, "weights")["0.weight"].shape == (6, 4)


class Rows(nn.Module):
    """A model with one weight and some dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)

    def forward(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.dropout(self.weight * row.float()) - 1).square().mean()}


class Recorded(Resumable, Trainer):
    """Records the rows of each step, and saves after one."""

    def __init__(self, folder: Path, save_at: int, split: int, steps: int) -> None:
        self.seen: list[list[int]] = []
        self.losses: list[float] = []
        self._at, self._folder, self._split = save_at, folder, split
        rows = {"row": list(range(19)), "length": [1 + n % 7 for n in range(19)]}
        arguments = TrainingArguments(
            output_dir=str(folder / "trainer"),
            per_device_train_batch_size=4 // split,
            gradient_accumulation_steps=split,
            max_steps=steps,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,
        )
        super().__init__(
            model=Rows(),
            args=arguments,
            train_dataset=Dataset.from_dict(rows),
            data_collator=lambda rows: {"row": torch.tensor([each["row"] for each in rows])},
        )

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
        self.seen.append(inputs["row"].tolist())
        return model(**inputs)["loss"]

    def log(self, logs: dict[str, float], *_: Any) -> None:
        if "loss" not in logs:
            return
        self.losses.append(logs["loss"])
        if self.state.global_step == self._at:
            self.capture(self._folder / "saved")

    def steps(self) -> list[list[int]]:
        """The rows of each step."""
        # 19 rows in batches of 4: four steps of whole passes, and one that is cut short.
        passes, found = iter(self.seen), []
        while True:
            step: list[int] = []
            while len(step) < 4 and (part := next(passes, None)) is not None:
                step += part
                if len(found) % 5 == 4 and len(step) == 3:
                    break
            if not step:
                return found
            found.append(step)


@pytest.mark.parametrize("at", [3, 7, 10])
def test_no_row_is_seen_twice_or_left_out_in_the_middle_or_at_the_end_of_a_pass(
    at: int, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    whole = Recorded(tmp_path, at, split=2, steps=15)
    whole.train()
    order = whole.steps()
    assert [len(step) for step in order] == [4, 4, 4, 4, 3] * 3
    for first in (0, 5, 10):
        assert sorted(row for step in order[first : first + 5] for row in step) == list(range(19))
    assert order[:5] != order[5:10]

    torch.manual_seed(99)
    again = Recorded(tmp_path, 0, split=2, steps=15)
    again.train(resume_from_checkpoint=str(tmp_path / "saved"))
    assert again.seen == whole.seen[len(whole.seen) - len(again.seen) :]
    assert again.losses == whole.losses[at:]
    assert torch.equal(again.model.weight, whole.model.weight)


def test_a_step_has_the_same_rows_however_it_is_split(tmp_path: Path) -> None:
    orders = []
    for split in (1, 2, 4):
        torch.manual_seed(split)
        trainer = Recorded(tmp_path, 0, split=split, steps=10)
        trainer.train()
        flat = [row for rows in trainer.seen for row in rows]
        orders.append([sorted(flat[first : first + 4]) for first in (0, 4, 8, 12, 19, 23)])
    assert orders[0] == orders[1] == orders[2]


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def paced(step: float, wait: float) -> tuple[Pace, Clock]:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(6):
        clock.now += step
        pace.step_done()
    pace.saved(wait)
    return pace, clock


def test_saves_are_five_minutes_apart_or_cost_one_per_cent() -> None:
    assert paced(2.0, 0.1)[0].steps_between() == 150
    # 6 s of waiting are one per cent of 600 s.
    assert paced(2.0, 6.0)[0].steps_between() == 300
    # But no more than half an hour is put at risk.
    assert paced(10.0, 60.0)[0].steps_between() == 180


def test_a_step_is_finished_only_if_it_and_the_save_fit_into_the_grace() -> None:
    pace, clock = paced(10.0, 1.0)
    clock.now += 4.0
    # 30 s less 2 s for the end and 5 s for the save; 6 s of the step are left.
    assert pace.allowance(30, 5.0) == 23.0
    assert pace.allowance(12, 5.0) == 0.0
    assert Pace(clock).allowance(30, 5.0) == 0.0


@pytest.fixture
def _installed() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGALRM)
    termination.install()
    yield
    termination.ignore()
    signal.signal(signal.SIGALRM, handler)


def work_on(seconds: float) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(seconds)


def send() -> None:
    work_on(0.01)


@pytest.mark.usefixtures("_installed")
class TestStops:
    """SIGTERM in training waits for the step; nowhere else, and not twice."""

    def test_it_raises_where_nothing_is_deferred(self) -> None:
        with pytest.raises(StopRequestedError, match="SIGTERM"):
            send()

    def test_it_waits_for_the_step(self) -> None:
        seen: list[str] = []
        with pytest.raises(StopRequestedError):
            self.work(seen)
        assert seen == ["SIGTERM"]

    def work(self, seen: list[str]) -> None:
        with termination.deferred(lambda: 5.0):
            send()
            request = termination.requested()
            seen += [request.name] if request else []

    def test_a_second_one_does_not_wait(self) -> None:
        seen: list[str] = []
        with pytest.raises(StopRequestedError):
            self.go_on_twice(seen)
        assert seen == ["once"]

    def go_on_twice(self, seen: list[str]) -> None:
        with termination.deferred(lambda: 5.0):
            send()
            seen.append("once")
            send()
            seen.append("twice")

    def test_a_step_that_takes_too_long_is_given_up(self) -> None:
        begin = time.monotonic()
        with pytest.raises(StopRequestedError), termination.deferred(lambda: 0.1):
            work_on(5)
        assert time.monotonic() - begin < 2

    def test_without_time_it_raises_at_once(self) -> None:
        with pytest.raises(StopRequestedError), termination.deferred(lambda: 0.0):
            send()

    def test_an_evaluation_does_not_wait(self) -> None:
        with (
            termination.deferred(lambda: 5.0),
            pytest.raises(StopRequestedError),
            termination.at_once(),
        ):
            send()

    def test_an_evaluation_does_not_begin_after_it(self) -> None:
        seen: list[str] = []
        with pytest.raises(StopRequestedError):
            self.evaluate_late(seen)
        assert not seen

    def evaluate_late(self, seen: list[str]) -> None:
        with termination.deferred(lambda: 5.0):
            send()
            with termination.at_once():
                seen.append("begun")
