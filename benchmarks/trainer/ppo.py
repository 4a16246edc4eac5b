"""The case PPO: ours with its fast paths against ours without them, for TRL has no PPO any more.

Without them, logits of all answers are kept, prompts are padded, and PEFT's own layers run, as in a plain
trainer.
"""

from pathlib import Path

from trainer.case import LORA, OURS, Case, run_job, write_job
from trainer.workplace import Workplace, prompts

TOKENS = 32


def job(place: Workplace) -> Path:
    """Our manifest."""
    block = {"rewardModel": f"file://{_judge(place)}", "generation": {"maxNewTokens": TOKENS}}
    method = {"type": "PPO", "ppo": block}
    data = place.data("PPO", prompts(place.rows))
    return write_job(place, "PPO", data, {"method": method, "tuning": LORA})


def _judge(place: Workplace) -> Path:
    """A reward model that likes letters; it is small, so that the policy is what takes time."""
    from transformers import AutoTokenizer

    from support.taste import taste_model

    folder = place.folder / "taste"
    if not folder.exists():
        taste_model(folder, AutoTokenizer.from_pretrained(place.model()))
    return folder


def ours(place: Workplace) -> None:
    """Our run."""
    run_job(place, job(place))


def plain(place: Workplace) -> None:
    """The same without fast paths."""
    from finetune_trainer.fast import answer_head, kernels

    kernels.install = lambda ready, _: ready
    # A trained output layer is the reason for which PPO reads logits.
    answer_head.head_is_frozen = lambda _: False
    run_job(place, job(place))


CASE = Case(
    name="PPO",
    contestants={OURS: ours, "ours without fast paths": plain},
    speeds={"ours without fast paths": 1.0},
    told=f"Answers of {TOKENS} tokens. The library has no PPO in this version, so ours is compared with "
    "itself without fast paths.",
)
