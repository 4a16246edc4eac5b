"""Our names of preference methods and their settings, translated to TRL's.

The counterpart of `arguments` for the methods that learn from preferences.
"""

from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.method import DPO, WeightedLoss
from finetune_trainer.arguments import trainer_arguments
from finetune_trainer.resolve import Settings

# Our name of a loss -> TRL's.
DPO_LOSSES = {
    "Sigmoid": "sigmoid",
    "Hinge": "hinge",
    "IPO": "ipo",
    "ExoPair": "exo_pair",
    "NCAPair": "nca_pair",
    "Robust": "robust",
    "BCOPair": "bco_pair",
    "SPPOHard": "sppo_hard",
    "AOT": "aot",
    "AOTUnpaired": "aot_unpaired",
    "APOZero": "apo_zero",
    "APODown": "apo_down",
    "DiscoPOP": "discopop",
    "SFT": "sft",
    "SigmoidNorm": "sigmoid_norm",
}

# Arguments of TRL's configurations that are the same for every run.
ROWS_ARE_READY: dict[str, Any] = {
    # Rows come tokenized and cut.
    "max_length": None,
    # Columns that TRL does not know are for the sampler.
    "remove_unused_columns": False,
    # A policy and its reference must be the same function while their weights are the same.
    "disable_dropout": True,
}


def dpo_arguments(settings: Settings, folder: Path, block: DPO) -> dict[str, Any]:
    """Keyword arguments of `trl.DPOConfig`; the SFT term is not among its losses, see `likelihood`."""
    pairwise = [loss for loss in block.losses if loss.type != "SFT"]
    return {
        **trainer_arguments(settings, folder),
        **ROWS_ARE_READY,
        "beta": block.beta,
        "label_smoothing": block.label_smoothing,
        "loss_type": [DPO_LOSSES[loss.type] for loss in pairwise],
        "loss_weights": [loss.weight for loss in pairwise],
        # The reference is ours.
        "precompute_ref_log_probs": False,
        # Balancing the experts of a mixture belongs to pretraining; with it, no first loss is known.
        "router_aux_loss_coef": 0.0,
    }


def reward_arguments(settings: Settings, folder: Path, center: float) -> dict[str, Any]:
    """Keyword arguments of `trl.RewardConfig`."""
    return {
        **trainer_arguments(settings, folder),
        **ROWS_ARE_READY,
        "center_rewards_coefficient": center or None,
    }


def answer_arguments(settings: Settings, folder: Path) -> dict[str, Any]:
    """Keyword arguments of `transformers.TrainingArguments` for the trainers of our own losses."""
    return {**trainer_arguments(settings, folder), "remove_unused_columns": False}


def judged_arguments(settings: Settings, folder: Path) -> dict[str, Any]:
    """The same for KTO, whose rows keep their place beside those that they are held against."""
    return {**answer_arguments(settings, folder), "train_sampling_strategy": "sequential"}


def likelihood(losses: list[WeightedLoss]) -> float:
    """Weight of the SFT term, which is a mean over the tokens of a whole step."""
    return sum(loss.weight for loss in losses if loss.type == "SFT")
