"""The chips that kernels are compiled for, and what one block of threads may take of them.

From NVIDIA's CUDA programming guide, "Technical specifications per compute capability". Read by
`compilation` and `table`, and by `benchmarks/gpu_ops.py`.
"""

from dataclasses import dataclass

# Registers of one thread, and of all threads of a block, on every chip below.
MAX_THREAD_REGISTERS = 255
MAX_BLOCK_REGISTERS = 65536
THREADS_OF_A_WARP = 32


@dataclass(frozen=True)
class Chip:
    """A compute capability.

    Attributes:
        capability: Major and minor number in one, as compilers want it.
        examples: Products that have it.
        shared_memory: Bytes that one block can have, with opt-in.
    """

    capability: int
    examples: str
    shared_memory: int

    @property
    def name(self) -> str:
        """Its name in tables and compilers' options."""
        return f"sm_{self.capability}"


CHIPS = (
    Chip(80, "A100", 163 * 1024),
    Chip(86, "RTX 3090, A10", 99 * 1024),
    Chip(89, "RTX 4090, L4, L40S", 99 * 1024),
    Chip(90, "H100, H200", 227 * 1024),
    Chip(100, "B200", 227 * 1024),
    Chip(120, "RTX 5090", 99 * 1024),
)
