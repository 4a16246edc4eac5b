"""Which library each contestant needs beside PyTorch, transformers and PEFT; imports none of them."""

from importlib.util import find_spec

NEEDS = {
    **dict.fromkeys(("ours", "eager", "sdpa"), ""),
    "flash": "flash_attn",
    "liger": "liger_kernel",
    "unsloth": "unsloth",
}


def missing(contestant: str) -> str:
    """Why it cannot run here, or nothing."""
    library = NEEDS[contestant]
    return f"{library} is not installed" if library and not find_spec(library) else ""
