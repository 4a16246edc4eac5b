"""The learning rate where the user gave none: by method, tuning and task. A pure table.

Used by `resolve`. The rates are those that the well-known trainers and papers agree on; where they
differ, the lower one stands, because too low a rate costs time and too high a one costs the model.
"""

from finetune_api.v1alpha1.method import MethodType
from finetune_api.v1alpha1.model import Task
from finetune_api.v1alpha1.tuning import TuningType

_PREFERENCE = ("DPO", "IPO", "KTO", "ORPO", "CPO", "SimPO")
_ONLINE = ("PPO", "GRPO", "RLOO", "Distillation")
_LOW_RANK = ("LoRA", "QLoRA", "Other")

# Method group -> rate for all weights, rate for low-rank adapters.
_RATES = {
    "supervised": (1e-5, 2e-4),
    "reward": (1e-5, 1e-4),
    "preference": (5e-7, 5e-6),
    "online": (1e-6, 1e-5),
}
# Encoders and encoder-decoders are small and start from another objective.
_TASK_RATES: dict[Task, tuple[float, float]] = {
    "text-classification": (3e-5, 5e-4),
    "token-classification": (3e-5, 5e-4),
    "fill-mask": (5e-5, 5e-4),
    "text2text-generation": (1e-4, 1e-3),
}
# Few parameters far from the loss need large steps: Lester et al. 2021 (arXiv 2104.08691), Li and
# Liang 2021 (arXiv 2101.00190), Liu et al. 2022 (arXiv 2205.05638) go up to 0.3; these are the
# rates of PEFT's own examples, rounded down.
_FEW_PARAMETERS: dict[TuningType, float] = {
    "PromptTuning": 1e-2,
    "PrefixTuning": 1e-2,
    "PTuning": 1e-3,
    "IA3": 3e-3,
    # Its singular values start at zero; its paper takes 5e-4 to 2.2e-3.
    "AdaLoRA": 1e-3,
}


def learning_rate(method: MethodType, tuning: TuningType, task: Task) -> tuple[float, str]:
    """The peak learning rate, and why."""
    group = _group(method)
    full, low_rank = _TASK_RATES.get(task, _RATES[group])
    why = f"usual for {tuning} {method}" if task == "text-generation" else f"usual for {task}"
    if tuning in _LOW_RANK:
        return low_rank, why
    if tuning == "Full":
        return full, why
    rate = _FEW_PARAMETERS[tuning]
    # Methods that start from a finished model take small steps whatever is trained.
    scale = low_rank / _RATES["supervised"][1] if group in ("preference", "online") else 1.0
    return rate * scale, why


def _group(method: MethodType) -> str:
    if method in _PREFERENCE:
        return "preference"
    if method in _ONLINE:
        return "online"
    return "reward" if method == "Reward" else "supervised"
