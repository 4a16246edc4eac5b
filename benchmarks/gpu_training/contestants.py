"""Who trains the same model: ours, stock PEFT with three attentions, Liger and Unsloth.

Each is in a process of its own, for Liger and Unsloth exchange classes for good. Unsloth loads models from
folders only, so a folder of random weights is written for it.
Called by `worker`; `libraries` says what each needs.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from gpu_training.models import RANK, SHAPES, TARGETS, adapted_model, random_model

from finetune_kernels.patching import Foreign

ATTENTION = {"eager": "eager", "flash": "flash_attention_2"}


def model_of(
    contestant: str, shape: str, method: str, length: int, device: str
) -> tuple[Foreign, dict[str, int]]:
    """The adapted model, and how many layers of ours are in it."""
    if contestant == "unsloth":
        return _unsloth(shape, method, length), {}
    if contestant == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama()
    attention = ATTENTION.get(contestant, "sdpa")
    model = adapted_model(shape, method == "QLoRA", attention, device)
    if contestant == "ours":
        from finetune_kernels import patch

        return model, dict(patch(model, "Triton").layers)
    return model, {}


def _unsloth(shape: str, method: str, length: int) -> Foreign:
    # Log-probabilities of DPO need logits, which it gives only when told.
    os.environ["UNSLOTH_RETURN_LOGITS"] = str(int(method == "DPO"))
    folder = _folder(shape)
    # It must be imported before transformers, of which it exchanges classes.
    import unsloth

    model, _ = unsloth.FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=length, load_in_4bit=method == "QLoRA"
    )
    adapted = unsloth.FastLanguageModel.get_peft_model(
        *(model, RANK, list(TARGETS)),
        lora_alpha=2 * RANK,
        use_gradient_checkpointing="unsloth",
        random_state=0,
    )
    return adapted.train()


def _folder(shape: str) -> Path:
    """Random weights and a tokenizer of this shape, written once, by a process without Unsloth."""
    folder = Path(tempfile.gettempdir()) / f"finetune-benchmark-{shape}"
    if not (folder / "config.json").exists():
        command = [sys.executable, "-P", "-m", "gpu_training.contestants", shape, str(folder)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


def write_folder(shape: str, folder: Path) -> None:
    """Write the model as transformers saves it, the configuration last."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(SHAPES[shape]["vocab_size"])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, **{"unk_token": "w0"})),
        **{"unk_token": "w0", "bos_token": "w1", "eos_token": "w2", "pad_token": "w3"},
    )
    config = LlamaConfig(**SHAPES[shape], bos_token_id=1, eos_token_id=2, pad_token_id=3)
    model = random_model(config, "sdpa", "cpu")
    half_written = folder.with_suffix(".partial")
    model.save_pretrained(half_written)
    tokenizer.save_pretrained(half_written)
    half_written.rename(folder)


if __name__ == "__main__":
    write_folder(sys.argv[1], Path(sys.argv[2]))
