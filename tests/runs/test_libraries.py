"""What a job does not use is not imported by a real run, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.tiny_models import pairs, write_jsonl

NOT_FOR_SFT = {
    "bitsandbytes": "the base is not quantised, and the optimiser has 32 bits",
    "deepspeed": "the strategy is not ZeRO",
    "scipy": "adapters do not start from LoftQ",
    "torch._inductor.compile_fx": "nothing is compiled",
    "torch.utils.tensorboard": "the job has it switched off",
    "trl.trainer.dpo_trainer": "another method",
    "trl.trainer.grpo_trainer": "another method",
    "trl.experimental": "other methods",
    "finetune_trainer.preference": "other methods",
    "finetune_trainer.ppo": "another method",
    "finetune_trainer.rewards": "online methods",
    "matplotlib": "nothing is drawn",
    "kubernetes": "the trainer talks to no cluster",
}


# The command itself, which ends at once; here it first tells what it has imported.
TELLING = """
import os, sys
from pathlib import Path
from finetune_trainer.__main__ import run
os._exit = lambda code: print(code, *(name for name, each in sys.modules.items() if each))
run(Path(sys.argv[1]))
"""


def test_a_run_imports_nothing_for_others(laptop: Any, model_folder: Path) -> None:
    write_jsonl(laptop.folder / "train.jsonl", pairs(8))
    job = {
        "model.source": f"file://{model_folder}",
        "data.train": [{"source": f"file://{laptop.folder}/train.jsonl"}],
        "training": {"maxSteps": 1, "batchSize": 4},
        "tracking": {"tensorboard": False},
        "output.uri": f"file://{laptop.folder}/out",
    }
    command = [sys.executable, "-P", "-c", TELLING, str(laptop.manifest(job))]
    variables = {**os.environ, "FINETUNE_SCRATCH": str(laptop.folder / "scratch")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=variables)
    code, *imported = done.stdout.splitlines()[-1].split()
    assert code == "0", done.stderr[-3000:]
    assert "trl.trainer.sft_trainer" in imported
    unasked = {
        name: why
        for name, why in NOT_FOR_SFT.items()
        for each in imported
        if each == name or each.startswith(f"{name}.")
    }
    assert not unasked
