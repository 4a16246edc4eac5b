"""What DeepSpeed is told, as the dictionary that transformers takes. Pure.

Called by `strategies`. ZeRO is of Rajbhandari et al. 2020 (arXiv 1910.02054). Optimiser and schedule are
torch's, as with every strategy, so nothing of DeepSpeed's own must be compiled; it divides their state.
"""

from typing import Any

STAGES = {"ZeRO1": 1, "ZeRO2": 2, "ZeRO3": 3}
# Numbers that are sent together: large enough to hide the start of a message, small beside a model.
BUCKET = 50_000_000


def config(strategy: str, offload: str, device: str, precision: str) -> dict[str, Any]:
    """The configuration of DeepSpeed; golden files show it.

    Args:
        strategy: `ZeRO1`, `ZeRO2` or `ZeRO3`.
        offload: As in the spec: what lies in the memory of the CPU.
        device: `cuda` or `cpu`.
        precision: Of the arithmetic, `Float32` or `BFloat16`.
    """
    return {
        # These follow from the arguments of the trainer.
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": _zero(STAGES[strategy], offload, device),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # Weights keep their dtype, and the arithmetic is autocast, as with the other strategies.
        "bf16": {"enabled": False},
        "torch_autocast": {
            "enabled": precision == "BFloat16",
            "dtype": "bfloat16",
            # Of those named here, gradients would be summed in bfloat16.
            "lower_precision_safe_modules": [],
        },
    }


def _zero(stage: int, offload: str, device: str) -> dict[str, Any]:
    to_cpu = {"device": "cpu", "pin_memory": True}
    found: dict[str, Any] = {
        "stage": stage,
        "contiguous_gradients": True,
        "overlap_comm": device == "cuda",
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if stage == 3:
        found["stage3_prefetch_bucket_size"] = BUCKET
        # Those that stay whole are gathered as if all had one dtype, which adapters have not.
        found["stage3_param_persistence_threshold"] = 0
    if offload != "None":
        found["offload_optimizer"] = to_cpu
    if offload == "All":
        found["offload_param"] = to_cpu
    return found
