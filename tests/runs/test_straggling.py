"""Of two processes over gloo one sleeps in each forward pass: both are told which, until it is over."""

import subprocess
import sys

TWO = """
import time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from finetune_trainer import processes, straggling

dist.init_process_group("gloo")
sleeping = processes.rank() == 1

class Layer(torch.nn.Linear):
    def forward(self, rows):
        time.sleep(0.02 if sleeping else 0)
        return super().forward(rows)

class Trainer:
    def __init__(self):
        self.model, self.callbacks = Layer(4, 4), []
    def add_callback(self, callback):
        self.callbacks.append(callback)

trainer, told = Trainer(), []
straggling.install(trainer, "cpu", told.append)
[comparison] = trainer.callbacks
wrapped = DistributedDataParallel(trainer.model)
comparison.on_train_begin()

def steps(count):
    for _ in range(count):
        wrapped(torch.ones(2, 4)).sum().backward()
        comparison.on_step_end()

steps(straggling.EVERY_STEPS - 1)
assert told == []
steps(1)
[sentence] = told
assert sentence.startswith("process 1 on ") and "s a step" in sentence, sentence
sleeping = False
# Time that is not training does not count.
wrapped.eval()
if processes.rank() == 0:
    time.sleep(0.1)
    with torch.no_grad():
        trainer.model(torch.ones(2, 4))
wrapped.train()
for _ in range(straggling.EVERY_STEPS):
    time.sleep(0.01)
    steps(1)
assert told == [sentence, None], told
dist.destroy_process_group()
print("agreed")
"""


def test_the_one_that_sleeps_is_named_and_then_no_more() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "--no-python", sys.executable, "-c", TWO],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("agreed") == 2
